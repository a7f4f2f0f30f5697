"""README.md: its program runs, and prints what it says it prints."""
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def test_the_program():
    program, *_ = blocks("python")
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], cwd=ROOT, capture_output=True,
                          text=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    *table, last = done.stdout.splitlines()
    assert "\n".join(table) + "\n" in blocks("text")
    assert re.fullmatch(r"loss \d\.\d{3}", last) and float(last.split()[1]) < 2.0


def test_the_other_programs_are_programs():
    programs = blocks("python")
    assert len(programs) >= 2
    assert all(compile(program, "README.md", "exec") for program in programs)


def test_the_two_commands_and_the_figure_come_first():
    first_screen = README[:README.index("## ")]
    assert "docs/figures/lr_transfer.png" in first_screen and (ROOT / "docs/figures/lr_transfer.png").is_file()
    commands = blocks("sh")[0]
    assert [line.rpartition(" -m ")[2] for line in commands.splitlines()] == ["demos.mnist_mlp", "pytest"]
