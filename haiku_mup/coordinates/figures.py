"""What a coordinate check recorded -> lines to draw: sizes over widths, by step."""
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
from haiku_mup.coordinates.figure_style import TITLES
from haiku_mup.coordinates.findings import Point
from haiku_mup.coordinates.result import CoordCheck

STRONG = "#d1242f"
LABELLED = 6        # failing lines that are named in a panel
MOVED = ("param", "update", "Δ", "decay", "loss")       # drawn only where they fail


class Line(NamedTuple):
    """One quantity at one step.

    Attributes:
      quantity: its name.
      group: the module's name without what tells it from its like.
      widths: [widths].
      values: [widths], geometric means over seeds.
      failed: its slope, where that isn't what is expected; else None.
    """

    quantity: str
    group: str
    widths: np.ndarray
    values: np.ndarray
    failed: float | None


def lines(check: CoordCheck) -> dict[int, list[Line]]:
    """The lines of each step: what modules return, and whatever fails, last and the worst at the end.

    Args:
      check: of one parametrization.

    >>> points = [haiku_mup.Point("mup", 64, 0, 0, f"activation linear{n}", "l1", 1.0, "0") for n in ("", "_1")]
    >>> [line.group for line in lines(haiku_mup.CoordCheck(points))[0]]
    ['linear', 'linear']
    """
    stat = next((stat for stat in JUDGED if any(p.stat == stat for p in check.points)), "")
    failed = {(f.quantity, f.step): f.slope for f in check.failures() if f.stat == stat}
    groups: dict[tuple[str, int], list[Point]] = {}
    for point in check.points:
        key = point.quantity, point.step
        if point.stat == stat and (key in failed or not point.quantity.startswith(MOVED)):
            groups.setdefault(key, []).append(point)
    found: dict[int, list[Line]] = {}
    for (quantity, step), points in groups.items():
        widths, values = _means(points)
        if np.isfinite(values).any():
            found.setdefault(step, []).append(
                Line(quantity, group(quantity), widths, values, failed.get((quantity, step))))
    worst = {key: -float(place) for place, key in enumerate(failed)}
    return {step: sorted(found[step], key=lambda line: worst.get((line.quantity, step), -np.inf))
            for step in sorted(found)}


def group(quantity: str) -> str:
    """The module's last name without numbers, layers, calls and paths.

    >>> group("activation __layer_stack_no_per_layer/mlp/~/linear_1[3]"), group("output.logits")
    ('linear', 'output')
    """
    kind, _, name = quantity.partition(" ")
    last = re.split(r"[@\[.]", (name or kind).rpartition("/")[2])[0]
    return f"{'' if kind == 'activation' or not name else kind + ' '}{re.sub(r'_[0-9]+$', '', last)}"


def _means(points: Iterable[Point]) -> tuple[np.ndarray, np.ndarray]:
    """Widths and geometric means; nan where something is zero or not finite."""
    at: dict[int, list[float]] = {}
    for point in points:
        at.setdefault(point.width, []).append(point.value)
    with np.errstate(divide="ignore", invalid="ignore"):
        means = [np.exp(np.mean(np.log(at[width]))) for width in sorted(at)]
    return np.array(sorted(at)), np.where(np.isfinite(means) & (np.array(means) > 0), means, np.nan)


def spread(heights: Mapping[str, float], gap: float, top: float) -> dict[str, float]:
    """Heights below `top` that are at least `gap` apart, each as near to its own as may be.

    >>> spread({"a": 0.0, "b": 0.1}, 1.0, top=5.0), spread({"a": 0.0, "b": 0.1}, 1.0, top=0.0)
    ({'a': 0.0, 'b': 1.0}, {'a': -1.0, 'b': 0.0})
    """
    names = sorted(heights, key=lambda name: heights[name])
    found = [heights[name] for name in names]
    for i in range(1, len(found)):
        found[i] = max(found[i], found[i - 1] + gap)
    ceiling = top
    for i in reversed(range(len(found))):
        found[i] = min(found[i], ceiling)
        ceiling = found[i] - gap
    return dict(zip(names, map(float, found)))


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
