"""plot: what is on the figure."""
import math

import numpy as np
import pytest
from sweep_results import records

from haiku_mup import plot

INF = math.inf


def both():
    return [row for name in ("sp", "mup") for width in (64, 128)
            for row in records({-3: [2.0, 3.0], -2: [1.0, 1.5], -1: [1.0, INF]}, name, width)]


def test_figure_has_a_panel_a_parametrization_on_one_scale(tmp_path):
    figure = plot.lr_transfer(both(), tmp_path / "figure.png", title="what it shows",
                              caption="the command")
    left, right = figure.axes
    assert (left.get_title(loc="left"), right.get_title(loc="left")) == ("standard", "μP")
    assert left.get_ylim() == right.get_ylim() and left.get_xlim() == right.get_xlim()
    assert left.get_yscale() == "log" and left.get_ylabel() == "training loss"
    assert [text.get_text() for text in right.get_legend().get_texts()] == ["64", "128"]
    assert figure.get_suptitle() == "what it shows"
    assert figure.get_supxlabel().endswith("optimum\nthe command")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_figure_marks_the_optimum_and_cuts_what_diverged():
    losses = {k: [1 + (k + 2.3)**2 + shift for shift in (0, 0.1)] for k in (-4, -3, -2, -1)}
    axes = plot.lr_transfer(records({**losses, 0: [1.0, INF]}, width=64)
                            + records(losses, width=128)).axes[0]
    line, disc, bar = axes.get_lines()[:3]
    assert np.isnan(line.get_ydata()).tolist() == [False] * 4 + [True]
    np.testing.assert_allclose(disc.get_xdata(), [-2.3], atol=1e-9)
    assert disc.get_marker() == "o" and bar.get_xdata()[0] <= -2.3 <= bar.get_xdata()[1]
    assert axes.get_title(loc="right") == "optimum drifts by 0.0 octaves"


def test_a_width_has_one_colour_in_all_panels_and_is_in_the_legend():
    losses = {-3: [2.0], -2: [1.0], -1: [2.0]}
    left, right = plot.lr_transfer(records(losses, "sp", 64) + records(losses, "sp", 128)
                                   + records(losses, "mup", 128)).axes
    one, other = ({line.get_label(): tuple(line.get_color()) for line in axes.get_lines()}
                  for axes in (left, right))
    assert one["128"] == other["128"] != one["64"]
    assert [text.get_text() for text in right.get_legend().get_texts()] == ["64", "128"]


def test_figure_says_that_an_optimum_lies_at_the_edge():
    axes = plot.lr_transfer(records({-3: [1.0], -2: [2.0], -1: [3.0]}, width=64)
                            + records({-3: [3.0], -2: [2.0], -1: [1.0]}, width=128)).axes[0]
    assert [line.get_marker() for line in axes.get_lines() if len(line.get_xdata()) == 1] == ["<", ">"]
    assert axes.get_title(loc="right") == "optimum drifts by at least 2.0 octaves"


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
