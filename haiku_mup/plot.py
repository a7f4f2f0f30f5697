"""Records -> figures: loss against the learning rate; coordinates against the width."""
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

from haiku_mup.coordinates.figures import MOVED, Line, lines, spread
from haiku_mup.coordinates.result import CoordCheck
from haiku_mup.sweep.loss_curves import Curve, curves, drift

TITLES = {"sp": "standard", "mup": "μP"}
LABELS = {"train_loss": "training loss", "valid_loss": "validation loss"}
KEY = ("line: geometric mean over seeds   shade: smallest to largest   "
       "disc: optimum, with its 95% interval   band: half an octave around the narrowest's optimum")
GREY = "0.35"
STRONG = "#d1242f"
LABELLED = 6        # failing lines that are named in a panel


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


# --- a coordinate check ---

def coordinates(check: CoordCheck, path: str | os.PathLike[str] | None = None, *,
                compare: CoordCheck | None = None) -> Figure:
    """Draws the size of what modules return against the width, on logarithmic scales: a panel a step.

    Modules of one name have one colour. What fails, parameters and their changes too, is drawn strong, and
    the worst is named at its line. (Tensor Programs V, arXiv 2203.03466, Figure 5.)

    Args:
      check: what `coord_check` found.
      path: where to save the figure, if anywhere.
      compare: another check, in a second row on the same scale.

    Returns:
      The figure, of matplotlib.

    >>> points = [haiku_mup.Point("mup", width, 0, step, "activation linear", "l1", 1.0, "0")
    ...           for width in (64, 128) for step in (0, 1)]
    >>> [axes.get_title(loc="left") for axes in coordinates(haiku_mup.CoordCheck(points)).axes]
    ['μP: step 0', 'μP: step 1']
    """
    checks = [check] if compare is None else [check, compare]
    rows = [lines(each) for each in checks]
    columns = max(1, *(len(row) for row in rows))
    figure = Figure(figsize=(1.6 + 4.2 * columns, 0.6 + 3.8 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), columns, sharex=True, sharey=True, squeeze=False)
    shades = _shades(line.group for row in rows for step in row.values() for line in step
                     if not line.quantity.startswith(MOVED))
    for each, row, panels in zip(checks, rows, grid):
        name = each.points[0].parametrization if each.points else ""
        for axes, (step, drawn) in zip(panels, row.items()):
            _draw_lines(axes, drawn, shades)
            axes.set_title(f"{TITLES.get(name, name)}: step {step}", fontsize=13, loc="left")
        panels[0].set_ylabel("size (mean |x|)", fontsize=12)
    _finish(figure, grid, rows, shades)
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure


def _shades(groups: Iterable[str]) -> dict[str, Any]:
    """A colour for each group, grey for those after the ninth."""
    palette = [f"C{i}" for i in range(10) if i != 3]        # C3 is red
    names = list(dict.fromkeys(groups))
    return {name: palette[i] if i < len(palette) else "0.6" for i, name in enumerate(names)}


def _draw_lines(axes: Axes, drawn: Sequence[Line], shades: Mapping[str, Any]) -> None:
    faint = 0.9 if len(drawn) < 30 else 0.35
    for line in drawn:
        failed = line.failed is not None
        axes.plot(line.widths, line.values, marker="o" if len(drawn) < 30 else None, markersize=3,
                  color=STRONG if failed else shades.get(line.group), linewidth=1.8 if failed else 1.2,
                  alpha=0.9 if failed else faint, zorder=3 if failed else 2)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(alpha=0.3, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _finish(figure: Figure, grid: Any, rows: Sequence[Mapping[int, Sequence[Line]]],
            shades: Mapping[str, Any]) -> None:
    """Scales, names at lines, and the legend, which need all panels."""
    drawn = [line for row in rows for step in row.values() for line in step]
    if not drawn:
        return
    widths = sorted({int(width) for line in drawn for width in line.widths})
    failing = any(line.failed is not None for line in drawn)
    room = (widths[-1] / widths[0]) ** (1.2 if failing else 0.05)
    grid[0, 0].set_xlim(widths[0] / 1.1, widths[-1] * max(room, 1.1))
    grid[0, 0].set_xticks(widths)
    for axes in grid[-1]:
        axes.set_xlabel("width", fontsize=12)
    low, high = (math.log10(y) for y in grid[0, 0].get_ylim())
    for panels, row in zip(grid, rows):
        for axes, step in zip(panels, row.values()):
            _name(axes, step, (high - low) / 16, high)
    handles = [Line2D([], [], color=shade, label=name) for name, shade in list(shades.items())[:12]]
    if failing:
        handles.append(Line2D([], [], color=STRONG, linewidth=2, label="fails"))
    figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=10)


def _name(axes: Axes, step: Sequence[Line], gap: float, top: float) -> None:
    """Writes beside the worst failing lines their slope, and what they are."""
    worst = [line for line in step if line.failed is not None and np.isfinite(line.values[-1])][-LABELLED:]
    slopes = {line.quantity: line.failed for line in worst}
    ends = {line.quantity: math.log10(line.values[-1]) for line in worst}
    for quantity, height in spread(ends, gap, top).items():
        text = quantity.replace("__layer_stack_no_per_layer/", "")
        text = text if len(text) < 30 else f"{text[:8]}…{text[-20:]}"
        label = axes.annotate(f"{slopes[quantity]:+.2f} {text}", (worst[0].widths[-1], 10**height), (5, 0),
                              textcoords="offset points", color=STRONG, fontsize=7, va="center", zorder=5)
        label.set_in_layout(False)
