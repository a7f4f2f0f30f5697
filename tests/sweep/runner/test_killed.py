"""Sweeps that are killed, interrupted or run twice at once have the results of an undisturbed sweep."""
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest
import sweep_program

HERE = pathlib.Path(__file__).parents[2] / "support"
PROGRAM = HERE / "sweep_program.py"


def start(out, *widths, **env):
    """Starts the program in a process group of its own, as a shell does."""
    path = os.pathsep.join([str(HERE.parents[1]), str(HERE)])
    return subprocess.Popen([sys.executable, str(PROGRAM), str(out), *map(str, widths)], text=True,
                            env=os.environ | {"PYTHONPATH": path} | env, start_new_session=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def finish(process):
    text, _ = process.communicate(timeout=300)
    assert process.returncode == 0 and "finished" in text, text


def records(out):
    """Returns every line of every cell, and the table."""
    lines = [line for path in sorted((out / "cells").glob("*.jsonl")) for line in path.read_text().splitlines()]
    return sorted(lines), (out / "results.csv").read_text()


def kill_within(process, out, seconds):
    """Kills a process so many seconds after its next cell; returns whether it was still running."""
    there = len(list((out / "cells").glob("*.jsonl")))
    while process.poll() is None and len(list((out / "cells").glob("*.jsonl"))) == there:
        time.sleep(0.001)
    time.sleep(seconds)
    running = process.poll() is None
    process.kill()
    process.communicate()
    return running


def alive(group):
    """Returns the commands of a group's processes, without zombies."""
    found = subprocess.run(["ps", "-e", "-o", "pgid=,stat=,args="], capture_output=True, text=True, check=True)
    rows = [line.split(None, 2) for line in found.stdout.splitlines()]
    return [row[2] for row in rows if row[0] == str(group) and not row[1].startswith("Z")]


def disturbed(tmp_path, kills, widths, env, longest):
    """Returns the records of a sweep that was killed so many times, and those of an undisturbed one."""
    rng = random.Random(0)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"EXECUTOR": "", **env}.items():
            patch.setenv(name, value)                                       # for its workers, and
        patch.setattr(sweep_program, "STEPS", int(env["STEPS"]))            # for this process
        sweep_program.main(tmp_path / "calm", *widths)
    for number in range(kills):
        process = start(tmp_path / "out", *widths, **env)
        assert kill_within(process, tmp_path / "out", rng.uniform(0, longest)), number
    finish(start(tmp_path / "out", *widths, **env))
    return records(tmp_path / "out"), records(tmp_path / "calm")


@pytest.mark.slow
def test_after_kills_the_records_are_those_of_an_undisturbed_sweep(tmp_path):
    """In one process: a faster form of the test of twenty kills."""
    found, calm = disturbed(tmp_path, 2, [8, 16], {"EXECUTOR": "here", "STEPS": "4000"}, longest=0.2)
    assert found == calm and len(calm[0]) == 2 * 2 * 6 * 3 and len(calm[0][0]) > 4000


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["here", ""])
def test_after_kills_an_adaptive_sweep_is_that_of_an_undisturbed_one(tmp_path, executor):
    """An adaptive search continues at the width where it was."""
    env = {"EXECUTOR": executor, "STEPS": "4000", "SEARCH": "adaptive"}
    found, calm = disturbed(tmp_path, 5, [8, 16, 24], env, longest=0.1)
    # Of 18 trials: a third at the narrowest width and where the optimum moves, else down to a fifth.
    assert found == calm and 2 * (6 + 4 + 3) <= len(calm[0]) <= 2 * 3 * 6


@pytest.mark.slow
def test_after_twenty_kills_the_records_are_those_of_an_undisturbed_sweep(tmp_path):
    """Kills the process that submits cells, at random moments. Its workers end by themselves."""
    found, calm = disturbed(tmp_path, 20, [16, 24, 32, 48], {"STEPS": "20000"}, longest=0.6)
    assert found == calm and len(calm[0]) == 2 * 4 * 6 * 3 and len(calm[0][0]) > 20000


@pytest.mark.slow
def test_workers_end_when_the_sweep_was_killed(tmp_path):
    process = start(tmp_path, 32, STEPS="2000000")
    assert until(lambda: len(alive(process.pid)) > 2)
    process.kill()
    process.communicate()
    assert until(lambda: not alive(process.pid))


def until(condition, seconds=60):
    """Waits until a condition holds; returns whether it does within so many seconds."""
    limit = time.monotonic() + seconds
    while not (holds := condition()) and time.monotonic() < limit:
        time.sleep(0.05)
    return holds


@pytest.mark.slow
@pytest.mark.parametrize("search, fewest, most", [("grid", 2 * 2 * 6 * 3, 2 * 2 * 6 * 3),
                                                  ("adaptive", 2 * (6 + 3), 2 * 2 * 6)])
def test_two_processes_on_one_folder_share_the_work(tmp_path, search, fewest, most):
    both = [start(tmp_path / "out", EXECUTOR="here", STEPS="20000", SEARCH=search) for _ in range(2)]
    for process in both:
        finish(process)
    lines, _ = records(tmp_path / "out")
    assert len(lines) == len(set(lines)) and fewest <= len(lines) <= most
    assert not [*(tmp_path / "out").rglob("*.damaged")] and not [*(tmp_path / "out").rglob("*.tmp")]


def interrupted(tmp_path, when, **env):
    """Sends Ctrl-C to all processes of a sweep, as a terminal does; returns the seconds, and the ended process.

    Checks what the process printed.
    """
    process = start(tmp_path, 64, STEPS="3000000", **env)
    assert until(lambda: when(process))
    begin = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    text, _ = process.communicate(timeout=60)
    seconds = time.monotonic() - begin
    assert f"trials have finished, and are in {tmp_path}; this continues:\npython" in text.replace(
        os.path.basename(sys.executable), "python"), text
    assert text.rstrip().endswith(f"sweep_program.py {tmp_path} 64") and text.count("Traceback") == 1, text
    return seconds, process


LIMIT = 2.0         # s


@pytest.mark.slow
def test_ctrl_c_ends_at_once_and_says_how_to_continue(tmp_path):
    seconds, process = interrupted(tmp_path, lambda p: (tmp_path / "programs" / "mup-64.json").exists())
    assert seconds < LIMIT
    assert until(lambda: not alive(process.pid), 5)


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["here", "processes"])
@pytest.mark.parametrize("wait", [0.0, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0])
def test_ctrl_c_at_any_moment(tmp_path, wait, executor):
    """While workers start, while programs are traced and compiled, and while trials run."""
    def when(process):
        if not (tmp_path / "sweep.json").exists():
            return False
        time.sleep(wait)
        return True

    env = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"} if executor == "here" else {}
    seconds, process = interrupted(tmp_path, when, **env)
    assert seconds < LIMIT
    assert until(lambda: not alive(process.pid), 5)
