"""Estimates the slope of a quantity over widths, with its interval, and compares it with what is expected.

Each seed gives one slope: that of the least-squares line through log2 value against log2 width. The estimate is
the mean over seeds, and its 95% interval is that of Student's t for the mean of these slopes. A slope is wrong
only where the whole interval lies outside of the expected range, over all widths and over the wider half of
them alike: what only a small width causes fades as models grow.
"""
import functools
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from haiku_mup.coordinates.findings import Finding, Point
from haiku_mup.coordinates.slope_range import Range


class Estimate(NamedTuple):
    """An estimated slope.

    Attributes:
      slope: the mean over seeds.
      error: half of its 95% interval.
    """

    slope: float
    error: float

    def excess(self, expected: Range) -> float:
        """Returns how far the nearer end of the interval lies above a range, or (negative) below it.

        >>> Estimate(0.5, 0.25).excess(Range(-0.5, 0.0)), Estimate(-1.0, 0.25).excess(Range(-0.5, 0.0))
        (0.25, -0.25)
        >>> Estimate(0.5, 1.0).excess(Range(-0.5, 0.0))
        0.0
        """
        deviation = distance(self.slope, expected)
        return math.copysign(max(abs(deviation) - self.error, 0.0), deviation)


def judge(points: Sequence[Point]) -> Finding | None:
    """Returns the finding of one quantity, step and statistic.

    Args:
      points: all points of that quantity, step and statistic.

    Returns:
      The finding; None where the quantity is zero at every width, or there are fewer than two widths. Where
      some values are zero or not finite, there is no slope, and the excess is infinite.
    """
    first, expected = points[0], Range.parse(points[0].expected)
    widths, values = _table(points)
    if expected is None or not values.any() or len(widths) < 2:
        return None
    slope = error = math.nan
    excess = math.inf
    if np.isfinite(values).all() and (values > 0).all():
        x, y = np.log2(widths), np.log2(values)                     # [widths], [widths, seeds]
        (slope, error), excess = estimate(x, y), _lasting_excess(x, y, expected)
    return Finding(quantity=first.quantity, step=first.step, stat=first.stat, slope=slope, error=error,
                   expected=expected, excess=excess)


def _lasting_excess(x: np.ndarray, y: np.ndarray, expected: Range) -> float:
    """Returns the smaller excess of those over all widths and over the wider half; 0 if on different sides."""
    half = max(2, -(-len(x) // 2))
    overall, wider = (estimate(x[-n:], y[-n:]).excess(expected) for n in (len(x), half))
    return min(abs(overall), abs(wider)) if overall * wider > 0 else 0.0


def _table(points: Iterable[Point]) -> tuple[np.ndarray, np.ndarray]:
    """Returns widths, ascending, and values [widths, seeds] of the seeds that every width has."""
    at: dict[int, dict[int, float]] = {}
    for point in points:
        at.setdefault(point.width, {})[point.seed] = point.value
    seeds = sorted(set.intersection(*(set(values) for values in at.values())))
    widths = sorted(at)
    return np.array(widths), np.array([[at[width][seed] for seed in seeds] for width in widths])


def estimate(x: np.ndarray, y: np.ndarray) -> Estimate:
    """Returns the slope of y against x, and half of its 95% interval.

    With one seed the interval is that of the regression: from the points' distances from their line. Two widths
    leave no residuals, and the interval is then 0 wide.

    Args:
      x: log2 widths [widths].
      y: log2 values [widths, seeds].

    >>> x = np.array([6.0, 7.0, 8.0])
    >>> slope, error = estimate(x, np.stack([x, 1.2 * x], axis=1))      # two seeds: slopes of 1 and 1.2
    >>> round(float(slope), 6), round(float(error), 3)                  # t is 12.7 for one degree of freedom
    (1.1, 1.271)
    """
    centred = x - x.mean()
    slopes = centred @ y / (centred @ centred)              # [seeds]
    if len(slopes) > 1:
        error = _student(len(slopes) - 1) * float(slopes.std(ddof=1)) / len(slopes)**0.5
        return Estimate(float(slopes.mean()), error)
    if len(x) < 3:
        return Estimate(float(slopes[0]), 0.0)
    residuals = y[:, 0] - y[:, 0].mean() - centred * slopes[0]
    standard_error = math.sqrt(residuals @ residuals / (len(x) - 2) / (centred @ centred))
    return Estimate(float(slopes[0]), _student(len(x) - 2) * standard_error)


@functools.lru_cache
def _student(freedom: int) -> float:
    """Returns the 97.5% quantile of Student's t for these degrees of freedom."""
    from scipy import special  # type: ignore[import-untyped]  # slow to import; JAX itself depends on it

    return float(special.stdtrit(freedom, 0.975))


def distance(slope: float, expected: Range) -> float:
    """Returns how far a slope lies above a range, or (negative) below it; 0 inside.

    >>> distance(0.5, Range(-0.5, 0.0)), distance(-0.25, Range(-0.5, 0.0))
    (0.5, 0.0)
    """
    return max(slope - expected.high, 0.0) + min(slope - expected.low, 0.0)
