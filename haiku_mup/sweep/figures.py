"""Loss against the step of training, a curve for each width: in μP, wider is better throughout."""
import os
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from haiku_mup.plot import GREY, LABELS, TITLES
from haiku_mup.sweep.loss_curves import FLOOR

POINTS = 100        # of a curve, each the mean over as many steps
KEY = "line: geometric mean over seeds   shade: smallest to largest   each point is a mean over {} steps"


def draw(panels: Mapping[str, tuple[float, Mapping[int, np.ndarray]]], loss: str,
         path: str | os.PathLike[str] | None, title: str, caption: str) -> Figure:
    """A panel for each parametrization.

    Args:
      panels: {parametrization: (the learning rate, {width: losses [seeds, steps]})}.
      loss: its name.
      path: where to save the figure, if anywhere.
      title: a line above.
      caption: a line below.

    >>> len(draw({"mup": (0.5, {64: np.ones((2, 8))})}, "train_loss", None, "", "").axes)
    1
    """
    figure = Figure(figsize=(1.2 + 4.4 * len(panels), 4.8), layout="constrained")
    grid = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    every = sorted({width for _, widths in panels.values() for width in widths})
    shades = dict(zip(every, matplotlib.colormaps["viridis_r"](np.linspace(0.12, 1, len(every)))))
    steps = max(losses.shape[1] for _, widths in panels.values() for losses in widths.values())
    for axes, (name, (lr, widths)) in zip(grid, panels.items()):
        for width, losses in sorted(widths.items()):
            _line(axes, losses, shades[width], -(-steps // POINTS))
        axes.set_title(TITLES.get(name, name), fontsize=14, loc="left")
        axes.set_title(f"learning rate {lr:.3g}", fontsize=11, loc="right", color=GREY)
        axes.set_xlabel("step", fontsize=13)
        axes.tick_params(labelsize=12)
        axes.grid(alpha=0.3, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    grid[0].set_yscale("log")
    grid[0].set_ylabel(LABELS.get(loss, loss), fontsize=13)
    handles = [Line2D([], [], color=shade, linewidth=2, label=width) for width, shade in shades.items()]
    grid[-1].legend(handles=handles, title="width", frameon=False, loc="upper left", bbox_to_anchor=(1, 1),
                    fontsize=12, title_fontsize=12)
    figure.suptitle(title, fontsize=12)
    key = KEY.format(-(-steps // POINTS)) if len(panels) > 1 else ""
    figure.supxlabel("\n".join(filter(None, (key, caption))), fontsize=8.5, color=GREY)
    if path is not None:
        figure.savefig(path, dpi=200)
    return figure


def _line(axes: Any, losses: np.ndarray, shade: Any, size: int) -> None:
    """The mean of some steps after the other; nothing where a seed diverged."""
    whole = losses[:, :losses.shape[1] // size * size].reshape(len(losses), -1, size).mean(axis=2)
    shown = np.where(np.isfinite(whole).all(axis=0), np.maximum(whole, FLOOR), np.nan)
    x = (np.arange(whole.shape[1]) + 0.5) * size
    axes.fill_between(x, shown.min(axis=0), shown.max(axis=0), color=shade, alpha=0.15, linewidth=0)
    axes.plot(x, np.exp(np.log(shown).mean(axis=0)), color=shade, linewidth=2)


def stacked(losses: Sequence[np.ndarray]) -> np.ndarray:
    """[seeds, steps], as many steps as all have.

    >>> stacked([np.ones(3), np.ones(2)]).shape
    (2, 2)
    """
    steps = min(len(x) for x in losses)
    return np.array([x[:steps] for x in losses], np.float64)
