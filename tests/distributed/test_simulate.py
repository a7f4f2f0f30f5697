"""What is compiled ahead of time for many devices: the wrapped step is the plain one, but for its factors."""
import pathlib
import subprocess
import sys

import pytest

from benchmarks import simulate

ROOT = pathlib.Path(__file__).parents[2]
SMALL = ["--width", "256", "--base", "128", "--layers", "2", "--vocab", "64", "--length", "32", "--batch", "4",
         "--data", "2", "--model", "2"]


def test_full_has_seven_billion_parameters_on_64_devices():
    args = simulate.parse(["--full", "--layers", "34"])
    assert args.data * args.model == 64 and args.layers == 34
    assert 12 * args.layers * args.width**2 + args.vocab * args.width > 7e9
    assert args.width % simulate.HEAD == args.width % args.data == args.vocab % args.model == 0


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["--modules"]], ids=["stacked", "modules"])
def test_the_command(more):
    done = subprocess.run([sys.executable, "-m", "benchmarks.simulate", *SMALL, *more], cwd=ROOT,
                          capture_output=True, text=True, encoding="utf-8", check=False)
    assert done.returncode in (0, 1), done.stderr[-2000:]       # so small, factors are more than 0.1% of it
    assert "2 × 2 devices" in done.stdout and "the same collectives and shardings" in done.stdout
    _, memory, temporary, flops = done.stdout.splitlines()[-2].split()
    assert float(memory) == float(temporary) == 1 < float(flops) < 1.01
