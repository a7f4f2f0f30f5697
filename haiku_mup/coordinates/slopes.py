"""Estimates the slope of a quantity over widths, with its interval, and compares it with what is expected.

Each seed gives one slope: that of the least-squares line through log2 value against log2 width. The estimate is
the mean over seeds, and its 95% interval is that of Student's t for the mean of these slopes. A slope is wrong
only where the whole interval lies outside of the expected range, over all widths and over the wider half of
them alike: what only a small width causes fades as models grow. What chance explains, what shrinks as changes
do that are not aligned yet (`fading_slope`), and updates that have nearly cancelled are left open.
"""
import functools
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from haiku_mup.coordinates.findings import Finding, Point
from haiku_mup.coordinates.quantities import CHANGE_MARK, ParameterKind, RecordKind, kind_of
from haiku_mup.coordinates.slope_range import Range

# What may stand still in a run, beside all changes: a parameter that starts at zero stays there.
MOVES = (ParameterKind.VALUE, ParameterKind.UPDATE, ParameterKind.RATE)
# What training makes of sums over a width, in which an update's part that is not aligned fades; and updates
# after the first one, whose gradients follow from these.
FADING = (RecordKind.ACTIVATION, RecordKind.LOGITS, RecordKind.PROBE, RecordKind.OUTPUT, ParameterKind.VALUE,
          ParameterKind.UPDATE)
CANCELLED = 0.5         # a later update below this share of the first one has nearly cancelled
FALSE_ALARMS = 0.1      # the probability that chance fails a check, if all slopes are just tolerable


class SlopeEstimate(NamedTuple):
    """An estimated slope.

    Attributes:
      slope: the mean over seeds.
      error: half of its 95% interval.
      freedom: degrees of freedom of that interval; 0 where nothing is known of it.
    """

    slope: float
    error: float
    freedom: int = 0

    def chance(self, expected: Range) -> float:
        """Returns the probability that a slope at the nearer end of a range is estimated as far off as this.

        >>> round(SlopeEstimate(0.1, 0.1, freedom=4).chance(Range(0.0, 0.0)), 6)    # the interval's end
        0.05
        """
        from scipy import special  # type: ignore[import-untyped]  # slow to import; JAX itself depends on it

        off = abs(distance(self.slope, expected))
        if not (self.freedom and off):
            return 0.0 if math.isnan(off) else 1.0
        t = student(self.freedom) * off / self.error if self.error else math.inf
        return float(2 * special.stdtr(self.freedom, -t))

    def excess(self, expected: Range) -> float:
        """Returns how far the nearer end of the interval lies above a range, or (negative) below it.

        >>> expected = Range(-0.5, 0.0)
        >>> SlopeEstimate(0.5, 0.25).excess(expected), SlopeEstimate(-1.0, 0.25).excess(expected)
        (0.25, -0.25)
        >>> SlopeEstimate(0.5, 1.0).excess(expected)
        0.0
        """
        deviation = distance(self.slope, expected)
        return math.copysign(max(abs(deviation) - self.error, 0.0), deviation)


def judge_all(groups: Iterable[Sequence[Point]], tol: float) -> list[Finding]:
    """Returns the findings of a check.

    A check judges a hundred slopes, and intervals of 95% miss some by chance: these are left open. What is off
    by less than the tolerance is not wrong, however sure that is, and makes nothing else more probable.

    Args:
      groups: the points of each quantity, step and statistic.
      tol: how far a slope may lie outside of what is expected.
    """
    groups = list(groups)
    firsts = {(points[0].quantity, points[0].stat): points for points in groups if not points[0].step}
    judged = [found for points in groups if (found := judge(
        points, tol, firsts.get((points[0].quantity, points[0].stat), ()))) is not None]
    significant = _significant([chance for _, chance in judged])
    return [finding if is_significant else finding._replace(doubt=math.inf)
            for (finding, _), is_significant in zip(judged, significant)]


def judge(points: Sequence[Point], tol: float,
          first: Sequence[Point] = ()) -> tuple[Finding, float] | None:
    """Returns the finding of one quantity, step and statistic, and how probable such a slope is by chance.

    What did not move in a run, such as an expert without tokens, says nothing there: the other runs tell.

    Args:
      points: all points of that quantity, step and statistic.
      tol: how far a slope may lie outside of what is expected.
      first: its points in the first step, where these are known.

    Returns:
      The finding, and the probability of a slope as far off beyond the tolerance; None where the quantity is
      zero at every width, or there are fewer than two widths. Where the values of a whole width are zero, or
      some are not finite, there is no slope, and the excess is infinite.
    """
    some, expected = points[0], Range.parse(points[0].expected)
    widths, values = _table(points)
    if expected is None or not np.nan_to_num(values, nan=1.0).any() or len(widths) < 2:
        return None
    if kind_of(some.quantity) in MOVES or some.quantity.startswith(CHANGE_MARK):
        values = _without_zeros(values)
    found, excess = SlopeEstimate(math.nan, math.nan), math.inf
    missing = np.isnan(values)
    if (missing | (np.isfinite(values) & (values > 0))).all() and not missing.all(axis=1).any():
        x, y = np.log2(widths), np.log2(values)                     # [widths], [widths, seeds]
        found, excess = estimate(x, y), _lasting_excess(x, y, expected)
    finding = Finding(quantity=some.quantity, step=some.step, stat=some.stat, slope=found.slope,
                      error=found.error, expected=expected, excess=excess)
    doubt = _left_open(finding, widths.tolist(), some.rows, _kept_share(points, first))
    return finding._replace(doubt=doubt), found.chance(expected.plus(Range(-tol, tol)))


def _significant(probabilities: Sequence[float]) -> np.ndarray:
    """Returns which of these are too small for chance: Benjamini and Hochberg, 1995.

    Where one slope of a hundred is off, it must be off by more than where thirty are. If nothing is wrong, the
    probability of an error is at most FALSE_ALARMS.

    >>> _significant([0.04, 0.5, 0.6, 0.7]), _significant([0.04, 0.04, 0.04, 0.04])
    (array([False, False, False, False]), array([ True,  True,  True,  True]))
    """
    p = np.asarray(probabilities)
    passing = np.sort(p) <= FALSE_ALARMS * np.arange(1, len(p) + 1) / max(len(p), 1)
    return p <= (np.sort(p)[passing].max() if passing.any() else -1.0)


def _left_open(finding: Finding, widths: Sequence[int], rows: int, share: float) -> float:
    """Returns how large an excess narrow models alone may cause; 0 where they cause none.

    Two widths don't show that something fades ever less. Where inputs pull in opposite directions, updates are
    aligned by less than their number says; so two widths are doubted as if there were as many rows as units, at
    least.

    A step leaves 1 - ηλ of what it learns from, and λ differs between widths by as much as changes do. Relative
    to what is left, a share of the first update, this difference is ηλ / |1 - ηλ| times as large: up to
    (1 + share) / share.

    Args:
      finding: what was found.
      widths: two or more.
      rows: the number of inputs.
      share: the size of this update beside the first one.
    """
    # An output may have a path.
    kind = kind_of(finding.quantity).removeprefix(CHANGE_MARK).partition(".")[0]
    if not finding.step or kind not in FADING:
        return 0.0
    fades = -fading_slope(widths, max(rows, widths[0] if len(widths) == 2 else 1))
    if finding.slope < finding.expected.low:
        return fades
    cancelled = kind == ParameterKind.UPDATE and share < CANCELLED
    return fades * (1 + share) / share if cancelled and share else 0.0


def _kept_share(points: Sequence[Point], first: Sequence[Point]) -> float:
    """Returns the size of a quantity beside that in the first step, at the width where it is least; or 1."""
    if not first:
        return 1.0
    (widths, values), (others, initial) = _table(points), _table(first)
    if widths.tolist() != others.tolist():
        return 1.0
    with np.errstate(all="ignore"):
        shares = np.nansum(values, axis=1) / np.nansum(initial, axis=1)
    return float(np.nan_to_num(shares, nan=1.0).min())


def fading_slope(widths: Sequence[int], rows: int) -> float:
    """Returns the slope of a right quantity whose updates come from unrelated inputs.

    An update is aligned with the activations that made it, and adds n · a to a sum over a width of n. What is
    not aligned adds √n. Relative to n, the sum of both has the size √(a² + 1 / n): it falls until it is that of
    the aligned part. With each of K unrelated inputs, an update is aligned by some 1 / √K, and both parts are
    equal at a width of about K.

    Args:
      widths: two or more.
      rows: K, the number of inputs: of examples, or of tokens.

    >>> round(fading_slope((32, 256), rows=32), 3), round(fading_slope((64, 128, 256, 512), rows=8), 3)
    (-0.138, -0.024)
    """
    n = np.asarray(widths, float)
    return float(np.polyfit(np.log2(n), 0.5 * np.log2(1 / rows + 1 / n), 1)[0])


def _without_zeros(values: np.ndarray) -> np.ndarray:
    """Returns the values [widths, seeds] with nan for zeros, unless they are all that a width has."""
    zero = values == 0
    return np.where(zero & ~zero.all(axis=1, keepdims=True), np.nan, values)


def _lasting_excess(x: np.ndarray, y: np.ndarray, expected: Range) -> float:
    """Returns the smaller excess of those over all widths and over the wider half; 0 if on different sides."""
    fewest = 2 if y.shape[1] > 1 else 3         # one seed has an interval from three widths on
    half = min(max(fewest, -(-len(x) // 2)), len(x))
    overall, wider = (estimate(x[-n:], y[-n:]).excess(expected) for n in (len(x), half))
    return min(abs(overall), abs(wider)) if overall * wider > 0 else 0.0


def _table(points: Iterable[Point]) -> tuple[np.ndarray, np.ndarray]:
    """Returns widths, ascending, and values [widths, seeds]; inf for nan, nan where there is no point."""
    at: dict[int, dict[int, float]] = {}
    for point in points:
        at.setdefault(point.width, {})[point.seed] = math.inf if math.isnan(point.value) else point.value
    seeds, widths = sorted(set().union(*at.values())), sorted(at)
    return np.array(widths), np.array([[at[width].get(seed, math.nan) for seed in seeds] for width in widths])


def estimate(x: np.ndarray, y: np.ndarray) -> SlopeEstimate:
    """Returns the slope of y against x, and half of its 95% interval.

    With one seed the interval is that of the regression: from the points' distances from their line. Two widths
    leave no distances, and nothing is known of the interval: it is infinite.

    Args:
      x: log2 widths [widths].
      y: log2 values [widths, seeds]; nan where there is none.

    >>> x = np.array([6.0, 7.0, 8.0])
    >>> slope, error, freedom = estimate(x, np.stack([x, 1.2 * x], axis=1))     # two seeds: slopes of 1 and 1.2
    >>> round(float(slope), 6), round(float(error), 3), freedom         # t is 12.7 for one degree of freedom
    (1.1, 1.271, 1)
    """
    there, x = np.isfinite(y), x[:, None]
    counts = there.sum(axis=0)
    centred = np.where(there, x - np.where(there, x, 0).sum(axis=0) / np.maximum(counts, 1), 0)
    y = np.where(there, y, 0)
    squares = np.square(centred).sum(axis=0)                # [seeds]
    used = squares > 0                                      # of two widths or more
    if not used.any():
        return SlopeEstimate(math.nan, math.inf)
    slopes, weights = (centred * y).sum(axis=0)[used] / squares[used], squares[used] / squares[used].sum()
    mean = float(weights @ slopes)
    n = len(slopes)
    if n > 1:
        variance = n / (n - 1) * float(np.square(weights) @ np.square(slopes - mean))
        return SlopeEstimate(mean, student(n - 1) * math.sqrt(variance), n - 1)
    freedom = int(counts[used][0]) - 2
    if freedom < 1:
        return SlopeEstimate(mean, math.inf)
    y, centred, there = y[:, used][:, 0], centred[:, used][:, 0], there[:, used][:, 0]
    residuals = (y - y[there].mean() - centred * mean)[there]
    standard_error = math.sqrt(residuals @ residuals / freedom / squares[used][0])
    return SlopeEstimate(mean, student(freedom) * standard_error, freedom)


@functools.lru_cache
def student(freedom: int, comparisons: float = 1) -> float:
    """Returns the quantile of Student's t that bounds a 95% interval from above.

    Args:
      freedom: degrees of freedom.
      comparisons: the number of intervals that are to hold together (Bonferroni).

    >>> f"{student(1):.4f} {student(4):.4f} {student(4, comparisons=3):.4f}"
    '12.7062 2.7764 3.9608'
    """
    from scipy import special  # slow to import; JAX itself depends on it

    return float(special.stdtrit(freedom, 1 - 0.025 / comparisons))


def distance(slope: float, expected: Range) -> float:
    """Returns how far a slope lies above a range, or (negative) below it; 0 inside.

    >>> distance(0.5, Range(-0.5, 0.0)), distance(-0.25, Range(-0.5, 0.0))
    (0.5, 0.0)
    """
    return max(slope - expected.high, 0.0) + min(slope - expected.low, 0.0)
