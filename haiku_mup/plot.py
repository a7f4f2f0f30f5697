"""Figures of coordinate checks and of sweeps; needs matplotlib."""
import os

from matplotlib.figure import Figure

from haiku_mup.coordinates.result import CoordCheck
from haiku_mup.sweep.figures import lr_transfer

__all__ = ["coordinates", "lr_transfer"]


def coordinates(check: CoordCheck, path: str | os.PathLike[str] | None = None, *,
                compare: CoordCheck | None = None) -> Figure:
    """Draws the size of what modules return against the width, on logarithmic scales: a panel for each step.

    Modules of one name have one colour. Quantities that fail, parameters and their changes included, are thick
    red lines; the worst ones are labelled with slope and name. (Tensor Programs V, arXiv 2203.03466, Figure 5.)

    Args:
      check: what `coord_check` found.
      path: where to save the figure, if anywhere.
      compare: another check, in a second row on the same scale.

    Returns:
      The figure, a matplotlib `Figure`.

    >>> points = [haiku_mup.Point("mup", width, 0, step, "activation linear", "l1", 1.0, "0")
    ...           for width in (64, 128) for step in (0, 1)]
    >>> [axes.get_title(loc="left") for axes in coordinates(haiku_mup.CoordCheck(points)).axes]
    ['μP: step 0', 'μP: step 1']
    """
    figure: Figure = check.plot(path, compare=compare)
    return figure
