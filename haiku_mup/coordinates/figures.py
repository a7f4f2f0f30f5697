"""What a coordinate check recorded -> lines to draw: sizes over widths, by step."""
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from haiku_mup.coordinates.result import JUDGED, CoordCheck, Point

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
