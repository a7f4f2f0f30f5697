"""The benchmarks of sweeps: what they count, and the tables that they print."""
import concurrent.futures
import sys

import numpy as np
import pytest

import haiku_mup
from benchmarks import adaptive
from benchmarks.sweep import settings, table

FOUND = {"ours": {64: 2.0, 128: 4.0, "whole": 10.0}, "loop": {64: 6.0, 128: 4.0, "whole": 15.0},
         "theirs": {64: 10.0, 128: 8.0, "whole": 25.0}}
TOP = {64: 1e12, 128: 1e12, "whole": 2e12}


def test_work_is_that_of_each_product():
    rows, sizes = settings.BATCH, [settings.INPUTS, 64, 64, 64, settings.CLASSES]
    forward = [2 * rows * a * b for a, b in zip(sizes, sizes[1:])]
    assert settings.work(64) == 3 * sum(forward) - forward[0]          # no gradient for the inputs


def test_report_has_ratios_and_shares():
    head, narrow, _, whole = table.report(FOUND, TOP, [64, 128]).split("\n")
    rate = settings.work(64) * 12000 / 2.0
    assert narrow.split() == ["64", "2.0", "s", "6.0", "s", "10.0", "s", "5.00", "3.00", f"{rate / 1e9:.1f}",
                              f"{rate / 1e12:.0%}", f"{rate / 2e12:.0%}"]
    assert whole.split()[7:9] == ["2.50", "1.50"] and "torch/ours" in head
    assert "  -  " in table.report(FOUND | {"theirs": None}, TOP, [64, 128])


def test_what_cannot_be_imported_is_left_out(monkeypatch, capsys):
    args = table.parse(["--torch", sys.executable, "--widths", "64"])
    monkeypatch.setattr(table.subprocess, "Popen", lambda *args, **kwargs: Failed())
    assert table.result(table.start_process("theirs", args)) is None
    assert "left out: ModuleNotFoundError: No module named 'mup'" in capsys.readouterr().err


class Failed:
    returncode = 1

    def communicate(self):
        return "", "Traceback\nModuleNotFoundError: No module named 'mup'\n"


@pytest.mark.parametrize("best, rates, seeds", [(-6.3, 17, 3), (-5.0, 12, 2), (-8.6, 19, 5)])
def test_the_search_on_a_grids_records_is_near_and_short(best, rates, seeds, tmp_path):
    lrs = [2.0**(k / 2 - 10) for k in range(rates)]
    losses = {haiku_mup.Trial(name, width, (("lr", lr),), seed): {"loss": np.exp(
        0.1 * (np.log2(lr) - best)**2 + seed / 9)} for name in ("sp", "mup") for width in (64, 128)
        for lr in lrs for seed in range(seeds)}
    grid = haiku_mup.Sweep(losses)
    found = adaptive.search(grid)
    last = adaptive.report(grid, found).split("\n")[-1]
    assert len(found.losses) <= len(losses) / 3 and "4 of 4 best rates within 0.25 octaves" in last


def test_what_is_no_whole_grid_is_refused(tmp_path):
    with concurrent.futures.ThreadPoolExecutor(1) as here:
        haiku_mup.lr_sweep({"mup": lambda width: lambda lr, key: lr}, [2], [2.0**k for k in range(9)], 3,
                           out=tmp_path / "out", executor=here, search="adaptive", progress=False)
    with pytest.raises(SystemExit, match="trials are missing"):
        adaptive.load_grid(tmp_path / "out")
