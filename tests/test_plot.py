"""plot: what the curves are, and what is on the figure."""
import csv
import io
import math

import numpy as np
import pytest

from haiku_mup import plot

INF = math.inf


def records(losses, name="sp", width=64):
    """One record for each of {log2 lr: losses of the seeds}."""
    return [{"parametrization": name, "width": width, "lr": 2.0**k, "seed": seed, "train_loss": loss}
            for k, seeds in losses.items() for seed, loss in enumerate(seeds)]


def curve(losses):
    return plot.curves(records(losses))["sp"][64]


def test_curve_is_the_mean_of_logs_between_the_extremes():
    got = curve({-7: [3.0, 3.0], -8.5: [2.0, 8.0]})
    np.testing.assert_array_equal(got.log2_lr, [-8.5, -7])
    np.testing.assert_allclose(got.mean, [4, 3])
    np.testing.assert_array_equal(got.low, [2, 3])
    np.testing.assert_array_equal(got.high, [8, 3])
    assert got.best == -7


@pytest.mark.parametrize("losses, best", [
    ({-3: [1.0], -2: [0.5], -1: [0.7]}, -2),
    ({-3: [0.5], -2: [0.5]}, -3),                       # the first of equals
    ({-3: [1.0, 1.0], -2: [1e-9, INF]}, -3),            # a seed that diverged counts as inf
    ({-3: [1.0], -2: [math.nan]}, -3),
    ({-3: [1e-3], -2: [0.0]}, -2),                      # log 0 is no obstacle
])
def test_best(losses, best):
    assert curve(losses).best == best


def test_best_and_drift_are_nan_where_all_diverged():
    assert math.isnan(curve({-3: [INF], -2: [1.0, INF]}).best)
    assert math.isnan(plot.drift({64: curve({-3: [INF]}), 128: curve({-3: [1.0]})}))


def test_drift_is_the_range_of_the_optima():
    at = {w: curve({-4: [2.0], k: [1.0]}) for w, k in ((64, -2), (128, -3.5), (256, -3))}
    assert plot.drift(at) == 1.5


def test_records_may_be_strings_of_a_csv():
    rows = records({-3: [1.0, INF], -2.5: [0.25, 0.5]})
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    read = list(csv.DictReader(io.StringIO(text.getvalue())))
    for a, b in zip(plot.curves(read)["sp"][64], plot.curves(rows)["sp"][64]):
        np.testing.assert_array_equal(a, b)


def both():
    return [row for name in ("sp", "mup") for width in (64, 128)
            for row in records({-3: [2.0, 3.0], -2: [1.0, 1.5], -1: [1.0, INF]}, name, width)]


def test_figure_has_a_panel_a_parametrization_on_one_scale(tmp_path):
    figure = plot.lr_transfer(both(), tmp_path / "figure.png", title="what it shows")
    left, right = figure.axes
    assert (left.get_title(), right.get_title()) == ("standard", "μP")
    assert left.get_ylim() == right.get_ylim() and left.get_xlim() == right.get_xlim()
    assert left.get_yscale() == "log" and left.get_ylabel() == "training loss"
    assert [text.get_text() for text in right.get_legend().get_texts()] == ["64", "128"]
    assert figure.get_suptitle() == "what it shows"
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_figure_marks_the_optimum_and_cuts_what_diverged():
    axes = plot.lr_transfer(both()).axes[0]
    line, disc = axes.get_lines()[:2]
    assert np.isnan(line.get_ydata()).tolist() == [False, False, True]
    assert disc.get_xdata().tolist() == [-2]
    assert axes.get_title(loc="right") == "drift: 0 octaves"


def test_figure_leaves_out_what_is_far_above_the_start():
    axes = plot.lr_transfer(records({-3: [2.0], -2: [1.0], -1: [1e9]})).axes[0]
    assert 2 < axes.get_ylim()[1] < 100


@pytest.mark.parametrize("rows", [
    [], records({-3: [INF], -2: [INF]}),
    records({-3: [INF]}) + records({-3: [INF]}, name="mup"), records({-3: [1.0]}),
    records({-3: [0.0], -2: [1.0]}), records({-3: [INF], -2: [1.0]}, name="another"),
], ids=["none", "diverged", "both diverged", "one", "zero", "diverged at first"])
def test_figure_of_little(rows, tmp_path):
    plot.lr_transfer(rows, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 1000
