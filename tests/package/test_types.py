"""The type checker passes on the library and on a user's program, and finds what is wrong in another."""
import os
import pathlib
import re
import runpy
import subprocess
import sys

import haiku_mup

TYPED = pathlib.Path(__file__).parent / "typed"
LIBRARY = pathlib.Path(haiku_mup.__file__).parent


def checked():
    """Returns what mypy says, and its errors as (file, line, code)."""
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", "--cache-dir", os.devnull,
         "-p", "haiku_mup", "-m", "program", "-m", "mistakes"],
        cwd=TYPED.parents[2], capture_output=True, text=True, encoding="utf-8", check=False)
    lines = re.findall(r"^(.+?):(\d+): error: .*\[([\w-]+)\]$", done.stdout, re.MULTILINE)
    return done.stdout + done.stderr, [(pathlib.Path(f).name, int(line), code) for f, line, code in lines]


def marked():
    """Returns the lines that mistakes.py marks as wrong, as (file, line, code)."""
    lines = (TYPED / "mistakes.py").read_text(encoding="utf-8").splitlines()
    return [("mistakes.py", n, line.rpartition("# error: ")[2])
            for n, line in enumerate(lines, 1) if "# error: " in line]


def test_the_users_program_runs():
    assert len(runpy.run_path(str(TYPED / "program.py"))["mup"].table()) > 5


def test_the_checker_finds_all_the_mistakes_and_nothing_else():
    text, errors = checked()
    assert errors == marked() and len(errors) > 15, text
    assert f"Found {len(errors)} errors in 1 file (checked {len(list(LIBRARY.rglob('*.py'))) + 2} " in text
