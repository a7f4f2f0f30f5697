"""Losses over width, learning rate and seed -> where the optimum is, and whether it moves."""
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from haiku_mup.sweep.optimum import REACH, half_interval, levelled, lowest, vertex_near

FLOOR = 1e-12       # stands for a loss of zero where a logarithm is taken


class Optimum(NamedTuple):
    """Where a curve is lowest.

    Attributes:
      log2_lr: log2 of the learning rate at the minimum of a parabola through the mean log loss within 1.5
        octaves of the lowest point, but no farther from that than the next rate that was tried; the lowest
        point itself, where there is no such parabola; nan where every rate diverged. Where some rates are
        farther apart than others, the curve between them counts, too (monotone cubics).
      low: lower end of its 95% confidence interval over seeds (jackknife, Student's t); the next lower rate,
        where the parabola's minimum is farther off, as beside a rate that diverges; nan where there is a
        single seed, or no parabola.
      high: upper end, likewise.
      at_edge: whether the lowest point is the first or the last of the rates that were tried, so that the
        optimum may lie beyond; `log2_lr` is that rate, then.
    """

    log2_lr: float
    low: float = math.nan
    high: float = math.nan
    at_edge: bool = False

    @property
    def half(self) -> float:
        """How far the farther end of the interval is off; nan where there is none.

        >>> Optimum(-8.0, -8.0, -7.0).half
        1.0
        """
        return max(self.log2_lr - self.low, self.high - self.log2_lr)


class Curve(NamedTuple):
    """The losses of one parametrization at one width, over learning rates.

    Attributes:
      log2_lr: [lrs], ascending.
      log_loss: [lrs, seeds], natural logarithms; inf where a seed diverged, nan where it is missing.
    """

    log2_lr: np.ndarray
    log_loss: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """[lrs], exp of the seeds' mean log loss, as if none were missing; inf where one diverged."""
        return np.asarray(np.exp(levelled(self.log_loss)))

    @property
    def low(self) -> np.ndarray:
        """[lrs], the seeds' smallest loss."""
        return np.asarray(np.exp(np.nanmin(self.log_loss, axis=1)))

    @property
    def high(self) -> np.ndarray:
        """[lrs], the seeds' largest loss."""
        return np.asarray(np.exp(np.nanmax(self.log_loss, axis=1)))

    @property
    def best(self) -> float:
        """The log2 learning rate of the lowest mean (the first of equals); nan if all diverged."""
        return float(self.log2_lr[lowest(self.log_loss)]) if np.isfinite(self.mean).any() else math.nan

    @property
    def lowest(self) -> float:
        """The mean there; inf if all diverged."""
        return float(self.mean[lowest(self.log_loss)])

    @property
    def optimum(self) -> Optimum:
        """The minimum between the rates that were tried, and its interval over seeds.

        >>> at = np.array([-8.0, -7.0, -6.0])
        >>> round(Curve(at, 0.1 * (at[:, None] + 6.8)**2).optimum.log2_lr, 3)
        -6.8
        """
        found = levelled(self.log_loss)
        if not np.isfinite(found).any():
            return Optimum(math.nan)
        place = lowest(self.log_loss)
        best = float(self.log2_lr[place])
        if place in (0, len(self.log2_lr) - 1):
            return Optimum(best, at_edge=True)
        diverged = np.isinf(self.log_loss).any(axis=1, keepdims=True)
        y = np.where(diverged, np.inf, self.log_loss)           # [lrs, seeds]
        vertex = vertex_near(best, self.log2_lr, y)
        if math.isnan(vertex):
            return Optimum(best)
        before, after = self.log2_lr[place - 1], self.log2_lr[place + 1]
        low = max(before, best - REACH) if np.isfinite(found[place - 1]) else best
        high = min(after, best + REACH) if np.isfinite(found[place + 1]) else best
        at = float(np.clip(vertex, low, high))
        half = half_interval([vertex_near(best, self.log2_lr, np.delete(y, seed, axis=1))
                              for seed in range(y.shape[1])])
        if at != vertex and not math.isnan(half):       # it is known to a step
            return Optimum(at, float(before), float(after))
        return Optimum(at, at - half, at + half)


Curves = dict[str, dict[int, Curve]]        # parametrization -> width -> its curve


def curves(rows: Iterable[Mapping[str, Any]], loss: str = "train_loss") -> Curves:
    """Groups records by parametrization and width, in order of appearance.

    Args:
      rows: records with the keys `parametrization`, `width`, `lr` and `loss`, one for each seed; `seed`
        tells them apart, else their order does. What csv.DictReader reads will do.
      loss: the key of the loss.

    Returns:
      Curves by parametrization, then by width. A loss that is nan counts as diverged.

    >>> row = {"parametrization": "mup", "width": 64, "lr": 0.125}
    >>> curves([row | {"train_loss": 2.0}, row | {"train_loss": 8.0}])["mup"][64].mean
    array([4.])
    """
    groups: dict[str, dict[int, dict[float, dict[Any, float]]]] = {}
    for row in rows:
        points = groups.setdefault(row["parametrization"], {}).setdefault(int(row["width"]), {})
        seeds, value = points.setdefault(float(row["lr"]), {}), float(row[loss])
        seeds[row.get("seed", len(seeds))] = math.inf if math.isnan(value) else max(value, FLOOR)
    return {name: {width: _curve(points) for width, points in widths.items()}
            for name, widths in groups.items()}


def _curve(points: Mapping[float, Mapping[Any, float]]) -> Curve:
    """The curve of {lr: {seed: loss}}."""
    lrs, seeds = sorted(points), list(dict.fromkeys(seed for at in points.values() for seed in at))
    losses = [[points[lr].get(seed, math.nan) for seed in seeds] for lr in lrs]
    return Curve(np.log2(lrs).round(10), np.log(losses))


def drift(widths: Mapping[int, Curve]) -> float:
    """How far apart the widths' optima are, in octaves; nan if a width has none.

    >>> at = np.array([-3.0, -2.0, -1.0])
    >>> bowl = {width: Curve(at, (at[:, None] - best)**2) for width, best in ((64, -1.5), (128, -2))}
    >>> round(drift(bowl), 3)
    0.5
    """
    found = [curve.optimum.log2_lr for curve in widths.values()]
    return math.nan if any(map(math.isnan, found)) else max(found) - min(found)


def setback(widths: Mapping[int, Curve]) -> float:
    """By how much a wider model is worse than a narrower one, at rates an octave or more below the optimum.

    The largest difference of their mean log losses over all pairs of widths and all rates an octave or more
    below both optima, in units of the seeds' standard deviation of that difference: up to 1, it is within
    their spread; below 0, wider is always better.

    Args:
      widths: {width: Curve}, of the same rates.

    Returns:
      The number; nan for a single width, a single seed, or no rates that low.

    >>> at, seeds = np.array([-4.0, -3.0, -2.0, -1.0, 0.0]), np.array([0.0, 0.1])
    >>> narrow, wide = (Curve(at, (at[:, None] + 1.3)**2 + shift + seeds) for shift in (0, -0.2))
    >>> round(setback({64: narrow, 128: wide}), 3)
    -2.0
    """
    pairs = [(narrow, wide) for narrow in widths for wide in widths if narrow < wide]
    found = [x for narrow, wide in pairs for x in _setbacks(widths[narrow], widths[wide])]
    return max(found, default=math.nan)


def _setbacks(narrow: Curve, wide: Curve) -> list[float]:
    """The setback at each rate that both curves have, an octave or more below both optima."""
    below = min(narrow.optimum.log2_lr, wide.optimum.log2_lr) - 1
    known = dict(zip(narrow.log2_lr, narrow.log_loss))
    pairs = [(known[lr], losses) for lr, losses in zip(wide.log2_lr, wide.log_loss)
             if lr <= below and lr in known]
    there = [(a[~np.isnan(a)], b[~np.isnan(b)]) for a, b in pairs]
    return [_excess(a, b) for a, b in there if min(len(a), len(b)) > 1]


def _excess(a: np.ndarray, b: np.ndarray) -> float:
    """How far b lies above a, in standard deviations of the difference of two seeds."""
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return math.inf if np.isinf(b).sum() > np.isinf(a).sum() else -math.inf
    return float((b.mean() - a.mean()) / max(math.hypot(a.std(ddof=1), b.std(ddof=1)), FLOOR))
