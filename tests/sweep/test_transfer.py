"""`Sweep.transfer`: its measures on curves whose answers are known."""
import math

import numpy as np
import pytest

import haiku_mup
from haiku_mup import Trial
from haiku_mup.sweep.loss_curves import Curve
from haiku_mup.sweep.transfer import Estimate, limit_of, loss_at, mean_with_interval, transfer

AT = np.arange(-14.0, -1)
WIDTHS = (64, 128, 256, 512)
SEEDS = np.array([0.0, 0.02, -0.02])


def bowls(exponent, widths=WIDTHS, *, at=AT, curvature=lambda width: 0.1, level=lambda width: 2 + 64 / width,
          seeds=SEEDS, noise=0.0):
    """Curves by width: parabolas whose best rate is 2^-7.3 · (width / 64)^exponent, with chance by seed."""
    rng, curves = np.random.default_rng(0), {}
    for width in widths:
        best = -7.3 + exponent * np.log2(width / 64) + noise * rng.normal(size=len(seeds))
        curves[width] = Curve.of_losses(
            at, curvature(width) * (at[:, None] - best)**2 + level(width) + seeds)
    return curves


# --- the law ---

@pytest.mark.parametrize("exponent", [0.0, -0.5, -1.0, 0.25])
def test_the_exponent_and_the_prediction_are_those_that_were_put_in(exponent):
    found = transfer(bowls(exponent))
    assert found.exponent.value == pytest.approx(exponent, abs=0.01) and found.fit_error < 0.02
    assert math.log2(found.predict(4096).value) == pytest.approx(-7.3 + 6 * exponent, abs=0.06)
    assert found.exponent.low <= found.exponent.value <= found.exponent.high


def test_a_bend_shows_as_an_error_of_the_fit():
    straight, bent = transfer(bowls(0.0)), transfer({**bowls(0.0), 512: _moved(bowls(0.0)[512], 2.0)})
    assert straight.fit_error < 0.02 < 0.5 < bent.fit_error
    assert math.isnan(transfer(bowls(-1.0, (64, 128))).fit_error)       # a law goes through any two


def _moved(curve, octaves):
    """Returns the curve at rates that are so many octaves higher."""
    return Curve.of_losses(curve.log2_lr + octaves, curve.loss)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    def covered(seed):
        rng = np.random.default_rng(seed)
        curves = {width: Curve.of_losses(AT, 0.1 * (AT[:, None] + 7.3 + np.log2(width / 64)
                                                    + 0.3 * rng.normal(size=4))**2) for width in WIDTHS}
        found = transfer(curves)
        truth = -7.3 - 4
        predicted = found.predict(1024)
        return (found.exponent.low <= -1 <= found.exponent.high,
                math.log2(predicted.low) <= truth <= math.log2(predicted.high))

    exponent, prediction = np.mean([covered(seed) for seed in range(60)], axis=0)
    assert exponent >= 0.9 and prediction >= 0.9
    assert transfer(bowls(-1.0, noise=0.3)).exponent.half < 0.5         # and not by being endless


def test_widths_whose_best_rate_is_the_last_that_was_tried_take_no_part():
    curves = bowls(-1.0)
    curves[512] = Curve.of_losses(AT, AT[:, None] + SEEDS)              # lower and lower
    found = transfer(curves)
    assert found.widths == (64, 128, 256) and found.exponent.value == pytest.approx(-1, abs=0.01)
    diverged = transfer({width: Curve.of_losses(AT, np.full((13, 3), np.inf)) for width in (64, 128)})
    assert diverged.widths == () and math.isnan(diverged.exponent.value) and math.isnan(diverged.lost.value)
    assert math.isnan(diverged.predict(512).value) and "unknown" in str(diverged)


def test_one_seed_has_no_interval():
    found = transfer(bowls(-1.0, seeds=SEEDS[:1]))
    assert math.isnan(found.exponent.half) and math.isnan(found.lost.half) and "±" not in str(found)


# --- what an error costs ---

def test_the_loss_of_an_error_and_its_exponent():
    found = transfer(bowls(0.0, curvature=lambda width: 0.1 * (width / 64)**0.5))
    assert found.sensitivities[64] == pytest.approx(0.1, rel=0.02)      # of one octave, in a parabola
    assert found.sensitivity_exponent == pytest.approx(0.5, abs=0.01)
    assert transfer(bowls(-1.0)).sensitivity_exponent == pytest.approx(0.0, abs=0.01)


@pytest.mark.parametrize("exponent, lost", [(0.0, 0.0), (-1.0, 0.1 * 3**2), (-0.5, 0.1 * 1.5**2)])
def test_the_loss_lost_by_the_bases_best_rate(exponent, lost):
    found = transfer(bowls(exponent))
    assert found.lost.value == pytest.approx(lost, rel=0.03, abs=0.003)
    assert found.lost.low <= found.lost.value <= found.lost.high


def test_the_share_of_the_computation():
    """The lowest loss falls by 0.1 an octave: 0.2 are two octaves of the width, 1 - 2^-4 of the computation."""
    curves = bowls(-(2**0.5) / 3, level=lambda width: 3 - 0.1 * np.log2(width))      # 0.1 · (√2)² = 0.2
    found = transfer(curves)
    assert found.lost.value == pytest.approx(0.2, rel=0.03)
    assert found.lost_share == pytest.approx(1 - 2**-4, abs=0.01)
    assert transfer(curves, compute_exponent=1.0).lost_share == pytest.approx(1 - 2**-2, abs=0.02)
    rising = transfer(bowls(-1.0, level=lambda width: width / 64))
    assert math.isnan(rising.lost_share) and "computation" not in str(rising)


def test_a_base_rate_that_diverges_at_the_target_loses_everything():
    curves = bowls(-1.0)
    curves[512] = Curve.of_losses(AT, np.where(AT[:, None] > -9, np.inf, curves[512].loss))
    assert transfer(curves).lost.value == math.inf


def test_losses_between_rates():
    x = np.array([-3.0, -2.0, -1.0, 0.0])
    curve = Curve.of_losses(x, np.array([[3.0], [2.0], [1.0], [np.inf]]))
    assert loss_at(curve, -1.5) == pytest.approx(1.5) and loss_at(curve, -1.0)[0] == 1.0
    assert loss_at(curve, -0.5)[0] == np.inf and np.isnan(loss_at(curve, -4.0)[0])
    parabola = Curve.of_losses(x, (x[:, None] + 1.3)**2)
    assert loss_at(parabola, -1.3)[0] == pytest.approx(0.0, abs=1e-12)
    steep = Curve.of_losses(x, np.array([[0.2], [0.1], [0.0], [1e6]]))
    assert 0.0 <= loss_at(steep, -1.5)[0] <= 0.1


# --- the limit ---

@pytest.mark.parametrize("limit, exponent", [(1.5, 1.0), (0.0, 0.5), (2.0, 0.33)])
def test_the_limit_of_the_lowest_loss(limit, exponent):
    found = limit_of({width: limit + 8 / width**exponent for width in WIDTHS})
    assert found == pytest.approx(limit, abs=0.02)


def test_no_limit_without_a_fall_or_with_two_widths():
    assert math.isnan(limit_of({64: 2.0, 128: 1.0})) and math.isnan(limit_of({64: 1.0, 128: 2.0, 256: 3.0}))


def test_students_interval():
    """By hand: deviation 1, √3 seeds, t = 4.303."""
    assert mean_with_interval(np.array([1.0, 2.0, 3.0])).half == pytest.approx(4.3027 / 3**0.5, rel=1e-4)
    assert math.isnan(mean_with_interval(np.array([1.0])).half) and Estimate(1.0, 0.0, 2.0).half == 1


# --- Sweep ---

def test_a_sweep_gives_it_by_parametrization():
    losses = {}
    for name, exponent in (("sp", -1.0), ("mup", 0.0)):
        for width, curve in bowls(exponent).items():
            for rate, by_seed in zip(curve.log2_lr, curve.loss):
                for seed, loss in enumerate(by_seed):
                    losses[Trial(name, width, (("lr", 2.0**rate),), seed)] = {"valid": np.array(loss)}
    found = haiku_mup.Sweep(losses).transfer()
    assert {name: round(each.exponent.value, 1) for name, each in found.items()} == {"sp": -1, "mup": 0}
    assert found["sp"].lost.value > 0.8 and abs(found["mup"].lost.value) < 0.01
