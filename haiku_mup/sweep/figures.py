"""Figures of sweeps: the loss against the learning rate, and against the step of training."""
import math
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator

from haiku_mup.coordinates.figure_style import GREY, TITLES, plain_axes
from haiku_mup.sweep.loss_curves import Curve, curves, drift

LABELS = {"train_loss": "training loss", "valid_loss": "validation loss"}
TRANSFER_KEY = ("line: mean over seeds   shade: smallest to largest   disc: optimum, with its 95% interval   "
                "band: half an octave around the narrowest's optimum")
LEARNING_KEY = ("line: mean over seeds   shade: smallest to largest   "
                "each point is a mean over {} steps")
POINTS = 100        # of a learning curve, each the mean over as many steps
LOG_SPAN = 2.5      # a loss axis is logarithmic if its largest loss is at least so many times the smallest
CUT = 3             # a loss axis ends at so many times the rise from the lowest loss to those at small rates


# --- loss against the learning rate ---

def lr_transfer(rows: Iterable[Mapping[str, Any]], path: str | pathlib.Path | None = None, *,
                loss: str = "train_loss", title: str = "", caption: str = "", size: str = "width") -> Figure:
    """Draws the loss against log2 of the learning rate: a panel per parametrization, a curve per width.

    A curve is the mean over seeds; its shade spans the smallest and the largest of their losses. A disc marks
    the curve's optimum, and a bar the optimum's interval over seeds: see `sweep.Optimum`. A triangle in place
    of the disc points outwards: the optimum is at the end of the rates that were tried, or beyond. The grey
    band is half an octave to either side of the narrowest width's optimum. Where a seed diverged there is no
    curve, and losses far above those at the smallest learning rates are cut off. The axis of the loss is
    logarithmic if all losses on it are above zero and differ by a factor of 2.5 or more, else linear.

    Args:
      rows: records, as in `sweep.curves`.
      path: where to save the figure, if anywhere.
      loss: the key of the loss.
      title: a line above the panels.
      caption: a line below them, such as the command that makes the figure.
      size: the title of the legend; what the records' `width` is, where something else grows.

    Returns:
      The figure, a matplotlib `Figure`.

    >>> rows = [{"parametrization": "sp", "width": 64, "lr": 2.0**k, "train_loss": 2 + k % 3}
    ...         for k in range(-9, -4)]
    >>> [axes.get_title(loc="left") for axes in lr_transfer(rows).axes]
    ['standard']
    """
    panels = curves(rows, loss)
    figure, grid, shades = _panels(max(len(panels), 1),
                                   (width for by_width in panels.values() for width in by_width))
    drawn = [curve for by_width in panels.values() for curve in by_width.values()]
    _set_loss_scale(grid[0], *_loss_limits(drawn))
    for axes, (name, by_width) in zip(grid, panels.items()):
        for width, curve in sorted(by_width.items()):
            _draw_curve(axes, width, curve, shades[width])
        _describe(axes, TITLES.get(name, name), by_width)
    if panels:
        _draw_legend(grid[-1], shades, size)
    figure.suptitle(title, fontsize=12)
    _write_captions(figure, TRANSFER_KEY if len(panels) > 1 else None, caption)
    return _finished(figure, path, loss)


def _draw_curve(axes: Axes, width: int, curve: Curve, shade: Any) -> None:
    """Draws one width's curve, its shade and its optimum."""
    shown = np.isfinite(curve.high)
    x, mean, low, high = (np.where(shown, values, np.nan)
                          for values in (curve.log2_lr, curve.mean, curve.low, curve.high))
    axes.fill_between(x, low, high, color=shade, alpha=0.15, linewidth=0)
    axes.plot(x, mean, color=shade, linewidth=2, label=f"{width}")
    _mark_optimum(axes, curve, shade)


def _mark_optimum(axes: Axes, curve: Curve, shade: Any) -> None:
    """Marks the optimum and its interval, at the height that the curve has there."""
    best = curve.optimum
    if math.isnan(best.log2_lr):
        return
    at = np.isfinite(curve.mean)
    to_axis, from_axis = (np.log, np.exp) if axes.get_yscale() == "log" else (np.asarray, np.asarray)
    height = float(from_axis(np.interp(best.log2_lr, curve.log2_lr[at], to_axis(curve.mean[at]))))
    outwards = "<" if best.log2_lr == curve.log2_lr[0] else ">"
    axes.plot([best.log2_lr], [height], outwards if best.at_edge else "o", color=shade, markersize=10,
              markeredgecolor="white", markeredgewidth=1.5, zorder=4)
    if not math.isnan(best.low):
        axes.plot([best.low, best.high], [height, height], color=shade, linewidth=2, marker="|",
                  markersize=9, zorder=3)


def _describe(axes: Axes, title: str, by_width: Mapping[int, Curve]) -> None:
    """Sets the titles of a panel, and draws the band around the narrowest width's optimum."""
    axes.set_title(title, fontsize=14, loc="left")
    if len(by_width) > 1:
        axes.set_title(_drift_text(by_width), loc="right", fontsize=11, color=GREY)
        narrowest = by_width[min(by_width)].optimum.log2_lr
        if not math.isnan(narrowest):
            axes.axvspan(narrowest - 0.5, narrowest + 0.5, color="0.93", zorder=0, linewidth=0)
    axes.set_xlabel("log2 learning rate", fontsize=13)


def _drift_text(by_width: Mapping[int, Curve]) -> str:
    """Returns by how much the optimum drifts, in words; "" where that is unknown."""
    octaves = drift(by_width)
    if math.isnan(octaves):
        return ""
    least = "at least " * any(curve.optimum.at_edge for curve in by_width.values())
    return f"optimum drifts by {least}{octaves:.1f} octaves"


def _loss_limits(drawn: Sequence[Curve]) -> tuple[float, float]:
    """Returns the lowest and the highest loss to show; losses far above those at small rates are not."""
    losses = [loss for curve in drawn for pair in zip(curve.low, curve.high)
              for loss in pair if math.isfinite(pair[1])]
    return _cut_off(losses, [curve.high[0] for curve in drawn])


def _cut_off(losses: Sequence[float], starts: Iterable[float]) -> tuple[float, float]:
    """Returns the lowest and the highest loss to show.

    Args:
      losses: all losses, finite.
      starts: the losses at the left of a figure; others may be far above them. Not finite where one diverged.

    >>> _cut_off([1.0, 2.0, 1e9], [2.0])
    (1.0, 4.0)
    """
    bottom, top = min(losses, default=1.0), max(losses, default=1.0)
    usual = [*filter(math.isfinite, starts), *([float(np.median(losses))] if losses else [])]
    rise = max(usual, default=bottom) - bottom
    return bottom, min(top, bottom + CUT * rise) if rise else top


def _set_loss_scale(axes: Axes, bottom: float, top: float) -> None:
    """Sets the loss's scale for a panel and all that share it, logarithmic or linear, from bottom to top."""
    axes.yaxis.set_major_formatter("{x:g}")
    if bottom > 0 and top >= LOG_SPAN * bottom:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_ylim(bottom / 1.3, 1.3 * top)
    else:
        margin = (top - bottom) / 20 or abs(top) / 20 or 1.0
        axes.set_ylim(bottom - margin, top + margin)


# --- loss against the step of training ---

class LearningCurves(NamedTuple):
    """The losses of one parametrization at one learning rate.

    Attributes:
      lr: the learning rate.
      losses: {width: [seeds, steps]}.
    """

    lr: float
    losses: Mapping[int, np.ndarray]


def learning_curves(panels: Mapping[str, LearningCurves], path: str | os.PathLike[str] | None = None, *,
                    loss: str, title: str = "", caption: str = "") -> Figure:
    """Draws the loss against the step: a panel for each parametrization, a curve for each width.

    Args:
      panels: the losses of each parametrization.
      path: where to save the figure, if anywhere.
      loss: its name.
      title: a line above the panels.
      caption: a line below them.

    >>> panels = {"mup": LearningCurves(0.5, {64: np.ones((2, 8))})}
    >>> len(learning_curves(panels, loss="train_loss").axes)
    1
    """
    figure, grid, shades = _panels(len(panels), (width for panel in panels.values() for width in panel.losses))
    steps = max(losses.shape[1] for panel in panels.values() for losses in panel.losses.values())
    together = -(-steps // POINTS)
    points = {name: {width: _means_of_steps(losses, together) for width, losses in panel.losses.items()}
              for name, panel in panels.items()}
    drawn = [means for by_width in points.values() for means in by_width.values()]
    losses = [float(loss) for means in drawn for loss in means[np.isfinite(means)]]
    _set_loss_scale(grid[0], *_cut_off(losses, [means[:, 0].max() for means in drawn]))
    for axes, (name, (lr, _)) in zip(grid, panels.items()):
        for width, means in sorted(points[name].items()):
            _draw_learning_curve(axes, means, shades[width], together)
        axes.set_title(TITLES.get(name, name), fontsize=14, loc="left")
        axes.set_title(f"learning rate {lr:.3g}", fontsize=11, loc="right", color=GREY)
        axes.set_xlabel("step", fontsize=13)
    _draw_legend(grid[-1], shades, "width")
    figure.suptitle(title, fontsize=12)
    _write_captions(figure, LEARNING_KEY.format(together) if len(panels) > 1 else None, caption)
    return _finished(figure, path, loss)


def _means_of_steps(losses: np.ndarray, together: int) -> np.ndarray:
    """Returns means of losses [seeds, steps] over so many steps together; nan where a seed diverged."""
    means = losses[:, :losses.shape[1] // together * together].reshape(len(losses), -1, together).mean(axis=2)
    return np.where(np.isfinite(means).all(axis=0), means, np.nan)


def _draw_learning_curve(axes: Axes, means: np.ndarray, shade: Any, together: int) -> None:
    """Draws what `_means_of_steps` returns: the mean over seeds, and a shade over all of them."""
    x = (np.arange(means.shape[1]) + 0.5) * together
    axes.fill_between(x, means.min(axis=0), means.max(axis=0), color=shade, alpha=0.15, linewidth=0)
    axes.plot(x, means.mean(axis=0), color=shade, linewidth=2)


def stack_seeds(losses: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the losses [seeds, steps] of several seeds, cut to the steps that all of them have.

    >>> stack_seeds([np.ones(3), np.ones(2)]).shape
    (2, 2)
    """
    steps = min(len(x) for x in losses)
    return np.array([x[:steps] for x in losses], np.float64)


# --- both ---

def _panels(count: int, widths: Iterable[int]) -> tuple[Figure, Any, dict[int, Any]]:
    """Returns a figure, its panels [count] on one scale, and a shade for each width: the wider, the darker."""
    figure = Figure(figsize=(1.2 + 4.4 * count, 4.8), layout="constrained")
    grid = figure.subplots(1, count, sharex=True, sharey=True, squeeze=False)[0]
    for axes in grid:
        axes.tick_params(labelsize=12)
        plain_axes(axes)
    ordered = sorted(set(widths))
    shades = matplotlib.colormaps["viridis_r"](np.linspace(0.12, 1, len(ordered)))
    return figure, grid, dict(zip(ordered, shades))


def _draw_legend(axes: Axes, shades: Mapping[int, Any], title: str) -> None:
    """Draws the legend of the widths on the right of a panel."""
    handles = [Line2D([], [], color=shade, linewidth=2, label=width) for width, shade in shades.items()]
    axes.legend(handles=handles, title=title, frameon=False, loc="upper left", bbox_to_anchor=(1, 1),
                fontsize=12, title_fontsize=12)


def _write_captions(figure: Figure, *lines: str | None) -> None:
    """Writes lines below the panels, but for those that are empty."""
    figure.supxlabel("\n".join(filter(None, lines)), fontsize=8.5, color=GREY)


def _finished(figure: Figure, path: str | os.PathLike[str] | None, loss: str) -> Figure:
    """Writes the loss's name beside the panels; saves the figure, and returns it."""
    figure.axes[0].set_ylabel(LABELS.get(loss, loss), fontsize=13)
    if path is not None:
        figure.savefig(path, dpi=200)
    return figure
