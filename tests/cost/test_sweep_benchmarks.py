"""The benchmarks of sweeps: what they count, and the tables that they print."""
import concurrent.futures
import sys

import jax.numpy as jnp
import numpy as np
import pytest

import haiku_mup
from benchmarks import adaptive
from benchmarks.sweep import settings, table

FOUND = {"ours": {64: 2.0, 128: 4.0, "whole": 10.0}, "loop": {64: 6.0, 128: 4.0, "whole": 15.0},
         "theirs": {64: 10.0, 128: 8.0, "whole": 25.0}}
TOP = {64: 1e12, 128: 1e12, "whole": 2e12, "updates 64": 1e4, "updates 128": 1e4}


def test_work_is_that_of_each_product():
    rows, sizes = settings.BATCH, [settings.INPUTS, 64, 64, 64, settings.CLASSES]
    forward = [2 * rows * a * b for a, b in zip(sizes, sizes[1:])]
    assert settings.work(64) == 3 * sum(forward) - forward[0]          # no gradient for the inputs


def test_report_has_ratios_and_shares():
    head, narrow, _, whole = table.report(FOUND, TOP, [64, 128]).split("\n")
    rate, bound = settings.work(64) * 12000 / 2.0, 12000 * (settings.work(64) / 1e12 + 1e-4)
    assert narrow.split() == ["64", "2.0", "s", "6.0", "s", "10.0", "s", "5.00", "3.00", f"{rate / 1e9:.1f}",
                              f"{rate / 1e12:.0%}", f"{rate / 2e12:.0%}", f"{bound / 2.0:.0%}"]
    assert whole.split()[7:9] == ["2.50", "1.50"] and "torch/ours" in head
    assert "  -  " in table.report(FOUND | {"theirs": None}, TOP, [64, 128])


def test_a_pass_updates_every_parameter():
    sizes = [settings.INPUTS, 64, 64, 64, settings.CLASSES]
    assert sum(map(np.prod, settings.parameter_shapes(64))) == sum(
        (fan_in + 1) * fan_out for fan_in, fan_out in zip(sizes, sizes[1:]))


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
def test_the_search_on_a_grids_records_is_near_and_short(best, rates, seeds):
    grid = bowls(best, rates, seeds)
    found = adaptive.score(grid, adaptive.search(grid))
    # Work is of trials that cost width^1.5: a third at width 64, and a fifth at 128 with three seeds or more.
    assert found.work <= (0.334 if seeds < 3 else 0.25) and (found.found, found.curves) == (2, 2)


def test_a_best_rate_elsewhere_is_missed_and_work_goes_by_the_width():
    grid = bowls(-6.3, 17, 3)
    wide = haiku_mup.Sweep({t: x for t, x in grid.losses.items()
                            if t.width == 64 or t.point[0][1] < 2.0**-8})
    found = adaptive.score(grid, wide)
    assert (found.found, found.curves) == (1, 2)
    assert ["missed" in line for line in found.lines] == [False, True]
    assert found.work == pytest.approx((17 + 4 * 2**1.5) / (17 + 17 * 2**1.5))
    around = adaptive.near_optimum(grid, 1)
    assert {(t.width, t.seed, adaptive.log2_lr(t)) for t in around.losses} == {
        (width, 0, x) for width in (64, 128) for x in (-7.5, -6.5, -5.5)}


def bowls(best, rates, seeds):
    """Returns the grid of a parabola whose lowest rate is at log2 lr = best, at each width."""
    return haiku_mup.Sweep({
        haiku_mup.Trial("mup", width, (("lr", 2.0**(k / 2 - 10)),), seed): {"loss": np.exp(
            0.1 * (k / 2 - 10 - best)**2 + seed / 9)}
        for width in (64, 128) for k in range(rates) for seed in range(seeds)})


def test_a_folder_is_compared_and_what_is_no_whole_grid_is_refused(tmp_path, capsys):
    def swept(search, folder):
        with concurrent.futures.ThreadPoolExecutor(1) as here:
            haiku_mup.lr_sweep({"mup": lambda width: lambda lr, key: (jnp.log2(lr) - 4)**2}, [2, 4],
                               [2.0**k for k in range(9)], 3, out=tmp_path / folder, executor=here,
                               search=search, progress=False)
        return str(tmp_path / folder)

    adaptive.main([swept("grid", "whole"), "--curves"])
    lines = capsys.readouterr().out.split("\n")
    assert lines[1].startswith("whole, train_loss") and lines[1].split()[-2:] == ["2/2", "100.0%"]
    assert lines[2].split()[:3] == ["2", "4.00", "±0.00"] and "all seeds" in lines[-2]
    with pytest.raises(SystemExit, match="trials are missing"):
        adaptive.main([swept("adaptive", "part")])
