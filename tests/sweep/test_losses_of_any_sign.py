"""A number that is added to all losses changes nothing that a sweep says; neither does a positive factor."""
import math

import numpy as np
import pytest

import haiku_mup
from haiku_mup import plot
from haiku_mup.sweep.loss_curves import Curve
from haiku_mup.sweep.optimum import argmin_rate, marginal_means, weights_of
from haiku_mup.sweep.search import search_width_by_width
from haiku_mup.sweep.trial import Trial

AT, WIDTHS, SEEDS = np.arange(-12.0, -4.9, 0.5), (64, 128), 3
SHIFTS = [1.0, -0.5, -5.0, 1e3, -1e3]
CLOSE = dict(rtol=0, atol=1e-8)         # rounding of 1e3 + x to 1e-13, magnified by a fit to losses of 1e-2


def losses(seed):
    """Returns {trial: loss} of valleys that end in a cliff; some of the trials diverge, and some are huge."""
    rng, found = np.random.default_rng(seed), {}
    for width in WIDTHS:
        best, depth = -8.3 + rng.normal() / 4, -width / 500
        for x in AT:
            for number in range(SEEDS):
                rise = 0.1 * (x - best)**2 + 2.0**(3 * (x - best - 1.5))
                loss = depth + rise * (1 + 0.1 * rng.normal()) + 0.02 * rng.normal() + 0.1 * number
                diverged = x > best + 2.6 + 0.2 * rng.normal()
                found[Trial("mup", width, (("lr", 2.0**x),), number)] = (
                    [math.inf, math.nan, 1e12][number] if diverged else loss)
    return found


def sweep_of(found, shift=0.0, scale=1.0):
    return haiku_mup.Sweep({
        trial: {"train_loss": np.array(scale * loss + shift)} for trial, loss in found.items()})


def numbers(sweep):
    """Returns all numbers that a sweep gives."""
    return [x for optimum in sweep.best()["mup"].values() for x in optimum] + [
        sweep.drift()["mup"], sweep.setback()["mup"], sweep.recommend().lr]


def searched(sweep):
    """Returns the trials that an adaptive search asks for, in their order."""
    by_width = [[trial for trial in sweep.losses if trial.width == width] for width in WIDTHS]
    rounds, answer, asked = search_width_by_width(by_width), None, []
    while True:
        try:
            trials = rounds.send(answer)
        except StopIteration:
            return asked
        asked += trials
        answer = {trial: sweep.losses[trial] for trial in trials}


@pytest.mark.filterwarnings("ignore::haiku_mup.MupWarning")
@pytest.mark.parametrize("seed, shift", [*enumerate(SHIFTS)])
def test_a_number_that_is_added_changes_nothing(seed, shift):
    found = losses(seed)
    plain, moved = sweep_of(found), sweep_of(found, shift)
    np.testing.assert_allclose(numbers(moved), numbers(plain), **CLOSE)
    assert str(moved.recommend()) == str(plain.recommend())
    trials = searched(plain)
    assert searched(moved) == trials and len(trials) < len(found) / 2
    some = [sweep_of({trial: found[trial] for trial in trials}, by) for by in (0, shift)]
    assert str(some[0]) == str(some[1])
    np.testing.assert_allclose(numbers(some[0]), numbers(some[1]), **CLOSE)


@pytest.mark.filterwarnings("ignore::haiku_mup.MupWarning")
@pytest.mark.parametrize("scale", [2.0**-20, 3.0, 1e6])
def test_a_factor_changes_nothing(scale):
    found = losses(0)
    np.testing.assert_allclose(numbers(sweep_of(found, 0, scale)), numbers(sweep_of(found)), **CLOSE)
    assert searched(sweep_of(found, 0, scale)) == searched(sweep_of(found))


def test_hyperparameters_are_chosen_alike():
    """A setting is better by its mean, whatever the sign."""
    for shift in (0.0, *SHIFTS):
        sweep = haiku_mup.Sweep({
            Trial("mup", 64, (("lr", 2.0**x), ("momentum", m)), seed): {
                "train_loss": np.array(shift + 0.1 * (x + 8)**2 + 0.3 * m * (x + 9) + [0.0, 0.2][seed])}
            for x in AT for m in (0.0, 0.9) for seed in (0, 1)})
        np.testing.assert_allclose(sweep.curves()["mup"][64].mean - shift,
                                   0.1 * (AT + 8)**2 + 0.1 + np.minimum(0, 0.27 * (AT + 9)), **CLOSE)


def test_what_is_not_finite_has_diverged():
    rows = [{"parametrization": "mup", "width": 64, "lr": 2.0**k, "train_loss": loss}
            for k, loss in enumerate([-1.0, -2.0, math.nan, -math.inf, math.inf])]
    curve = haiku_mup.sweep.curves(rows)["mup"][64]
    assert curve.best == 1 and np.isinf(curve.mean).tolist() == [False] * 2 + [True] * 3


def test_losses_of_one_sign_have_logarithms():
    curve = Curve.of_losses(np.array([-3.0, -2.0]), np.array([[1.0, math.e], [0.0, -1.0]]))
    np.testing.assert_allclose(curve.log_loss, [[0, 1], [np.nan, np.nan]])
    np.testing.assert_allclose(curve.log_mean, [0.5, np.inf])


def test_a_curve_of_logarithms_is_that_of_their_losses():
    """0.2.0 made curves of logarithms: such programs still do."""
    at, loss = np.array([-3.0, -2.0, -1.0]), np.array([[2.0, 3.0], [1.0, 1.5], [4.0, math.inf]])
    found, expected = Curve(at, np.log(loss)), Curve.of_losses(at, loss)
    np.testing.assert_allclose(found.loss, loss)
    np.testing.assert_array_equal(found.log_loss, expected.log_loss)
    assert found.optimum == pytest.approx(expected.optimum, nan_ok=True) and found.best == expected.best == -2


# --- the fit ---

@pytest.mark.parametrize("cliff", [1e2, 1e5, 1e12, 1e30, 1e300, math.inf])
def test_a_loss_beside_divergence_hardly_counts(cliff):
    """However high the loss at the cliff is, the optimum is that of the valley; unweighted it would be off."""
    at = np.arange(-11.0, -6.9, 0.5)
    valley = 0.1 * (at + 8.2)**2
    valley[-1] += cliff
    assert Curve.of_losses(at, valley[:, None]).optimum.log2_lr == pytest.approx(-8.2, abs=0.02)
    if cliff < 1e6:
        near = abs(at + 8) <= 1.5
        a, b, _ = np.polyfit(at[near], valley[near], 2)
        assert abs(-b / (2 * a) + 8.2) > 0.1


def test_curves_that_are_steeper_on_one_side():
    """The parabola through all near rates alike is farther off, on logarithms as well; so it was in 0.2.0."""
    errors = []
    for offset in np.linspace(-0.25, 0.25, 11):
        x = np.arange(-5.0, 4.0, 0.5) + offset
        loss = 3 + 0.3 * 2**(-0.6 * x) + 0.1 * 2**(2.5 * (x - 0.5))
        fine = np.linspace(-2, 2, 4001)
        true = fine[(0.3 * 2**(-0.6 * fine) + 0.1 * 2**(2.5 * (fine - 0.5))).argmin()]
        near = abs(x - x[loss.argmin()]) <= 1.5
        a, b, _ = np.polyfit(x[near], np.log(loss[near]), 2)
        errors.append((abs(Curve.of_losses(x, loss[:, None]).optimum.log2_lr - true), abs(-b / (2 * a) - true)))
    ours, on_logarithms = np.mean(errors, axis=0)
    assert ours < 0.75 * on_logarithms


def test_weights_fall_with_the_excess_over_the_lowest():
    np.testing.assert_allclose(weights_of(np.array([-4.0, -5.0, -3.0])), [0.25, 1, 1 / 9])
    np.testing.assert_array_equal(weights_of(np.array([2.0, 2.0])), [1, 1])
    tied = weights_of(np.array([1e3, 1e3 + 1e-12, 1e3 + 1, 1e3 + 2]))       # equal but for rounding
    np.testing.assert_allclose(tied, [1, 1, 0.25, 1 / 9])


def test_seeds_that_are_far_apart_at_a_cliff_shift_no_other_rate():
    """Seed 0 is worse by 0.1 in the valley, and by 1e4 at the cliff."""
    valley = [[1.1, 1.0], [0.5, 0.4], [0.6, np.nan], [1e4, 3.0], [1.4, 1.3]]
    means = marginal_means(np.array(valley))
    np.testing.assert_allclose(means[:3], [1.05, 0.45, 0.55], atol=0.01)
    assert argmin_rate(np.array(valley)) == 1


def test_tied_rates_stay_tied():
    """Losses that are counts have ties, which a sum must not break."""
    table = np.array([[3.0, 1.0, 2.0], [1.0, 2.0, 1.0], [2.0, 1.0, 1.0], [1.0, 1.0, 2.0]]) / 3
    assert {argmin_rate(table + shift) for shift in (0.0, *SHIFTS)} == {1}


# --- figures ---

def lines(figure):
    return [line for axes in figure.axes for line in axes.get_lines()]


@pytest.mark.parametrize("shift", SHIFTS)
def test_figures_are_shifted_alike(shift):
    """Where both axes are linear, figures are equal but for the numbers on the axis."""
    found = {trial: loss + 2e3 for trial, loss in losses(0).items()}
    plain, moved = sweep_of(found).plot(), sweep_of(found, shift).plot()
    assert plain.axes[0].get_yscale() == moved.axes[0].get_yscale() == "linear"
    for a, b in zip(lines(plain), lines(moved), strict=True):
        np.testing.assert_allclose(b.get_xdata(), a.get_xdata(), **CLOSE)
        np.testing.assert_allclose(np.array(b.get_ydata()) - shift, a.get_ydata(), rtol=1e-9, atol=1e-6)
    np.testing.assert_allclose(np.array(moved.axes[0].get_ylim()) - shift, plain.axes[0].get_ylim(), rtol=1e-9)


@pytest.mark.parametrize("values, scale", [
    ([2.0, 0.5, 0.01], "log"), ([3.5, 3.0, 2.9], "linear"), ([1.0, 0.5, 0.0], "linear"),
    ([1.0, -0.5, 2.0], "linear"), ([-3.0, -9.0, -1.0], "linear"), ([2.0, 1.0, 1e9], "log"),
    ([1.2, 1.0, 1e9], "linear"), ([5.0, 5.0, 5.0], "linear")])
def test_the_axis_is_logarithmic_where_losses_are_above_zero_and_differ_by_a_factor(values, scale):
    """What is cut off does not count."""
    rows = [{"parametrization": "mup", "width": 64, "lr": 2.0**k, "train_loss": loss}
            for k, loss in enumerate(values)]
    axes, = plot.lr_transfer(rows).axes
    assert axes.get_yscale() == scale
    low, high = axes.get_ylim()
    assert low < min(values) and (high > max(values) or max(values) == 1e9) and high < 100


@pytest.mark.parametrize("shift, scale", [(0.0, "log"), (-1.0, "linear"), (10.0, "linear")])
def test_learning_curves_have_an_axis_of_their_own(shift, scale):
    sweep = haiku_mup.Sweep({Trial("mup", 64, (("lr", 2.0**k),), seed): {
        "train_loss": shift + np.geomspace(2, 0.1 + abs(k + 8), 50)} for k in (-9, -8, -7) for seed in (0, 1)})
    axes, = sweep.plot_curves().axes
    assert axes.get_yscale() == scale
    np.testing.assert_allclose(axes.get_lines()[0].get_ydata(), shift + np.geomspace(2, 0.1, 50))


# --- which loss ---

def test_a_sweep_says_which_loss_it_is_judged_by():
    found = haiku_mup.Sweep({Trial("mup", width, (("lr", 2.0**x),), seed): {
        "valid_loss": np.array((x + 8)**2 + seed / 9 + 64 / width),
        "train_loss": np.full(20, (x + 9)**2 + seed / 9)}
        for width in (64, 128) for x in AT for seed in (0, 1)})
    assert str(found).startswith("judged by 'valid_loss'\nmup: ")
    assert "the widest of 2, judged by 'valid_loss'." in str(found.recommend())
    last = "judged by 'train_loss', the mean over the last tenth of a run's steps."
    assert last in str(found.recommend(loss="train_loss"))
