"""Figures of sweeps: loss against the learning rate, and against the step of training."""
import math
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator

from haiku_mup.coordinates.figure_style import GREY, TITLES
from haiku_mup.sweep.loss_curves import FLOOR, Curve, curves, drift

LABELS = {"train_loss": "training loss", "valid_loss": "validation loss"}
KEY = ("line: geometric mean over seeds   shade: smallest to largest   "
       "disc: optimum, with its 95% interval   band: half an octave around the narrowest's optimum")
POINTS = 100        # of a curve, each the mean over as many steps
CURVES_KEY = "line: geometric mean over seeds   shade: smallest to largest   each point is a mean over {} steps"


def lr_transfer(rows: Iterable[Mapping[str, Any]], path: str | pathlib.Path | None = None, *,
                loss: str = "train_loss", title: str = "", caption: str = "", size: str = "width") -> Figure:
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
      size: what the records' `width` is, where it is something else that grows.

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
    every = sorted({width for widths in panels.values() for width in widths})
    shades = dict(zip(every, matplotlib.colormaps["viridis_r"](np.linspace(0.12, 1, len(every)))))
    for axes, (name, widths) in zip(grid, panels.items()):
        _draw(axes, widths, shades)
        _describe(axes, TITLES.get(name, name), widths)
    _scale(grid[0], [curve for widths in panels.values() for curve in widths.values()])
    grid[0].set_ylabel(LABELS.get(loss, loss), fontsize=13)
    if panels:
        handles = [Line2D([], [], color=shade, linewidth=2, label=width) for width, shade in shades.items()]
        grid[-1].legend(handles=handles, title=size, frameon=False, loc="upper left",
                        bbox_to_anchor=(1, 1), fontsize=12, title_fontsize=12)
    figure.suptitle(title, fontsize=12)
    figure.supxlabel("\n".join(filter(None, (KEY if len(panels) > 1 else "", caption))), fontsize=8.5,
                     color=GREY)
    if path is not None:
        figure.savefig(path, dpi=200)
    return figure


def _draw(axes: Axes, widths: Mapping[int, Curve], shades: Mapping[int, Any]) -> None:
    """A curve, its shade and its optimum for each width: the wider, the darker."""
    for width, curve in sorted(widths.items()):
        shade = shades[width]
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


# --- loss over the steps of training ---

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
    key = CURVES_KEY.format(-(-steps // POINTS)) if len(panels) > 1 else ""
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
