"""Adaptive search: with a third to a fifth of the trials, width by width, it finds the grid's optima."""
import concurrent.futures
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import haiku_mup
from haiku_mup.sweep.runner.executors import SweepExecutor
from haiku_mup.sweep.search import adaptive_search
from haiku_mup.sweep.trial import Trial

AT = np.arange(-12.0, -5.9, 0.5)


def make_sweep(loss, at=AT, seeds=3, width=64, name="mup", **others):
    """Returns a sweep with losses loss(log2 lr, seed)."""
    return haiku_mup.Sweep({
        Trial(name, width, (("lr", 2.0**x), *others.items()), seed): {"train_loss": np.array(loss(x, seed))}
        for x in at for seed in range(seeds)})


def run_search(whole, warm_start=None, share=3):
    """Returns the part of a whole sweep that the search runs, and the best rates that it returns."""
    search, seen, answer = adaptive_search(list(whole.losses), warm_start, share), {}, None
    while True:
        try:
            trials = search.send(answer)
        except StopIteration as end:
            return haiku_mup.Sweep(seen), end.value
        assert trials and not seen.keys() & set(trials)             # nothing twice
        answer = {trial: whole.losses[trial] for trial in trials}
        seen |= answer


def best(found):
    return found.best()["mup"][64]


def valley(best):
    """Returns a loss: a noisy parabola, steeper above than below, with a cliff."""
    def loss(x, seed):
        noise = 0.01 * math.sin(977 * seed + 31 * x)
        return math.inf if x > best + 3.2 else math.exp(0.1 * (x - best)**2 * (1 + (x > best)) + noise)
    return loss


# --- a curve ---

@pytest.mark.parametrize("start", [None, -11.0, -8.9, -7.0])
@pytest.mark.parametrize("at_best", np.arange(-11.0, -6.9, 0.37))
@pytest.mark.parametrize("at, seeds", [(AT, 3), (np.arange(-14.0, -3.9, 0.5), 5), (np.arange(-12.0, -5.0), 3)])
def test_a_third_of_the_trials_find_the_optimum_of_a_bowl(at_best, at, seeds, start):
    """It does so wherever the search of the narrower width has ended."""
    full = make_sweep(valley(at_best), at, seeds)
    some, end = run_search(full, None if start is None else {(): start})
    assert len(some.losses) <= len(full.losses) / 3
    a, b = best(full), best(some)
    assert abs(a.log2_lr - b.log2_lr) <= 0.25, (a, b)
    assert end == {(): pytest.approx(b.log2_lr, abs=1e-9)}


@pytest.mark.parametrize("start", [None, -20.0, -9.0, 0.0])
@pytest.mark.parametrize("at_best", [-20.0, -12.2, -5.5, 0.0])
def test_at_an_end_it_says_edge_as_the_grid_does(at_best, start):
    full = make_sweep(lambda x, seed: math.exp(0.1 * (x - at_best)**2))
    a, b = (best(it) for it in (full, run_search(full, start and {(): start})[0]))
    assert (a.log2_lr, a.at_edge) == (b.log2_lr, b.at_edge) and a.at_edge


def test_it_starts_at_the_best_rate_of_the_narrower_width():
    """The next rates are half an octave around it, then far off; without it they are spread over all."""
    def first(before, seeds=3):
        trials = list(make_sweep(lambda x, seed: 1.0, seeds=seeds).losses)
        return [math.log2(trial.point[0][1]) for trial in next(adaptive_search(trials, before))]

    assert first({(): -8.1}) == [-8, -8.5, -7.5, -12]
    assert first(None) == [-11.5, -10, -8.5, -7]
    assert first({(("momentum", 0.9),): -8.0}) == first(None)       # of another setting
    assert first({(): -8.1}, seeds=2) == first(None)                # too few trials for both


def test_a_dent_where_it_starts_is_no_optimum():
    """So it is in the standard parametrization, at the rate that was best for a much narrower width."""
    full = make_sweep(lambda x, seed: 3 + 0.1 * seed - 0.1 * (x == -7) - 2 * max(0, 1 - 0.4 * abs(x + 10.1)))
    some, _ = run_search(full, {(): -7.0})
    assert abs(best(some).log2_lr - best(full).log2_lr) <= 0.25 and best(full).log2_lr < -9.5


@pytest.mark.parametrize("at, seeds", [([-3.0], 1), ([-3.0, -2.0], 2), (np.arange(-4.0, 0), 1), (AT, 1)])
@pytest.mark.parametrize("start", [None, -2.6])
def test_small_grids_end_too(at, seeds, start):
    full = make_sweep(lambda x, seed: math.inf, at, seeds)
    some, end = run_search(full, start and {(): start})
    assert 0 < len(some.losses) <= max(3, len(full.losses) / 3) and end == {}


def test_each_setting_of_the_others_is_searched():
    both = haiku_mup.Sweep({t: x for m in (0.0, 0.9) for t, x in make_sweep(
        lambda x, s, m=m: 0.2 * (x + 8 + m)**2 - 1, momentum=m).losses.items()})
    some, end = run_search(both)
    for m in (0.0, 0.9):
        only = haiku_mup.Sweep({t: x for t, x in some.losses.items() if t.point[1][1] == m})
        assert best(only).log2_lr == pytest.approx(-8 - m, abs=0.01) == end[("momentum", m),]


@pytest.mark.parametrize("start, trials", [(-9.2, 8), (-9.9, 13), (-6.5, 13), (None, 13)])
def test_an_optimum_near_its_start_takes_fewer_trials(start, trials):
    """A third of 39 where the start misled; else one in five, and two seeds at three rates: 3 trials and 5."""
    full = make_sweep(valley(-8.7))
    some, _ = run_search(full, None if start is None else {(): start}, share=5)
    assert len(some.losses) == trials and abs(best(some).log2_lr - best(full).log2_lr) <= 0.25
    assert best(some).half < 0.25       # there is an interval


# --- from width to width ---

LRS = [2.0**(k / 2) for k in range(-12, 1)]
WIDTHS = (2, 4, 8)


def make_trial(width):
    """Returns a trial whose best rate moves by an octave with each doubling of the width."""
    def trial(lr, key):
        at = jnp.log2(lr) + jnp.log2(width) + 1 + 0.05 * jax.random.normal(key)
        total, _ = jax.lax.scan(lambda w, _: (w + at / 4, None), jnp.zeros(width), length=4)
        return jnp.exp(0.2 * total.mean()**2 - 0.1 * width)
    return trial


def make_other(width):
    return make_trial(8 // width)


@pytest.fixture
def sweep():
    def run(makers, search="adaptive", lrs=LRS, seeds=3, **options):
        with concurrent.futures.ThreadPoolExecutor(1) as here:
            return haiku_mup.lr_sweep(makers, WIDTHS, lrs, seeds, executor=here, search=search, progress=False,
                                      chunk=2, **options)
    return run


def equal(a, b):
    return [*a.losses] == [*b.losses] and all(
        (x["train_loss"] == y["train_loss"]).all() for x, y in zip(a.losses.values(), b.losses.values()))


def test_a_sweep_searches_from_width_to_width(sweep):
    """The trials are those of the search, started at the optimum of the narrower width, ever fewer."""
    both = {"one": make_trial, "other": make_other}
    full, some = sweep(both, "grid"), sweep(both)
    wanted = {}
    for name in both:
        end = None
        for width, share in zip(WIDTHS, (3, math.sqrt(15), 5)):
            part = haiku_mup.Sweep({t: x for t, x in full.losses.items() if t[:2] == (name, width)})
            found, end = run_search(part, end, share)
            wanted |= found.losses
    assert [*some.losses] == [*wanted] and len(wanted) <= len(full.losses) / 3
    for name in both:
        for width in WIDTHS:
            a, b = (it.best()[name][width].log2_lr for it in (full, some))
            assert abs(a - b) <= 0.1, (name, width)


def test_a_folder_has_all_of_it(sweep, tmp_path):
    """Finished cells don't run again, whether all are there or some, and the records are the same."""
    some = sweep({"mup": make_trial}, out=tmp_path / "out")
    files = sorted((tmp_path / "out" / "cells").glob("*.jsonl"))
    before = {path: path.read_bytes() for path in files}
    assert equal(sweep({"mup": make_trial}, out=tmp_path / "out"), some)
    assert {path: path.read_bytes() for path in sorted((tmp_path / "out" / "cells").glob("*.jsonl"))} == before
    for path in files[3::2]:
        path.unlink()
    assert equal(sweep({"mup": make_trial}, out=tmp_path / "out"), some)
    loaded = haiku_mup.Sweep.load(tmp_path / "out").losses
    assert loaded.keys() == some.losses.keys()
    assert all(loaded[trial]["train_loss"] == losses["train_loss"] for trial, losses in some.losses.items())


def test_a_width_waits_for_the_narrower_even_if_it_takes_fewer_threads(sweep, monkeypatch):
    """No trials are lost, though workers with few threads come first."""
    whole = sweep({"mup": make_trial})
    monkeypatch.setattr(SweepExecutor, "threads_for", lambda self, state_bytes: 100 - state_bytes)
    assert equal(sweep({"mup": make_trial}), whole)


@pytest.mark.parametrize("points", [dict(lrs=[0.1]), dict(lrs=None, hyperparameters=haiku_mup.draws(
    5, lr=(0.01, 1), momentum=(0.5, 0.9)))])
def test_where_nothing_is_to_be_searched_it_says_so(sweep, points):
    with pytest.raises(haiku_mup.MupError, match="looks for the best of several learning rates"):
        sweep({"mup": make_trial}, **points)


def test_rates_that_differ_by_rounding_alone_are_searched(sweep):
    found = sweep({"mup": make_trial}, lrs=[*LRS, *(lr * (1 + 2**-52) for lr in LRS)])
    assert found.best()["mup"][4].log2_lr == pytest.approx(-3, abs=0.25)


def test_after_a_width_that_fails_the_next_looks_everywhere(sweep):
    def make(width):
        if width == 4:
            raise ValueError("odd")
        return make_trial(width)

    with pytest.warns(haiku_mup.MupWarning, match="of mup at width 4: ValueError: odd"):
        found = sweep({"mup": make})
    alone = sweep({"mup": make_trial}, "grid")
    wanted, _ = run_search(haiku_mup.Sweep({t: x for t, x in alone.losses.items() if t.width == 8}))
    assert {t.width for t in found.losses} == {2, 8}
    assert [t for t in found.losses if t.width == 8] == [*wanted.losses]
