"""Draws a coordinate check: sizes against the width, a panel for each step."""
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from haiku_mup.coordinates.array_stats import JUDGED
from haiku_mup.coordinates.figure_style import TITLES, plain_axes
from haiku_mup.coordinates.findings import Finding, Point
from haiku_mup.coordinates.quantities import CHANGE_MARK, ParameterKind, RecordKind
from haiku_mup.coordinates.slope_range import Range

# Quantities that are drawn only where they fail. (Files of earlier versions have losses.)
IF_FAILED = (ParameterKind.VALUE, ParameterKind.UPDATE, ParameterKind.RATE, ParameterKind.DECAY,
             ParameterKind.MOVED, RecordKind.MULTIPLIER, CHANGE_MARK, "loss")
FAILED_COLOUR = "#d1242f"
# Distinct on white, also for most of the colour-blind; without red, which fails, and without greys.
PALETTE = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#8c564b", "#6a3d9a", "#bcbd22", "#1b3a57",
           "#a6d854", "#00ced1")
OTHER_COLOUR, FALLS_COLOUR = "0.6", "black"      # the second one in the legend alone
MANY = 30           # from so many lines on, a panel's lines are faint, and have no markers
LABELLED = 6        # failing lines that are named in a panel


class Line(NamedTuple):
    """One quantity at one step.

    Attributes:
      quantity: its name.
      group: the name of its module without numbers and layers; lines of a group have one colour.
      widths: [widths].
      values: [widths], geometric means over seeds.
      failed: its slope, where that fails; else None.
      falls: whether it is expected to fall with the width, as initial outputs do.
    """

    quantity: str
    group: str
    widths: np.ndarray
    values: np.ndarray
    failed: float | None
    falls: bool = False


class PanelRow(NamedTuple):
    """A row of panels: one check.

    Attributes:
      name: the name of its parametrization; None for a check without points.
      steps: step -> lines.
    """

    name: str | None
    steps: Mapping[int, Sequence[Line]]


def draw(rows: Sequence[PanelRow], path: str | os.PathLike[str] | None) -> Figure:
    """Draws checks below each other, on one scale: see `haiku_mup.plot.coordinates`.

    Args:
      rows: a row of panels for each check.
      path: where to save the figure, if anywhere.
    """
    columns = max(1, *(len(row.steps) for row in rows))
    figure = Figure(figsize=(1.6 + 4.2 * columns, 0.6 + 3.8 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), columns, sharex=True, sharey=True, squeeze=False)
    drawn = [line for row in rows for lines in row.steps.values() for line in lines]
    colours = _colours(line.group for line in drawn if not line.quantity.startswith(IF_FAILED))
    for row, panels in zip(rows, grid):
        for axes, (step, lines) in zip(panels, row.steps.items()):
            _draw_panel(axes, lines, colours)
            axes.set_title(f"{TITLES.get(row.name or '', row.name)}: step {step}", fontsize=13, loc="left")
        panels[0].set_ylabel("size (mean |x|)", fontsize=12)
    if drawn:
        any_failed = any(line.failed is not None for line in drawn)
        _set_scales(grid, drawn, room_for_labels=any_failed)
        low, high = (math.log10(y) for y in grid[0, 0].get_ylim())
        for row, panels in zip(rows, grid):
            for axes, lines in zip(panels, row.steps.values()):
                _label_failures(axes, lines, gap=(high - low) / 16, top=high)
        _draw_legend(figure, colours, any_failed, any(line.falls for line in drawn))
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure


# --- what is drawn ---

def row_of(points: Sequence[Point], failures: Sequence[Finding]) -> PanelRow:
    """Returns the row of a check: what modules return, and whatever fails, which is drawn above the rest.

    Args:
      points: all points, of one parametrization.
      failures: what failed, the worst first.

    >>> points = [haiku_mup.Point("mup", 64, 0, 0, f"activation linear{n}", "l1", 1.0, "0") for n in ("", "_1")]
    >>> [line.group for line in row_of(points, []).steps[0]]
    ['linear', 'linear']
    """
    stat = next((stat for stat in JUDGED if any(p.stat == stat for p in points)), None)
    failed = {(f.quantity, f.step): f.slope for f in failures if f.stat == stat}
    groups: dict[tuple[str, int], list[Point]] = {}
    for point in points:
        key = point.quantity, point.step
        if point.stat == stat and (key in failed or not point.quantity.startswith(IF_FAILED)):
            groups.setdefault(key, []).append(point)
    steps: dict[int, list[Line]] = {}
    for (quantity, step), some in groups.items():
        widths, values = _geometric_means(some)
        if np.isfinite(values).any():
            steps.setdefault(step, []).append(
                Line(quantity, group(quantity), widths, values, failed.get((quantity, step)), _falls(some[0])))
    order = {key: -place for place, key in enumerate(failed)}       # the worst last, above all others
    return PanelRow(
        points[0].parametrization if points else None,
        {step: sorted(steps[step], key=lambda line: order.get((line.quantity, step), -math.inf))
         for step in sorted(steps)})


def _falls(point: Point) -> bool:
    """Returns whether all slopes that are expected of a point are below zero."""
    expected = Range.parse(point.expected)
    return expected is not None and expected.high < 0


def group(quantity: str) -> str:
    """Returns the last part of a module's name, without numbers, layers, calls and paths.

    >>> group("activation __layer_stack_no_per_layer/mlp/~/linear_1[3]"), group("output.logits")
    ('linear', 'output')
    """
    kind, _, name = quantity.partition(" ")
    last = re.split(r"[@\[.]", (name or kind).rpartition("/")[2])[0]
    prefix = "" if kind == RecordKind.ACTIVATION or not name else kind + " "
    return prefix + re.sub(r"_[0-9]+$", "", last)


def _geometric_means(points: Iterable[Point]) -> tuple[np.ndarray, np.ndarray]:
    """Returns widths, and geometric means over seeds; nan where a value is zero or not finite."""
    at: dict[int, list[float]] = {}
    for point in points:
        at.setdefault(point.width, []).append(point.value)
    with np.errstate(divide="ignore", invalid="ignore"):
        means = np.array([np.exp(np.mean(np.log(at[width]))) for width in sorted(at)])
    return np.array(sorted(at)), np.where(np.isfinite(means) & (means > 0), means, np.nan)


def _colours(groups: Iterable[str]) -> dict[str, str]:
    """Returns a colour for each group: distinct ones while the palette lasts, grey for the others."""
    names = dict.fromkeys(groups)
    return {name: PALETTE[i] if i < len(PALETTE) else OTHER_COLOUR for i, name in enumerate(names)}


# --- how ---

def _draw_panel(axes: Axes, lines: Sequence[Line], colours: Mapping[str, str]) -> None:
    few = len(lines) < MANY
    for line in lines:
        failed = line.failed is not None
        axes.plot(line.widths, line.values, marker="o" if few else None, markersize=3,
                  color=FAILED_COLOUR if failed else colours.get(line.group), linewidth=1.8 if failed else 1.2,
                  linestyle="--" if line.falls else "-",
                  alpha=0.9 if failed or few else 0.35, zorder=3 if failed else 2)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    plain_axes(axes)


def _set_scales(grid: Any, drawn: Sequence[Line], *, room_for_labels: bool) -> None:
    """Sets the horizontal scale, which all panels share."""
    widths = sorted({int(width) for line in drawn for width in line.widths})
    # Labels of failing lines stand on their right.
    room = (widths[-1] / widths[0]) ** (1.2 if room_for_labels else 0.05)
    grid[0, 0].set_xlim(widths[0] / 1.1, widths[-1] * max(room, 1.1))
    grid[0, 0].set_xticks(widths)
    for axes in grid[-1]:
        axes.set_xlabel("width", fontsize=12)


def _draw_legend(figure: Figure, colours: Mapping[str, str], any_failed: bool, any_falls: bool) -> None:
    handles = [Line2D([], [], color=colour, label=name) for name, colour in colours.items()
               if colour != OTHER_COLOUR]
    others = len(colours) - len(handles)
    if others:
        handles.append(Line2D([], [], color=OTHER_COLOUR, label=f"{others} others"))
    if any_failed:
        handles.append(Line2D([], [], color=FAILED_COLOUR, linewidth=2, label="fails"))
    if any_falls:
        handles.append(Line2D([], [], color=FALLS_COLOUR, linestyle="--", label="expected to fall"))
    figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=10)


def _label_failures(axes: Axes, lines: Sequence[Line], *, gap: float, top: float) -> None:
    """Writes the slopes and the names of the worst failing lines beside them.

    Args:
      axes: the panel.
      lines: its lines, the worst last.
      gap: the least distance of two labels, in log10 of the size.
      top: the height of the panel, in log10 of the size.
    """
    worst = [line for line in lines if line.failed is not None and np.isfinite(line.values[-1])][-LABELLED:]
    slopes = {line.quantity: line.failed for line in worst}
    ends = {line.quantity: math.log10(line.values[-1]) for line in worst}
    for quantity, height in spread(ends, gap, top).items():
        text = quantity.replace("__layer_stack_no_per_layer/", "")
        text = text if len(text) < 30 else f"{text[:8]}…{text[-20:]}"
        label = axes.annotate(f"{slopes[quantity]:+.2f} {text}", (worst[0].widths[-1], 10**height), (5, 0),
                              textcoords="offset points", color=FAILED_COLOUR, fontsize=7, va="center",
                              zorder=5)
        label.set_in_layout(False)      # else a long name makes the panel small


def spread(heights: Mapping[str, float], gap: float, top: float) -> dict[str, float]:
    """Returns heights below `top` that are at least `gap` apart, each as close as possible to the given one.

    >>> spread({"a": 0.0, "b": 0.1}, 1.0, top=5.0), spread({"a": 0.0, "b": 0.1}, 1.0, top=0.0)
    ({'a': 0.0, 'b': 1.0}, {'a': -1.0, 'b': 0.0})
    """
    names = sorted(heights, key=lambda name: heights[name])
    moved = [heights[name] for name in names]
    for i in range(1, len(moved)):              # first up, from the lowest, …
        moved[i] = max(moved[i], moved[i - 1] + gap)
    ceiling = top
    for i in reversed(range(len(moved))):       # … then down again, where the highest are above the top
        moved[i] = min(moved[i], ceiling)
        ceiling = moved[i] - gap
    return dict(zip(names, map(float, moved)))
