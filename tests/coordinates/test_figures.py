"""The figure of a coordinate check."""
import pytest
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
