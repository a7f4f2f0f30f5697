"""README.md: short, with a program that runs as it is pasted, and prints what it says it prints."""
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
WORDS, WORDS_BEFORE_PYTHON = 900, 250


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def pasted(*programs):
    """Returns what a new interpreter prints that is given the programs one after the other."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", "\n".join(programs)], cwd=ROOT,
                          capture_output=True, text=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def printed():
    return pasted(*blocks("python"))


def test_it_is_two_screens():
    assert len(README.split()) <= WORDS
    assert len(README.partition("```python")[0].split()) <= WORDS_BEFORE_PYTHON


def test_the_first_program_prints_the_table(printed):
    table, = blocks("text")
    assert printed.startswith(table)
    loss = re.match(r"loss (\d\.\d{3})\n", printed.removeprefix(table))
    assert loss and float(loss[1]) < 2.0


def test_the_second_program_continues_it_with_a_check_and_a_sweep(printed):
    advice = printed.splitlines()[-1]
    assert re.match(r"Use a learning rate of 0\.0\d+ ", advice) and "But" not in advice


def test_the_second_program_alone_is_none():
    with pytest.raises(AssertionError, match="NameError"):
        pasted(blocks("python")[1])


def test_the_two_commands_and_the_figure_come_first():
    first_screen = README[:README.index("```python")]
    assert "docs/figures/lr_transfer.png" in first_screen and (ROOT / "docs/figures/lr_transfer.png").is_file()
    commands = blocks("sh")[0]
    assert [line.rpartition(" -m ")[2] for line in commands.splitlines()] == ["demos.mnist_mlp", "pytest"]
