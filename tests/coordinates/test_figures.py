"""The figure of a coordinate check."""
import itertools

import numpy as np
import pytest
from matplotlib import colors
from power_laws import points

from haiku_mup import CoordCheck
from haiku_mup.coordinates import figures


@pytest.mark.parametrize("count", [0, 1, 5, 300])
def test_the_picture_has_a_panel_a_step(count, tmp_path):
    many = [p._replace(step=step, quantity=f"activation linear_{i}") for i in range(count) for step in (0, 1)
            for p in points(0.5 * (i == 3), seeds=1)]
    figure = CoordCheck(many).plot(tmp_path / "check.png", compare=CoordCheck(many))
    assert (tmp_path / "check.png").read_bytes().startswith(b"\x89PNG")
    assert len(figure.axes) == (4 if count else 2)
    strong = [line for axes in figure.axes for line in axes.get_lines()
              if line.get_color() == figures.FAILED_COLOUR]
    named = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert len(strong) == len(named) == 4 * (count > 3)
    assert all(text == "+0.50 activation linear_3" for text in named)


# --- what a reader tells apart ---

def lab(colour):
    """Returns a colour's coordinates in CIELAB, in which distances are those that people see."""
    rgb = np.array(colors.to_rgb(colour))
    rgb = np.where(rgb > 0.04045, ((rgb + 0.055) / 1.055)**2.4, rgb / 12.92)
    matrix = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = np.cbrt(matrix @ rgb / (0.9505, 1.0, 1.089))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def test_colours_are_distinct():
    """A difference of 2 is just seen; 20 is another colour at a glance."""
    colours = [*figures.PALETTE, figures.FAILED_COLOUR, figures.OTHER_COLOUR]
    assert min(np.linalg.norm(lab(a) - lab(b)) for a, b in itertools.combinations(colours, 2)) > 20


@pytest.mark.parametrize("count", [3, 20])
def test_each_entry_of_the_legend_has_a_colour_of_its_own(count):
    many = [p for i in range(count) for p in points(0, seeds=1, quantity=f"activation layer{i}x")]
    legend, = CoordCheck(many).plot().legends
    colours = [line.get_color() for line in legend.get_lines()]
    assert len(set(colours)) == len(colours) == min(count, len(figures.PALETTE) + 1)
    last = legend.get_texts()[-1].get_text()
    assert last == ("layer2x" if count == 3 else f"{count - len(figures.PALETTE)} others")


def test_what_is_expected_to_fall_is_dashed_and_in_the_legend():
    falls = points(-0.5, seeds=1, quantity="output", expected="-0.5")
    figure = CoordCheck(falls + points(0, seeds=1)).plot()
    styles = {line.get_linestyle() for line in figure.axes[0].get_lines()}
    assert styles == {"--", "-"}
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts.count("expected to fall") == 1
    assert "expected to fall" not in [
        text.get_text() for text in CoordCheck(points(0, seeds=1)).plot().legends[0].get_texts()]


@pytest.mark.parametrize("slope", [0.0, 0.01, 0.1, 0.5, 1.5])
def test_the_axis_of_sizes_has_two_ticks_at_least(slope):
    figure = CoordCheck(points(slope, seeds=1)).plot()
    figure.draw_without_rendering()
    axis, (low, high) = figure.axes[0].yaxis, figure.axes[0].get_ylim()
    ticks = [tick for minor in (False, True) for tick in axis.get_ticklabels(minor=minor)
             if tick.get_text() and low <= tick.get_position()[1] <= high]
    assert len(ticks) >= 2
