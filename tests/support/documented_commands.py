"""Collects the commands of README and documentation, runs the short ones, and says when the others last ran.

python tests/support/documented_commands.py             lists them, each with its last run
    --run                                               runs each that may end within a minute
    --run --only adaptive --minutes 60                  runs these, and gives them more time

They run one after another in a clone of the last commit, so that nothing here is overwritten. What ends is
recorded in docs/commands.json, with date, commit and seconds.
"""
import argparse
import datetime
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).resolve().parents[2]
RECORDS = ROOT / "docs" / "commands.json"
START = r"python -m [a-z]"
INLINE = {".rst": re.compile(rf"``({START}[^`]*)``"), ".md": re.compile(rf"`({START}[^`]*)`")}
LINE = re.compile(rf"^\s*({START}.*)$", re.MULTILINE)
INSTALLS = ("python -m pip", "python -m nox", "python -m build")       # .ci/run has the README's two
PLACEHOLDERS = re.compile(r"\b(PYTHON|FOLDER|HOST|PORT|FILE|ADDRESS|PIECE)\b|… ?|\.\.\.|&$")


# --- what there is ---

def pages() -> list[pathlib.Path]:
    """Returns README and the pages of the documentation."""
    found = [path for end in ("rst", "md") for path in (ROOT / "docs").rglob(f"*.{end}")]
    return [ROOT / "README.md", *sorted(path for path in found if "_build" not in path.parts)]


def collect() -> dict[str, list[str]]:
    """Returns {command: the pages that have it}, in the order of the pages."""
    found: dict[str, list[str]] = {}
    for path in pages():
        for command in commands_of(path.read_text(encoding="utf-8"), path.suffix):
            where = found.setdefault(command, [])
            name = str(path.relative_to(ROOT))
            if name not in where:
                where.append(name)
    return found


def commands_of(text: str, suffix: str) -> Iterator[str]:
    """Yields the commands in a page, in code blocks and inside of lines, without their comments.

    Args:
      text: of the page.
      suffix: ".rst" or ".md".
    """
    places = [(match.start(), match[1]) for pattern in (LINE, INLINE[suffix])
              for match in pattern.finditer(text)]
    for _, command in sorted(set(places)):
        if "`" not in command:                          # a line that starts with a command in a sentence
            yield " ".join(re.sub(r"\s+#.*", "", command).split())


def reason_not_to_run(command: str) -> str:
    """Returns why a command is not run here; "" for one that is."""
    if command.startswith(INSTALLS):
        return "installs"
    if PLACEHOLDERS.search(command):
        return "needs an argument of the reader's"
    return ""


# --- running ---

def run(command: str, seconds: float, folder: str) -> tuple[int | None, float]:
    """Runs a command in a folder; returns its exit code, None if the time was over, and its seconds.

    All its processes end with it.
    """
    start = time.perf_counter()
    shell = command.replace("python ", f"{sys.executable} ", 1)
    process = subprocess.Popen(["bash", "-c", shell], cwd=folder, start_new_session=True,
                               env={**os.environ, "PYTHONPATH": folder, "MPLBACKEND": "agg"},
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        code = None
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()
    return code, time.perf_counter() - start


def run_all(commands: list[str], minutes: float) -> int:
    """Runs commands and records those that end; returns how many fail."""
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["git", "clone", "--quiet", str(ROOT), folder], check=True)
        commit = subprocess.run(["git", "-C", folder, "rev-parse", "--short", "HEAD"], check=True,
                                capture_output=True, text=True).stdout.strip()
        for command in commands:
            code, seconds = run(command, 60 * minutes, folder)
            ended = "takes longer" if code is None else f"exit code {code}"
            print(f"{seconds:6.0f} s  {ended:12}  {command}", flush=True)
            failed += code not in (0, None)
            if code == 0:
                record(command, commit, seconds)
    return failed


def records() -> dict[str, dict[str, str | int]]:
    """Returns {command: its last run that ended well}."""
    found: dict[str, dict[str, str | int]] = json.loads(RECORDS.read_text("utf-8")) if RECORDS.exists() else {}
    return found


def record(command: str, commit: str, seconds: float) -> None:
    """Records a run that ended well."""
    known = records() | {command: {"date": datetime.date.today().isoformat(), "commit": commit,
                                   "seconds": round(seconds)}}
    RECORDS.write_text(json.dumps(dict(sorted(known.items())), indent=1) + "\n", encoding="utf-8")


def describe(command: str, where: list[str]) -> str:
    """Returns a line on a command: its last run, and the pages that have it."""
    last = records().get(command)
    said = reason_not_to_run(command) or "never run by this script"
    if last:
        said = f"{last['date']}, {last['commit']}, {last['seconds']} s"
    return f"{said:36}{command}    ({', '.join(where)})"


def main(argv: list[str] | None = None) -> int:
    """Runs the script; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", action="store_true", help="run them, too")
    parser.add_argument("--only", default="", metavar="TEXT", help="those that have this text in them")
    parser.add_argument("--minutes", type=float, default=1.0, help="the time that each is given; default: 1")
    args = parser.parse_args(argv)
    found = {command: where for command, where in collect().items() if args.only in command}
    if not args.run:
        print("\n".join(describe(command, where) for command, where in found.items()))
        return 0
    known = records()
    chosen = [command for command in found if not reason_not_to_run(command)
              and (args.minutes > 1 or int(known.get(command, {}).get("seconds", 0)) <= 60)]
    return 1 if run_all(chosen, args.minutes) else 0


if __name__ == "__main__":
    sys.exit(main())
