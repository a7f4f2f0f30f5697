"""Slopes of quantities over widths, and their intervals."""
import functools
import math
from collections.abc import Iterable, Sequence

import numpy as np

from haiku_mup.coordinates.findings import Finding, Point
from haiku_mup.coordinates.slope_range import Range


def judged(points: Sequence[Point]) -> Finding | None:
    """The finding of one quantity, step and statistic; None where it is zero at every width."""
    first, expected = points[0], Range.parse(points[0].expected)
    widths, values = _table(points)
    if expected is None or not values.any() or len(widths) < 2:
        return None
    at = first.quantity, first.step, first.stat
    if not (np.isfinite(values).all() and (values > 0).all()):
        return Finding(*at, math.nan, math.nan, expected, math.inf)
    x, y = np.log2(widths), np.log2(values)                 # [widths], [widths, seeds]
    half = max(2, -(-len(x) // 2))
    slope, error = _slope(x, y)
    excess = [_excess(slope, error, expected), _excess(*_slope(x[-half:], y[-half:]), expected)]
    same = excess[0] * excess[1] > 0
    return Finding(*at, slope, error, expected, min(map(abs, excess)) if same else 0.0)


def _table(points: Iterable[Point]) -> tuple[np.ndarray, np.ndarray]:
    """Widths, ascending, and values [widths, seeds]: of the seeds that every width has."""
    at: dict[int, dict[int, float]] = {}
    for point in points:
        at.setdefault(point.width, {})[point.seed] = point.value
    seeds = sorted(set.intersection(*(set(found) for found in at.values())))
    widths = sorted(at)
    return np.array(widths), np.array([[at[width][seed] for seed in seeds] for width in widths])


def _slope(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """The mean over seeds of the least-squares slopes of y [widths, seeds], and half its 95% interval."""
    centred = x - x.mean()
    slopes = centred @ y / (centred @ centred)              # [seeds]
    if len(slopes) > 1:
        return float(slopes.mean()), _student(len(slopes) - 1) * float(slopes.std(ddof=1)) / len(slopes)**0.5
    if len(x) < 3:
        return float(slopes[0]), 0.0
    rest = y[:, 0] - y[:, 0].mean() - centred * slopes[0]
    error = math.sqrt(rest @ rest / (len(x) - 2) / (centred @ centred))
    return float(slopes[0]), _student(len(x) - 2) * error


@functools.lru_cache
def _student(freedom: int) -> float:
    """The 97.5% quantile of Student's t."""
    from scipy import special  # type: ignore[import-untyped]  # slow to import; JAX itself depends on it

    return float(special.stdtrit(freedom, 0.975))


def outside(slope: float, expected: Range) -> float:
    """How far a slope lies above (or, negative, below) those that are right."""
    return max(slope - expected.high, 0.0) + min(slope - expected.low, 0.0)


def _excess(slope: float, error: float, expected: Range) -> float:
    """The same of the end of its interval that is nearer to them."""
    distance = outside(slope, expected)
    return math.copysign(max(abs(distance) - error, 0.0), distance)
