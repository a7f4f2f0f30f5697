"""Rates that tie for the lowest loss: a coarse loss knows no more than that the best rate is among them."""
import math

import numpy as np
import pytest

import haiku_mup
from haiku_mup.sweep import Curve
from haiku_mup.sweep.loss_curves import ties_of
from haiku_mup.sweep.search import adaptive_search
from haiku_mup.sweep.ties import find_ties
from haiku_mup.sweep.trial import Trial

AT = np.arange(-13.0, -0.9)
SAID = "several rates tie for the lowest loss, which is too coarse to tell them apart"


def plateau(low, high):
    """Returns a loss that is 0 from one rate to another, and 1 outside."""
    return lambda x, seed=0: 0.0 if low <= x <= high else 1.0


def valley(best, grain=0.0):
    """Returns a noisy valley, whose losses are multiples of a grain if there is one."""
    def loss(x, seed=0):
        exact = 0.02 * (x - best)**2 + 0.003 * math.sin(977 * seed + 31 * x)
        return max(0.0, round(exact / grain) * grain) if grain else exact
    return loss


def curve(loss, at=AT, seeds=3):
    return Curve.of_losses(at, np.array([[loss(x, seed) for seed in range(seeds)] for x in at]))


def make_sweep(by_width, at=AT, seeds=3):
    return haiku_mup.Sweep({
        Trial("mup", width, (("lr", 2.0**x),), seed): {"error": np.array(loss(x, seed))}
        for width, loss in by_width.items() for x in at for seed in range(seeds)})


# --- the optimum ---

@pytest.mark.parametrize("level", [0.0, 0.25, -3.0])
@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("step", [0.5, 1.0])
def test_the_interval_holds_all_rates_that_tie_and_half_a_step_more(step, seeds, level):
    at = np.arange(-13.0, -0.9, step)
    found = curve(lambda x, s: level + plateau(-9, -3)(x), at, seeds).optimum
    assert found == (-6.0, -9 - step / 2, -3 + step / 2, False) and found.half == 3 + step / 2


def test_two_neighbours_that_tie_for_every_seed_are_told_from_a_valley_between_them():
    """One seed may have its minimum half way between two rates; several have not, each to the last bit."""
    tie = plateau(-7, -6)
    assert curve(tie, seeds=2).optimum == (-6.5, -7.5, -5.5, False)
    one = curve(tie, seeds=1).optimum
    assert one.log2_lr == pytest.approx(-6.5) and math.isnan(one.half)


def test_seeds_may_tie_at_different_rates():
    """Two rates are common to both seeds; either seed alone has four."""
    both = curve(lambda x, seed: plateau(*((-9, -6), (-7, -4))[seed])(x), seeds=2).optimum
    assert both.log2_lr == -6.5 and both.low < -9.5 and both.high > -3.5 and not both.at_edge


def test_rates_that_one_seed_alone_tells_apart_are_in_the_interval():
    found = curve(lambda x, seed: 0.1 * abs(x + 6) if seed == 1 else plateau(-8, -4)(x)).optimum
    assert found.log2_lr == pytest.approx(-6) and found.low <= -8.5 and found.high >= -3.5


@pytest.mark.parametrize("low, high, end", [(-13, -9, -13), (-4, -1, -1), (-13, -1, -13)])
def test_rates_that_tie_up_to_an_end_are_at_the_edge(low, high, end):
    found = curve(plateau(low, high)).optimum
    assert (found.log2_lr, found.at_edge) == (end, True) and math.isnan(found.low)


def test_a_worse_rate_in_between_leaves_the_longest_stretch_and_the_whole_interval():
    found = curve(lambda x, seed: 0.005 if x == -10 else plateau(-11, -3)(x)).optimum
    assert found == (-6.0, -11.5, -2.5, False)


def test_rates_that_diverge_or_have_other_seeds_tie_with_none():
    inf, nan = math.inf, math.nan
    losses = np.array([[1, 1], [0, inf], [0, 0], [nan, 0], [0, 0.5], [0, nan], [1, 1]])
    found = find_ties(np.arange(7.0), losses, 2)
    assert (found.lowest, found.highest, found.first, found.last, found.rates) == (2, 5, 2, 3, 3)
    assert find_ties(np.arange(3.0), np.array([[nan, 0], [0, nan], [0, nan]]), 1) is None


def test_equal_rates_are_one_rate():
    at = np.sort([*np.arange(-13.0, -0.9, 0.5), -6.0, -6.0 + 1e-12])
    found = curve(lambda x, seed: valley(-6.1)(round(x, 6), seed), at)
    assert found.best == -6 and ties_of(found) is None and found.optimum.half < 0.5


@pytest.mark.parametrize("best", np.arange(-8.0, -5.0, 0.37))
def test_fine_losses_have_narrow_intervals_and_coarse_ones_that_hold_the_best(best):
    """The negative twin: where nothing ties, the same valley gives a narrow interval."""
    fine, coarse = (curve(valley(best, grain)) for grain in (0.0, 0.05))
    assert ties_of(fine) is None and fine.optimum.half < 0.5
    assert coarse.optimum.low <= best <= coarse.optimum.high and coarse.optimum.half >= 1


# --- the recommendation ---

def test_where_rates_tie_it_says_so_and_claims_no_drift():
    """From 2^-9 to 2^-3 all rates of the narrow model tie, from 2^-13 to 2^-8 those of the wide one."""
    at = np.arange(-14.0, -0.9)
    found = make_sweep({32: plateau(-9, -3), 64: plateau(-13, -8)}, at)
    with pytest.warns(haiku_mup.MupWarning, match="for 1 reason"):
        advice = found.recommend()
    assert found.drift() == {"mup": 4.5} and math.log2(advice.lr) == -10.5
    assert "95% interval -13.5 to -7.5): it is among 6 equally good ones at width 64" in str(advice)
    assert [f"at width 32, 64 {SAID}: judge by a finer one, such as the cross entropy" in doubt
            for doubt in advice.doubts] == [True]
    assert "32: -6.00 ±3.50, 64: -10.50 ±3.00" in str(found)


def test_a_drift_that_no_tie_explains_is_one():
    found = make_sweep({32: plateau(-5, -3), 64: plateau(-11, -9)})
    with pytest.warns(haiku_mup.MupWarning):
        doubts = " ".join(found.recommend().doubts)
    assert SAID in doubts and "6.0 octaves are too far to call it one rate" in doubts


def test_judged_by_a_finer_loss_the_rate_transfers(recwarn):
    """The remedy: the same trials have a cross entropy, which tells rates apart."""
    at = np.arange(-9.0, -3.9, 0.5)
    found = haiku_mup.Sweep({
        trial: {**losses, "cross_entropy": np.array(valley(-6.2)(math.log2(trial.point[0][1]), trial.seed)
                                                    - trial.width / 1e3)}
        for trial, losses in make_sweep({32: plateau(-8, -5), 64: plateau(-8, -5)}, at).losses.items()})
    advice = found.recommend(loss="cross_entropy")
    assert advice.transfers and not recwarn
    with pytest.warns(haiku_mup.MupWarning):
        assert SAID in str(found.recommend())


def test_two_rates_half_an_octave_apart_are_near_enough(recwarn):
    at = np.arange(-9.0, -3.9, 0.5)
    advice = make_sweep({32: plateau(-6.5, -6), 64: plateau(-6.5, -6)}, at).recommend()
    assert advice.doubts == [] and not recwarn and "among 2 equally good ones" in str(advice)


def test_at_an_end_it_says_both():
    with pytest.warns(haiku_mup.MupWarning):
        doubts = " ".join(make_sweep({32: plateau(-13, -8), 64: plateau(-5, -1)}).recommend().doubts)
    assert f"at width 32, 64 {SAID}" in doubts
    assert "at width 32 the lowest rate that was tried" in doubts
    assert "at width 64 the highest rate that was tried" in doubts


def test_the_law_of_the_best_rate_is_as_uncertain_as_the_rates():
    found = make_sweep({32: plateau(-9, -3), 64: plateau(-11, -3), 128: plateau(-10, -3)}).transfer()["mup"]
    assert found.exponent.low < -2 and found.exponent.high > 2 and found.lost.value == 0


# --- the adaptive search ---

@pytest.mark.parametrize("start", [None, -12.0, -6.2, -2.0])
@pytest.mark.parametrize("low, high", [(-9, -3), (-11, -4), (-7, -6), (-12, -2), (-13, -8), (-5, -1), (-6, -6)])
def test_the_search_looks_at_both_ends(low, high, start):
    """It finds the grid's optimum and interval, or the same end, with a third of the trials."""
    full = make_sweep({64: plateau(low, high)})
    search, seen, answer = adaptive_search(list(full.losses), start and {(): start}), {}, None
    while True:
        try:
            trials = search.send(answer)
        except StopIteration:
            break
        answer = {trial: full.losses[trial] for trial in trials}
        seen |= answer
    assert len(seen) <= len(full.losses) / 3
    a, b = (it.best()["mup"][64] for it in (full, haiku_mup.Sweep(seen)))
    assert (a.log2_lr, a.at_edge) == (pytest.approx(b.log2_lr, abs=0.5), b.at_edge)
    if not a.at_edge:
        assert b.low <= low and b.high >= high


@pytest.mark.parametrize("mirrored", [False, True])
def test_where_seeds_tie_at_rates_that_differ_the_interval_is_unknown(mirrored):
    """Without either seed the other one's plateau is all there is, and the two are far apart."""
    at = np.arange(-10.0, 0.0)
    losses = np.stack([np.maximum(abs(at + 7) - 1, 0), np.maximum(abs(at + 4) - 1, 0)], axis=1)
    if mirrored:
        at, losses = -at[::-1], losses[::-1]
    found = Curve.of_losses(at, losses).optimum
    assert math.isnan(found.low) and math.isnan(found.high)


def test_no_interval_is_wider_than_rounding_allows():
    """Without the last seed the losses around the lowest are on a line, but for rounding."""
    losses = np.array([[2.4, 2.0, 2.4], [1.5, 1.5, 1.4], [0.8, 0.8, 0.9], [0.2, 0.1, 0.1], [0.1, 0.2, 0.0],
                       [0.1, 0.0, 0.1], [0.2, 0.2, 0.1], [0.5, 0.6, 0.6], [1.2, 1.0, 1.2]])
    found = Curve.of_losses(np.arange(-10.0, -1.0), losses).optimum
    assert -7 < found.log2_lr < -4 and not found.half > 9
