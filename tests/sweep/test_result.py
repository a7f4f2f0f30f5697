"""`Sweep`: curves over rates, recommendations with their warnings, figures."""
import math

import numpy as np
import pytest

import haiku_mup
from haiku_mup import sweep
from haiku_mup.sweep.loss_curves import final_loss
from haiku_mup.sweep.trial import Trial

WIDTHS, AT = (64, 128, 256), np.arange(-12.0, -5.9, 0.5)


def make_sweep(loss, widths=WIDTHS, at=AT, seeds=3, name="mup", missing=(), **others):
    """Returns a sweep with losses loss(width, log2 lr, seed)."""
    return haiku_mup.Sweep({
        Trial(name, width, (("lr", 2.0**x), *others.items()), seed): {
            "train_loss": np.array(loss(width, x, seed))}
        for width in widths for x in at for seed in range(seeds)}, missing)


def bowl(best=lambda width: -8.2, depth=lambda width: -0.001 * width, seeds=(0.0, 0.004, -0.004), move=0.02):
    """Returns a loss: a parabola; each seed's is a little higher or lower, its minimum a little off."""
    return lambda width, x, seed: (
        1 + depth(width) + 0.2 * (x - best(width) - move * (seed - 1))**2 + seeds[seed])


# --- curves ---

def test_each_rate_has_the_best_setting_of_the_others():
    """Momentum helps at low rates, by the mean of its seeds, and hurts at high ones."""
    one, other = (make_sweep(lambda w, x, s, m=m: 1 + abs(x + 9 - m) + 0.1 * s, [64], momentum=m)
                  for m in (0.0, -1.0))
    both = haiku_mup.Sweep({**one.losses, **other.losses})
    curve = both.curves()["mup"][64]
    np.testing.assert_allclose(curve.loss[:, 0], 1 + np.minimum(abs(AT + 9), abs(AT + 10)))
    assert curve.loss.shape == (len(AT), 3) and len(both.rows()) == 2 * 3 * len(AT)


def test_the_loss_of_a_run_is_the_mean_over_its_last_tenth():
    assert final_loss(np.arange(100.0)) == np.arange(90, 100).mean() and final_loss(np.array([3.0, 1.0])) == 1
    assert final_loss(np.array([1.0] * 9 + [np.inf])) == math.inf and final_loss(np.float32(2)) == 2


def test_a_loss_that_is_not_there_is_named():
    with pytest.raises(haiku_mup.MupError, match="loss='valid': no trial returned it; there are 'train_loss'"):
        make_sweep(bowl()).curves("valid")
    with pytest.raises(haiku_mup.MupError, match="recorded at each step"):
        make_sweep(bowl()).plot_curves()


def test_missing_seeds_shift_no_optimum():
    """Seeds 1 and 2 lie far above seed 0, and only some rates have them."""
    whole = make_sweep(bowl(seeds=(0.0, 3.0, 5.0), move=0), [64])
    part = haiku_mup.Sweep({t: x for t, x in whole.losses.items()
                            if t.seed == 0 or math.log2(t.point[0][1]) in (-9, -8, -7)})
    a, b = (it.curves()["mup"][64].optimum for it in (whole, part))
    assert a.log2_lr == pytest.approx(-8.2, abs=1e-9) and b.log2_lr == pytest.approx(-8.2, abs=1e-9)
    assert b.high - b.low == pytest.approx(0, abs=1e-9)


def test_beside_a_rate_that_diverges_the_interval_reaches_to_the_neighbours():
    """A loss that falls up to a cliff: its parabola's minimum lies beyond."""
    at = np.arange(-12.0, -7.5, 0.5)
    cliff = make_sweep(lambda w, x, s: math.inf if x > -9 else math.exp(0.1 * (x + 7.0 + 0.1 * s)**2), [64], at)
    assert cliff.best()["mup"][64] == (-9, -9.5, -8.5, False)
    steep = make_sweep(
        lambda w, x, s: math.exp((x + 10)**2 if x <= -10 else 0.05 * (x + 10) + s / 100), [64], at)
    found = steep.best()["mup"][64]
    assert found.low == -10.5 and found.high == -9.5 and abs(found.log2_lr + 10) <= 0.5


# --- recommendations ---

def wall(side):
    """Returns a loss that rises gently on one side of -9 and a hundredfold on the other."""
    def loss(width, x, seed):
        return math.exp(0.1 * (x + 9) * side if (x + 9) * side >= 0 else 5 - (x + 9) * side) + 0.001 * seed
    return loss


def test_where_the_curves_agree_the_rate_of_the_widest_is_recommended_without_a_warning(recwarn):
    advice = make_sweep(bowl(lambda width: -8.2 + 0.1 * (width == 256))).recommend()
    assert advice.transfers and not recwarn and advice.doubts == []
    assert math.log2(advice.lr) == pytest.approx(-8.1, abs=1e-6)
    assert "2^-8.1, 95% interval" in str(advice) and "at width 256, the widest of 3" in str(advice)
    assert "moves by 0.1 octaves" in str(advice) and "a wider model is never worse" in str(advice)


@pytest.mark.parametrize("found, said", [
    (make_sweep(bowl(lambda w: -13.0)),
     "at width 64, 128, 256 the lowest rate that was tried is the best: try low"),
    (make_sweep(bowl(lambda w: -8.2 if w < 256 else -5)),
     "at width 256 the highest rate that was tried is the b"),
    (make_sweep(bowl(lambda w: -6.7 - math.log2(w / 64))), "2.0 octaves are too far to call it one rate"),
    (make_sweep(bowl(depth=lambda w: 0.001 * w)), "a wider model is worse than a narrower one at some rate"),
    (make_sweep(bowl(depth=lambda w: 0.001 * w)), "the best loss at width 128, 256 is above that of the next"),
    (make_sweep(bowl(move=0.5)), "the seeds leave the best rate uncertain by more than half an octave"),
    (make_sweep(wall(1)), "the seeds leave the best rate uncertain by more than half an octave"),
    (make_sweep(wall(-1)), "the seeds leave the best rate uncertain by more than half an octave"),
    (make_sweep(lambda w, x, s: 2.0 + s - w / 1000), "at width 64, 128, 256 the loss is the same at all rates"),
    (make_sweep(lambda w, x, s: bowl()(w, x, s) if w < 256 else 0.0),
     "at width 256 the loss is the same at all rates"),
    (make_sweep(bowl(), seeds=1), "there is only one seed"),
    (make_sweep(bowl(), [64]), "there is only one width"),
    (make_sweep(bowl(), name="sp"), "this is the standard parametrization"),
    (make_sweep(lambda w, x, s: math.inf), "Every one diverged"),
    (make_sweep(lambda w, x, s: math.inf if w == 128 else bowl()(w, x, s)), "at width 128 every rate diverged"),
    (make_sweep(bowl(), missing=[haiku_mup.Missing(Trial("mup", 64, (("lr", 1.0),), 0), "gone")]),
     "1 trials are missing"),
])
def test_reasons_against_the_rate_are_warned_of(found, said):
    with pytest.warns(haiku_mup.MupWarning, match="may not transfer, for . reason") as warned:
        advice = found.recommend()
    assert not advice.transfers and any(said in doubt for doubt in advice.doubts)
    assert said not in str(warned[0].message) and str(advice).count(said) == 1      # printed, each is read once


def test_of_equal_rates_none_is_at_an_edge_and_a_loss_that_differs_once_depends_on_the_rate():
    flat = make_sweep(lambda w, x, s: 2.0 + s)
    with pytest.warns(haiku_mup.MupWarning):
        assert not any("rate that was tried" in doubt for doubt in flat.recommend().doubts)
    assert make_sweep(lambda w, x, s: 2.0 + s + (s == 1) * bowl()(w, x, s)).recommend().doubts == []
    cliff = make_sweep(lambda w, x, s: math.inf if x > -7 else 2.0 + s)
    with pytest.warns(haiku_mup.MupWarning):
        assert any("the lowest rate that was tried" in doubt for doubt in cliff.recommend().doubts)


def test_which_parametrization_is_recommended():
    both = haiku_mup.Sweep({**make_sweep(bowl(), name="sp").losses, **make_sweep(bowl(lambda w: -9.2)).losses})
    assert math.log2(both.recommend().lr) == pytest.approx(-9.2, abs=1e-6)
    with pytest.raises(haiku_mup.MupError, match="there are 'sp', 'mup'; name one"):
        both.recommend("ntp")


# --- figures ---

def test_learning_curves_are_at_one_rate_a_panel():
    """The rate is the nearest to the narrowest width's best; a seed that diverged leaves a gap."""
    def losses(width, x, seed):
        steps = np.arange(1.0, 401.0)
        gone = np.where((steps > 200) & (width == 128), np.inf, 0)
        return (x + 8.2)**2 + 64 / width + 1 / steps + gone

    figure = make_sweep(losses).plot_curves(title="t", caption="c")
    axes, = figure.axes
    assert axes.get_title(loc="right") == f"learning rate {2.0**-8:.3g}"
    drawn = [line.get_ydata() for line in axes.get_lines()]
    assert [len(y) for y in drawn] == [100] * 3
    assert drawn[0][-1] == pytest.approx(0.04 + 1 + 1 / 398.5, rel=1e-4)
    assert np.isnan(drawn[1][50:]).all() and not np.isnan(drawn[1][:50]).any()
    assert (drawn[2] < drawn[0]).all()


def test_a_lucky_seed_alone_is_no_better_width():
    """At width 128 the best rate has only seed 1, which is worse at every rate: wider is still better."""
    whole = make_sweep(bowl(seeds=(0.0, 1.0), move=0, depth=lambda width: -0.002 * width), (64, 128), seeds=2)
    part = haiku_mup.Sweep({t: x for t, x in whole.losses.items() if (t.width, t.seed, t.point[0][1]) not in [
        (128, 0, 2.0**x) for x in AT if x >= -8.5]})
    a, b = (it.curves()["mup"][128] for it in (whole, part))
    assert b.best == a.best and b.lowest == pytest.approx(a.lowest) and b.mean == pytest.approx(a.mean)
    assert part.recommend().transfers


def test_curves_of_sweeps_are_those_of_records():
    found = make_sweep(bowl())
    a, b = found.curves()["mup"], sweep.curves(found.rows())["mup"]
    assert all((a[w].loss == b[w].loss).all() for w in WIDTHS)
