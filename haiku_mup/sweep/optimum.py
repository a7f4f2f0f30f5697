"""Where a curve of noisy losses is lowest: arithmetic on arrays, some of whose entries may be missing."""
import math
from collections.abc import Sequence

import numpy as np

REACH = 1.5         # octaves to either side of the lowest point that the parabola is put through
CLOSE = 0.25        # octaves, which is as close as any point need be to the next


def lowest(log_loss: np.ndarray) -> int:
    """The rate at which log losses [lrs, seeds] are lowest; some may be missing (nan).

    It is one that has half of the seeds that the best-known rate has, or more, and that no rate with more seeds
    is below at the seeds that both have. Another takes its place if it is lower at those: one that an adaptive
    search looked at with a single seed is not, where it is `levelled` alone that makes it so.

    >>> lowest(np.array([[1., 3., 3.], [2., 9., 9.], [1.1, np.nan, np.nan]]))
    0
    >>> lowest(np.array([[1., 3., 3.], [2., 9., 9.], [0.9, np.nan, np.nan]]))
    2
    """
    found, count = levelled(log_loss), (~np.isnan(log_loss)).sum(axis=1)
    with np.errstate(invalid="ignore"):                         # inf - inf
        apart = np.nansum(log_loss[:, None] - log_loss, axis=2)         # [lrs, lrs], where both have the seed
    beaten = ((apart > 0) & (count[:, None] < count)).any(axis=1)       # by one that has more seeds
    enough = 2 * count >= count.max()
    known = np.where(enough & ~beaten, found, np.inf)
    best = int((known if np.isfinite(known).any() else found).argmin())
    lower = ~enough & (apart[:, best] < 0)
    return int(np.where(lower, found, np.inf).argmin()) if lower.any() else best


def levelled(log_loss: np.ndarray) -> np.ndarray:
    """[lrs], the seeds' means of log losses [lrs, seeds], as if none were missing.

    Where some are (nan), each loss is taken for a part of its rate's plus a part of its seed's, by least
    squares. A rate at which a seed diverged has inf.

    >>> levelled(np.array([[0., 10.], [1., 11.], [2., np.nan]]))
    array([5., 6., 7.])
    """
    bad = np.isinf(log_loss).any(axis=1) | np.isnan(log_loss).all(axis=1)
    means = np.full(len(log_loss), np.inf)
    if not np.isnan(log_loss[~bad]).any():
        means[~bad] = log_loss[~bad].mean(axis=1)
        return means
    rates, seeds = log_loss[~bad].shape
    rows, columns = np.nonzero(~np.isnan(log_loss[~bad]))
    design = np.hstack([np.eye(rates)[rows], (np.eye(seeds) - 1 / seeds)[columns]])
    means[~bad] = np.linalg.lstsq(design, log_loss[~bad][rows, columns])[0][:rates]
    return means


def vertex_near(best: float, x: np.ndarray, y: np.ndarray) -> float:
    """Where a parabola through the means of y [lrs, seeds] at x, around the best, is lowest; nan if nowhere."""
    some = ~np.isnan(y).all(axis=1)
    if (some & (abs(x - best) <= REACH)).sum() < 3:
        return math.nan
    x, found = x[some] - best, levelled(y[some])
    near = (abs(x) <= REACH) & np.isfinite(found)
    if near.sum() < 3:
        return math.nan
    parabola = np.polyfit(x[near], found[near], 2)
    all_x, rest = _filled(x, found - np.polyval(parabola, x))   # so that a parabola's own gaps are filled by it
    if len(all_x) > len(x):
        near = (abs(all_x) <= REACH) & np.isfinite(rest)
        parabola += np.polyfit(all_x[near], rest[near], 2)
    curvature, slope, _ = parabola
    return float(best - slope / (2 * curvature)) if curvature > 0 else math.nan


def _filled(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """With points in between, where others are closer, so that each stretch of rates weighs alike.

    The steps are those of the closest two, but a quarter of an octave at least; the points are on Fritsch and
    Carlson's monotone cubics (SIAM J. Numer. Anal. 17, 1980).

    >>> _filled(np.array([0., 1., 3.]), np.array([5., 2., 0.5]))[0]
    array([0., 1., 2., 3.])
    """
    gaps = np.diff(x)
    finite = np.isfinite(y) & np.append(True, gaps > 0)         # two rates may be one but for rounding
    parts = np.maximum(np.rint(gaps / max(gaps.min(), CLOSE)), 1).astype(int)
    parts[~np.isfinite(y[:-1] + y[1:])] = 1
    if (parts == 1).all():
        return x, y
    from scipy import interpolate  # type: ignore[import-untyped]  # slow to import; JAX itself depends on it

    between = np.concatenate([a + gap * np.arange(1, n) / n for a, gap, n in zip(x, gaps, parts)])
    x, y = np.append(x, between), np.append(y, interpolate.PchipInterpolator(x[finite], y[finite])(between))
    order = np.argsort(x)
    return x[order], y[order]


def half_interval(replicates: Sequence[float]) -> float:
    """Half the 95% interval of a statistic, from its values with one of n seeds left out in turn.

    The jackknife's variance is (n-1)/n Σ(θ_i - mean θ)² (Efron & Tibshirani 1993, eq. 11.5).
    """
    n = len(replicates)
    if n < 2:
        return math.nan
    from scipy import special  # slow to import; JAX itself depends on it

    variance = (n - 1) * float(np.var(replicates))
    return float(special.stdtrit(n - 1, 0.975)) * math.sqrt(variance)
