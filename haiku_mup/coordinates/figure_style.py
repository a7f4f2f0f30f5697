"""Titles, colours and axes that the figures of coordinate checks and of sweeps share."""
from matplotlib.axes import Axes

TITLES = {"sp": "standard", "mup": "μP"}        # of a panel, by the parametrization's name
GREY = "0.35"


def plain_axes(axes: Axes) -> None:
    """Draws a faint grid, and no frame at the top and on the right."""
    axes.grid(alpha=0.3, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
