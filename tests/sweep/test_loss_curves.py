"""Loss curves: their means, their optimum and its interval, drift and setback."""
import csv
import io
import math
import time

import numpy as np
import pytest
from sweep_results import records

from haiku_mup import sweep
from haiku_mup.sweep.optimum import FIT_RADIUS, argmin_rate, marginal_means, weights_of

INF = math.inf
RATES = [k / 2 for k in range(-20, -7)]


def curve(losses):
    return sweep.curves(records(losses))["sp"][64]


def bowl(best, depth=1.0, seeds=(0.0,)):
    """Returns a curve: for each seed a parabola whose minimum is at best + the seed's offset."""
    return curve({k: [depth + 0.2 * (k - best - off)**2 for off in seeds] for k in RATES})


def test_curve_is_the_mean_between_the_extremes():
    got = curve({-7: [3.0, 3.0], -8.5: [2.0, 8.0]})
    np.testing.assert_array_equal(got.log2_lr, [-8.5, -7])
    np.testing.assert_allclose(got.mean, [5, 3])        # of losses of any sign there is no mean of logarithms
    np.testing.assert_allclose(got.low, [2, 3])
    np.testing.assert_allclose(got.high, [8, 3])
    assert got.best == -7


@pytest.mark.parametrize("losses, best", [
    ({-3: [1.0], -2: [0.5], -1: [0.7]}, -2),
    ({-3: [0.5], -2: [0.5]}, -3),                       # the first of equals
    ({-3: [1.0, 1.0], -2: [1e-9, INF]}, -3),            # a seed that diverged counts as inf
    ({-3: [1.0], -2: [math.nan]}, -3),
    ({-3: [1.0], -2: [-math.inf]}, -3),
    ({-3: [1e-3], -2: [0.0]}, -2), ({-3: [0.0], -2: [-5.0]}, -2), ({-3: [-5.0], -2: [-5.0 + 1e-9]}, -3),
])
def test_best(losses, best):
    assert curve(losses).best == best


def test_best_and_drift_are_nan_where_all_diverged():
    assert math.isnan(curve({-3: [INF], -2: [1.0, INF]}).best)
    assert math.isnan(sweep.drift({64: curve({-3: [INF]}), 128: curve({-3: [1.0]})}))


@pytest.mark.parametrize("best", [-8.0, -7.13, -6.75, -8.24])
def test_optimum_of_a_parabola_is_exact(best):
    got = bowl(best).optimum
    assert got.log2_lr == pytest.approx(best, abs=1e-9) and not got.at_edge
    assert math.isnan(got.low) and math.isnan(got.high)         # a single seed has no interval


def test_interval_is_that_of_the_jackknife():
    offsets = (0.1, -0.2, 0.4)
    got = bowl(-7, seeds=offsets).optimum
    # parabolas of one curvature: the optimum is the mean of the seeds' own, the jackknife's error that of
    # the mean, and t(2 degrees of freedom, 0.975) = 4.302653
    mean, error = np.mean(offsets), np.std(offsets, ddof=1) / math.sqrt(3)
    np.testing.assert_allclose(got[:3], -7 + mean + 4.302652729911275 * error * np.array([0, -1, 1]),
                               atol=1e-9)


def test_a_rate_with_one_seed_of_three_is_the_lowest_only_beside_that_seed():
    """The first seed is worse than the others, except at -7; the marginal means alone would choose -5."""
    of = {k: [0.2 * (k + 7)**2 + (k != -7) * worse for worse in (1, 0, 0)] for k in RATES}
    lucky = curve(of | {-5: [0.05]})
    assert lucky.log2_lr[marginal_means(lucky.loss).argmin()] == -5
    assert lucky.log2_lr[argmin_rate(lucky.loss)] == -7 and abs(lucky.optimum.log2_lr + 7) <= 0.5
    assert curve(of | {-5: [-0.7]}).optimum.log2_lr >= -5.5             # it is lower, there
    alone = curve({k: [INF] * 3 for k in of} | {-5: [-0.7]}).optimum    # the others diverge
    assert alone.log2_lr == -5 and not alone.at_edge
    edge = curve(of | {-4: [-0.7]}).optimum
    assert (edge.log2_lr, edge.at_edge) == (-4, True)


def test_a_rate_with_fewer_seeds_is_not_the_lowest_beside_one_that_is_lower_where_both_are():
    """Seeds far apart at the highest rates say little of others; unweighted marginal means choose index 1."""
    losses = np.array([[0.43, np.nan], [0.2, np.nan], [0.11, 0.03], [0.08, 0.01], [4.5, 3.3], [8.5, np.nan]])
    assert marginal_means(losses).argmin() == argmin_rate(losses) == 3


def test_rates_that_are_one_but_for_rounding():
    rates = np.sort([*range(-10, -3), -8 + 1e-12, -6.5, -6.5])
    found = sweep.Curve.of_losses(rates, (0.2 * (rates + 7)**2)[:, None])
    assert found.optimum.log2_lr == pytest.approx(-7, abs=1e-6)


def test_the_optimum_depends_only_on_rates_around_the_lowest():
    losses = {k: [0.2 * (k + 7)**2] for k in RATES}
    far = {k: [7.0 + k % 2] if abs(k + 7) > 1.5 else of for k, of in losses.items()}
    assert curve(far).optimum.log2_lr == pytest.approx(-7, abs=1e-9)


@pytest.mark.parametrize("rates", [
    (-9, -8, -7.5, -7, -6, -5), (-8.5, -8, -7, -6.5, -6), (-9, -7.5, -7, -6, -4)])
@pytest.mark.parametrize("best", [-7.4, -7.1])
def test_uneven_rates_have_the_optimum_of_a_parabola(rates, best):
    got = curve({x: [0.2 * (x - best)**2 - 1] for x in rates}).optimum
    assert got.log2_lr == pytest.approx(best, abs=1e-9)


def test_a_stretch_of_rates_weighs_alike_however_many_were_tried():
    """If a valley's steep side has more rates, it draws the parabola less than half as far as if unfilled."""
    ratios = []
    for steep in (2, 3, 5):
        def valley(x, steep=steep):
            return [0.3 * abs(x + 7.2) * (1 + steep * (x > -7.2))]

        whole = curve({x: valley(x) for x in np.arange(-10, -3.9, 0.5)}).optimum.log2_lr
        for rates in (-10, -8.5, -7.5, -7, -6.5, -6, -5.5, -4), (-10, -8.5, -7.5, -7, -6.5, -6, -5):
            some = curve({x: valley(x) for x in rates})
            near = abs(some.log2_lr + 7) <= FIT_RADIUS
            losses = some.loss[near, 0]
            a, b, _ = np.polyfit(some.log2_lr[near], losses, 2, w=np.sqrt(weights_of(losses)))
            ratios.append(abs(some.optimum.log2_lr - whole) / abs(-b / (2 * a) - whole))
    assert np.mean(ratios) < 0.5 and max(ratios) < 1, ratios


def test_rates_at_random_are_fast_and_exact():
    """Two rates may be as close as they like."""
    at = np.sort(np.random.default_rng(0).uniform(-10, -4, 30))
    at = np.append(at, at[10:13] + 1e-9)
    found = curve({x: [0.2 * (x + 7.1)**2] for x in np.sort(at)})
    before = time.perf_counter()
    assert found.optimum.log2_lr == pytest.approx(-7.1, abs=1e-6)       # Curve rounds its rates to 1e-10
    assert time.perf_counter() - before < 1


def test_nothing_is_filled_beside_a_rate_that_diverged():
    """No points are interpolated between the valley around -7 and a rate beyond one that diverged."""
    of = {x: [0.2 * (x + 7)**2] for x in (-8.5, -8, -7.5, -7, -6.5)}
    assert curve(of | {-6: [INF], -4: [0.1 + 40]}).optimum.log2_lr == pytest.approx(-7, abs=1e-9)


@pytest.mark.parametrize("losses, wanted", [
    ({-3: [1.0], -2: [2.0], -1: [3.0]}, (-3, True)),
    ({-3: [3.0], -2: [2.0], -1: [1.0]}, (-1, True)),
    ({-3: [3.0], -2: [1.0], -1: [INF]}, (-2, False)),           # two points make no parabola
    ({-9: [3.0], -5: [1.0], -1: [2.0]}, (-5, False)),           # nor do points far away
    ({-3: [INF], -2: [INF]}, (math.nan, False)),
])
def test_optimum_at_the_edge_and_without_a_parabola(losses, wanted):
    got = curve(losses).optimum
    np.testing.assert_array_equal((got.log2_lr, got.at_edge), wanted)
    assert math.isnan(got.low)


def test_a_seed_with_one_rate_is_left_out_of_the_parabola():
    rows = records({k: [(k + 7.2)**2] for k in RATES})
    rows.append({**rows[5], "seed": 1, "train_loss": -20.0})    # an interrupted run
    got = sweep.curves(rows)["sp"][64]
    assert np.isnan(got.loss).sum() == len(RATES) - 1
    assert sweep.curves(rows[:-1])["sp"][64].optimum.log2_lr == pytest.approx(-7.2)


def test_drift_is_the_range_of_the_optima():
    assert sweep.drift({w: bowl(b) for w, b in ((64, -7), (128, -8.5), (256, -8))}) == pytest.approx(1.5)
    assert sweep.drift({64: bowl(-7)}) == 0


def test_setback_is_in_standard_deviations_of_seeds():
    """Two seeds at ±s around their mean have a std of s√2; their difference has 2s."""
    def noisy(shift, s=0.1):
        return curve({k: [0.2 * (k + 7)**2 + shift + sign * s for sign in (1, -1)] for k in RATES})

    assert sweep.setback({64: noisy(0), 128: noisy(0.3)}) == pytest.approx(1.5)
    assert sweep.setback({128: noisy(0.3), 64: noisy(0)}) == pytest.approx(1.5)     # in any order
    assert sweep.setback({64: noisy(0), 128: noisy(-0.3)}) == pytest.approx(-1.5)
    assert sweep.setback({64: noisy(0), 128: noisy(-0.3), 256: noisy(-0.1)}) == pytest.approx(1)


def test_setback_depends_only_on_rates_below_both_optima():
    flat = {k: [0.2 * (k + 7)**2 + shift for shift in (0, 0.1)] for k in RATES}
    above = {k: [0.2 + a for a in of] if k > -7.5 else of for k, of in flat.items()}
    assert sweep.setback({64: curve(flat), 128: curve(above)}) == pytest.approx(0)
    diverged = flat | {-9.0: [INF, 1.0]}
    assert sweep.setback({64: curve(flat), 128: curve(diverged)}) == INF
    assert sweep.setback({64: curve(diverged), 128: curve(flat)}) < 1e-9


@pytest.mark.parametrize("widths", [{}, {64: bowl(-7)}, {64: bowl(-7), 128: bowl(-7)},
                                    {64: bowl(-9.5, seeds=(0, 0)), 128: bowl(-9.5, seeds=(0, 0))}])
def test_setback_without_seeds_or_rates_is_nan(widths):
    assert math.isnan(sweep.setback(widths))


def test_records_may_be_strings_of_a_csv():
    rows = records({-3: [1.0, INF], -2.5: [0.25, 0.5]})
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    read = list(csv.DictReader(io.StringIO(text.getvalue())))
    for a, b in zip(sweep.curves(read)["sp"][64], sweep.curves(rows)["sp"][64]):
        np.testing.assert_array_equal(a, b)
