"""Records -> figures: loss against the learning rate, a curve for each width."""
import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from haiku_mup.sweep import Curve, curves, drift

TITLES = {"sp": "standard", "mup": "μP"}
LABELS = {"train_loss": "training loss", "valid_loss": "validation loss"}
KEY = ("line: geometric mean over seeds   shade: smallest to largest   "
       "disc: optimum, with its 95% interval   band: half an octave around the narrowest's optimum")
GREY = "0.35"


def lr_transfer(rows: Iterable[Mapping[str, Any]], path: str | pathlib.Path | None = None, *,
                loss: str = "train_loss", title: str = "", caption: str = "") -> Figure:
    """Draws loss against log2 learning rate: a panel per parametrization, a curve per width.

    A curve is the geometric mean over seeds, its shade runs from their smallest loss to their
    largest. A disc marks its optimum (a triangle that points outwards: it lies at the end of the rates
    that were tried, or beyond), and a bar the optimum's interval over seeds: see `sweep.Optimum`. The
    grey band is half an octave to either side of the narrowest width's optimum. Where a seed diverged
    there is no curve, and losses far above those at the smallest learning rates are out of the picture.

    Args:
      rows: records, as in `sweep.curves`.
      path: where to save the figure, if anywhere.
      loss: the key of the loss.
      title: a line above the panels.
      caption: a line below them, such as the command that makes the figure.

    Returns:
      The figure, of matplotlib.

    >>> rows = [{"parametrization": "sp", "width": 64, "lr": 2.0**k, "train_loss": 2 + k % 3}
    ...         for k in range(-9, -4)]
    >>> [axes.get_title(loc="left") for axes in lr_transfer(rows).axes]
    ['standard']
    """
    panels = curves(rows, loss)
    figure = Figure(figsize=(1.2 + 4.4 * max(len(panels), 1), 4.8), layout="constrained")
    grid = figure.subplots(1, max(len(panels), 1), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (name, widths) in zip(grid, panels.items()):
        _draw(axes, widths)
        _describe(axes, TITLES.get(name, name), widths)
    _scale(grid[0], [curve for widths in panels.values() for curve in widths.values()])
    grid[0].set_ylabel(LABELS.get(loss, loss), fontsize=13)
    if panels:
        grid[-1].legend(title="width", frameon=False, loc="upper left", bbox_to_anchor=(1, 1),
                        fontsize=12, title_fontsize=12)
    figure.suptitle(title, fontsize=12)
    figure.supxlabel("\n".join(filter(None, (KEY if len(panels) > 1 else "", caption))), fontsize=8.5,
                     color=GREY)
    if path is not None:
        figure.savefig(path, dpi=200)
    return figure


def _draw(axes: Axes, widths: Mapping[int, Curve]) -> None:
    """A curve, its shade and its optimum for each width: the wider, the darker."""
    shades = matplotlib.colormaps["viridis_r"](np.linspace(0.12, 1, len(widths)))
    for shade, (width, curve) in zip(shades, sorted(widths.items())):
        shown = np.isfinite(curve.high)
        x, mean, low, high = (np.where(shown, part, np.nan)
                              for part in (curve.log2_lr, curve.mean, curve.low, curve.high))
        axes.fill_between(x, low, high, color=shade, alpha=0.15, linewidth=0)
        axes.plot(x, mean, color=shade, linewidth=2, label=f"{width}")
        _mark(axes, curve, shade)


def _mark(axes: Axes, curve: Curve, shade: Any) -> None:
    """The optimum, at the height that the curve has there, and its interval."""
    best = curve.optimum
    if math.isnan(best.log2_lr):
        return
    at = np.isfinite(curve.mean)
    height = math.exp(np.interp(best.log2_lr, curve.log2_lr[at], np.log(curve.mean[at])))
    outwards = "<" if best.log2_lr == curve.log2_lr[0] else ">"
    axes.plot([best.log2_lr], [height], outwards if best.at_edge else "o", color=shade, markersize=10,
              markeredgecolor="white", markeredgewidth=1.5, zorder=4)
    if not math.isnan(best.low):
        axes.plot([best.low, best.high], [height, height], color=shade, linewidth=2, marker="|",
                  markersize=9, zorder=3)


def _describe(axes: Axes, title: str, widths: Mapping[int, Curve]) -> None:
    axes.set_title(title, fontsize=14, loc="left")
    if len(widths) > 1:
        axes.set_title(_drift(widths), loc="right", fontsize=11, color=GREY)
        narrowest = widths[min(widths)].optimum.log2_lr
        if not math.isnan(narrowest):
            axes.axvspan(narrowest - 0.5, narrowest + 0.5, color="0.93", zorder=0, linewidth=0)
    axes.set_xlabel("log2 learning rate", fontsize=13)
    axes.tick_params(labelsize=12)
    axes.grid(alpha=0.3, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _drift(widths: Mapping[int, Curve]) -> str:
    octaves = drift(widths)
    if math.isnan(octaves):
        return ""
    least = "at least " * any(curve.optimum.at_edge for curve in widths.values())
    return f"optimum drifts by {least}{octaves:.1f} octaves"


def _scale(axes: Axes, drawn: Sequence[Curve]) -> None:
    """The scale of this panel and all that share it."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(NullLocator())
    shown = [loss for curve in drawn for pair in zip(curve.low, curve.high)
             for loss in pair if math.isfinite(pair[1])] or [1.0]
    starts = [curve.high[0] for curve in drawn if math.isfinite(curve.high[0])] or [math.inf]
    axes.set_ylim(min(shown) / 1.3, min(1.3 * max(shown), 5 * max(starts)))
