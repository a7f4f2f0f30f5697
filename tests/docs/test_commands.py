"""The script that collects and runs the documentation's commands (tests/support/documented_commands.py)."""
import documented_commands as commands
import pytest

RST = """
Run ``python -m demos.cnn`` here, or ``python -m demos.depth
--quick``, on a line that says
python -m pip in ``python -m pytest -m ""``.

.. code-block:: sh

   python -m demos.pretrain --out results/large &      # ends later
   python -m demos.cnn                     # 9 minutes
"""


def test_commands_are_found_in_lines_and_in_code_without_comments():
    assert list(commands.commands_of(RST, ".rst")) == [
        "python -m demos.cnn", "python -m demos.depth --quick", 'python -m pytest -m ""',
        "python -m demos.pretrain --out results/large &", "python -m demos.cnn"]
    assert list(commands.commands_of("Try `python -m demos.cnn`.\n", ".md")) == ["python -m demos.cnn"]


def test_every_page_s_commands_are_found_and_each_record_is_of_one_that_is_still_there():
    found = commands.collect()
    assert "README.md" in found["python -m pip install '.[test]' && python -m pytest"]
    assert "docs/evidence/transfer.rst" in found["python -m demos.cnn"]
    assert commands.records().keys() <= found.keys()


@pytest.mark.parametrize("command, reason", [
    ("python -m pip install '.[flax]'", "installs"), ("python -m demos.cnn", ""),
    ("python -m benchmarks.sweep --torch PYTHON", "needs an argument of the reader's"),
    ("python -m demos.pretrain --out results/large &", "needs an argument of the reader's"),
    ("python -m benchmarks.peers", "")])
def test_what_can_not_run_as_it_stands_is_listed(command, reason):
    assert commands.reason_not_to_run(command) == reason


@pytest.mark.parametrize("program, code", [("pass", 0), ("raise SystemExit(3)", 3),
                                           ("import time; time.sleep(60)", None)])
def test_a_run_tells_its_exit_code_or_that_the_time_was_over(program, code, tmp_path):
    ended, seconds = commands.run(f"python -c '{program}'", 3, str(tmp_path))
    assert ended == code and seconds < 30


def test_a_run_that_ends_well_is_recorded(tmp_path, monkeypatch):
    monkeypatch.setattr(commands, "RECORDS", tmp_path / "commands.json")
    commands.record("python -m demos.cnn", "abc", 59.6)
    assert commands.records()["python -m demos.cnn"].items() >= {"commit": "abc", "seconds": 60}.items()
    assert commands.describe("python -m demos.cnn", ["a.rst"]).endswith("python -m demos.cnn    (a.rst)")
    assert "abc, 60 s" in commands.describe("python -m demos.cnn", ["a.rst"])
