"""Estimates the learning rate at which a noisy loss curve is lowest, and a confidence interval for it.

1. At each learning rate, the losses are averaged over seeds. If seeds are missing, the averages account for
   which ones: see `marginal_means`.
2. A weighted least-squares parabola through the averages within 1.5 octaves of the lowest one gives the
   optimum. The higher a loss, the less it weighs: see `weights_of`.
3. The jackknife gives the interval: each seed is left out in turn, and the parabola is fitted again. The optima
   that result are as far apart as chance in the seeds makes them.

Where several rates tie for the lowest loss, a parabola would claim to know what the losses don't tell. There
the optimum is the middle of these rates, and the interval contains them all: see `haiku_mup.sweep.ties`.

Only ratios of differences between losses count. So the optimum and its interval stay the same if a number is
added to all losses, or if all are multiplied by a positive one, and losses may have any sign.
"""
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from haiku_mup.coordinates.slopes import student
from haiku_mup.sweep.ties import Ties, find_ties, first_of_lowest, rounding_error

FIT_RADIUS = 1.5        # octaves to either side of the lowest rate that the parabola is fitted to
FLAT = 1e-9             # curvature, per octave² and beside the highest loss, that may be due to rounding
MIN_SPACING = 0.25      # octaves; rates closer than this count as this far apart when gaps are filled
MAX_EXCESS = 1e6        # in units of the valley's scale; losses higher than this count as diverged in a fit


class Optimum(NamedTuple):
    """The learning rate at which a curve is lowest.

    Attributes:
      log2_lr: log2 of the learning rate at the minimum of a parabola through the mean losses within 1.5
        octaves of the lowest rate, at most as far away as the next rate that was tried. The higher a loss, the
        less it weighs. It is the lowest rate itself if the parabola has no minimum, and nan if every rate
        diverged. If some rates are farther apart than others, the fit includes points in between (on monotone
        cubics), so that all stretches of the curve weigh alike. If several rates tie for the lowest loss, it is
        the middle of them.
      low: the lower end of its 95% confidence interval over seeds (jackknife, Student's t). It is the next
        lower rate if the parabola's minimum lies beyond the neighbouring rates, as beside a rate that diverges;
        nan with a single seed, or without a parabola. If several rates tie for the lowest loss, it is lower by
        half a step than the lowest of them, and by what chance in the seeds adds.
      high: the upper end, likewise.
      at_edge: whether the rate of the lowest loss, or one that ties with it, is the first or the last that was
        tried. Then `log2_lr` is that rate, and the optimum may lie beyond.
    """

    log2_lr: float
    low: float = math.nan
    high: float = math.nan
    at_edge: bool = False

    @property
    def half(self) -> float:
        """Returns the distance to the farther end of the interval; nan if there is none.

        >>> Optimum(-8.0, -8.0, -7.0).half
        1.0
        """
        return max(self.log2_lr - self.low, self.high - self.log2_lr)


def find_optimum(log2_lr: np.ndarray, losses: np.ndarray) -> Optimum:
    """Estimates the optimum of losses [lrs, seeds] at ascending rates [lrs], and its interval.

    Args:
      log2_lr: log2 of the learning rates, [lrs].
      losses: [lrs, seeds]; inf where a seed diverged, nan where it is missing.

    >>> x = np.array([-8.0, -7.0, -6.0])
    >>> round(find_optimum(x, 0.1 * (x[:, None] + 6.8)**2).log2_lr, 3)
    -6.8
    """
    means = marginal_means(losses)
    if not np.isfinite(means).any():
        return Optimum(math.nan)
    index = argmin_rate(losses)
    # A rate at which one seed diverged must not come back when the jackknife leaves that seed out.
    losses = np.where(np.isinf(losses).any(axis=1, keepdims=True), np.inf, losses)
    if (ties := find_ties(log2_lr, losses, index)) is not None:
        return _optimum_of_ties(ties, log2_lr, losses, index)
    if index in (0, len(log2_lr) - 1):
        return Optimum(float(log2_lr[index]), at_edge=True)
    return _optimum_of_parabola(log2_lr, losses, index, means)


def _optimum_of_parabola(log2_lr: np.ndarray, losses: np.ndarray, index: int, means: np.ndarray) -> Optimum:
    """Returns the minimum of a parabola around the lowest rate, which is not the first or the last."""
    below, lowest, above = map(float, log2_lr[index - 1:index + 2])
    fitted = parabola_minimum(lowest, log2_lr, losses)
    if math.isnan(fitted):
        return Optimum(lowest)
    # The optimum is no farther away than the neighbours, and not on the side of one that diverged.
    low = max(below, lowest - FIT_RADIUS) if np.isfinite(means[index - 1]) else lowest
    high = min(above, lowest + FIT_RADIUS) if np.isfinite(means[index + 1]) else lowest
    best = float(np.clip(fitted, low, high))
    minima, tied = _leave_one_out(index, log2_lr, losses)
    margin = jackknife_margin(minima)
    low, high = best - margin, best + margin
    if best != fitted and not math.isnan(margin):
        low, high = below, above        # no parabola fits here; the neighbours bracket the optimum
    # Rates that tie without one of the seeds are told apart by that seed alone.
    return Optimum(best, float(np.min([low, *tied])), float(np.max([high, *tied])))


def _optimum_of_ties(ties: Ties, log2_lr: np.ndarray, losses: np.ndarray, index: int) -> Optimum:
    """Returns the middle of tied rates, and an interval that contains them all; or the end that they reach."""
    if ties.at_end(len(log2_lr)):
        return Optimum(float(log2_lr[0 if ties.lowest == 0 else -1]), at_edge=True)
    low, high = ties.around(log2_lr)
    margin = np.nan_to_num(jackknife_margin(_leave_one_out(index, log2_lr, losses)[0]))
    return Optimum(ties.middle(log2_lr), float(low - margin), float(high + margin))


def _leave_one_out(index: int, x: np.ndarray, y: np.ndarray) -> tuple[list[float], list[float]]:
    """Returns the minimum near the lowest rate without each seed in turn, and the ends of rates that tie."""
    minima: list[float] = []
    ends: list[float] = []
    for seed in range(y.shape[1]):
        others = np.delete(y, seed, axis=1)
        ties = find_ties(x, others, index)
        if ties is None or ties.at_end(len(x)):
            minima.append(parabola_minimum(float(x[index]), x, others))
        else:
            minima.append(ties.middle(x))
            ends += ties.around(x)
    return minima, ends


def argmin_rate(losses: np.ndarray) -> int:
    """Returns the index of the rate with the lowest of losses [lrs, seeds], where seeds may be missing (nan).

    An adaptive search tries many rates with one seed and few rates with several. The average of one seed is
    noisy, and the lowest of many noisy averages is likely to be a lucky one. So a rate with few seeds has to be
    lower where the comparison is fair, on the seeds that it shares with a rate that has more:

    1. The candidates have at least half as many seeds as the rate with the most, and no rate with more seeds is
       lower on the shared ones. The candidate of the lowest marginal mean wins.
    2. Any rate with fewer seeds takes its place if it is lower than the winner on the shared ones.

    >>> argmin_rate(np.array([[1., 3., 3.], [2., 9., 9.], [1.1, np.nan, np.nan]]))
    0
    >>> argmin_rate(np.array([[1., 3., 3.], [2., 9., 9.], [0.9, np.nan, np.nan]]))
    2
    """
    means, count = marginal_means(losses), (~np.isnan(losses)).sum(axis=1)
    with np.errstate(invalid="ignore"):                         # inf - inf
        excess = np.nansum(losses[:, None] - losses, axis=2)            # [lrs, lrs], over the shared seeds
    excess[abs(excess) <= rounding_error(losses)] = 0
    beaten = ((excess > 0) & (count[:, None] < count)).any(axis=1)
    enough = 2 * count >= count.max()
    candidates = np.where(enough & ~beaten, means, np.inf)
    winner = first_of_lowest(candidates if np.isfinite(candidates).any() else means)
    lower = ~enough & (excess[:, winner] < 0)
    return first_of_lowest(np.where(lower, means, np.inf)) if lower.any() else winner


def marginal_means(losses: np.ndarray) -> np.ndarray:
    """Returns the means over seeds, [lrs], of losses [lrs, seeds], as if no seed were missing.

    Some seeds are better than others at every rate. Plain means over different seeds would mistake that for a
    difference between rates. So each loss is modelled as a rate's effect plus a seed's effect, fitted by least
    squares to the entries that exist, with the weights of `weights_of`: seeds differ most where training is
    close to diverging, and those differences say nothing about other rates. The result is the rate's effect
    plus the average seed's: the estimated marginal means of a two-way layout with missing cells (Searle, Speed
    & Milliken, The American Statistician 34, 1980). Without missing entries these are the plain means.

    A rate at which a seed diverged, or that has no seed at all, gets inf.

    >>> marginal_means(np.array([[0., 10.], [1., 11.], [2., np.nan]]))
    array([5., 6., 7.])
    """
    excluded = np.isinf(losses).any(axis=1) | np.isnan(losses).all(axis=1)
    means = np.full(len(losses), np.inf)
    kept = losses[~excluded]
    if not np.isnan(kept).any():
        means[~excluded] = kept.mean(axis=1)
        return means
    lowest = np.nanmin(kept)        # subtracted, since the solution of least norm must not depend on it
    means[~excluded] = lowest + _rate_effects(kept - lowest, weights_of(np.nanmean(kept, axis=1)))
    return means


def _rate_effects(losses: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Returns the effects of the rates, [lrs], in a model of losses [lrs, seeds] by rates and seeds.

    Args:
      losses: [lrs, seeds].
      weights: of the rates, [lrs]; those of weight 0 have plain means.
    """
    effects, fitted = np.asarray(np.nanmean(losses, axis=1)), weights > 0
    losses, weights = losses[fitted], weights[fitted]
    rates, seeds = losses.shape
    rows, columns = np.nonzero(~np.isnan(losses))
    # Subtracting 1 / seeds centres the seeds' effects: a rate's coefficient is its loss for the average seed.
    # That leaves the design one short of full rank, which lstsq allows.
    design = np.hstack([np.eye(rates)[rows], (np.eye(seeds) - 1 / seeds)[columns]])
    root = np.sqrt(weights[rows])
    effects[fitted] = np.linalg.lstsq(design * root[:, None], losses[rows, columns] * root)[0][:rates]
    return effects


def weights_of(means: np.ndarray) -> np.ndarray:
    """Returns the weights of mean losses [n] in a least-squares fit: less for higher losses.

    The weight is 1/(1 + e/s)², where e is the excess of a loss over the lowest, and s is the (lower) median of
    the excesses above 0, the scale of the valley. The higher a loss is, the farther seeds are apart, and the
    less a parabola describes the curve; beside a rate that diverges e has no limits. If both deviations grow
    like s + e, these are the weights of inverse variance. A loss more than `MAX_EXCESS` times s above the
    lowest has the weight 0.

    >>> weights_of(np.array([3.0, 1.0, 2.0, 1e30])).round(3)
    array([0.25 , 1.   , 0.444, 0.   ])
    """
    excess = means - means.min()
    excess[excess <= rounding_error(means)] = 0
    risen = np.sort(excess[excess > 0])
    if not len(risen):
        return np.ones(len(means))
    with np.errstate(over="ignore"):
        heights = excess / risen[(len(risen) - 1) // 2]
    return np.asarray(np.where(heights > MAX_EXCESS, 0, (1 + np.minimum(heights, MAX_EXCESS))**-2.0))


def parabola_minimum(center: float, x: np.ndarray, y: np.ndarray) -> float:
    """Returns the minimum of a parabola through the means of y [lrs, seeds] at x near the center.

    It is nan if fewer than three rates are near, or if the parabola opens downwards or is a straight line.
    """
    tried = ~np.isnan(y).all(axis=1)
    if (tried & (abs(x - center) <= FIT_RADIUS)).sum() < 3:
        return math.nan
    x, means = x[tried] - center, marginal_means(y[tried])
    near = (abs(x) <= FIT_RADIUS) & np.isfinite(means)
    if near.sum() > 3:          # through three points goes one parabola, whatever their weights
        means[np.flatnonzero(near)[weights_of(means[near]) == 0]] = np.inf
        near &= np.isfinite(means)
    if near.sum() < 3:
        return math.nan
    lowest = means[near].min()
    heights = means - lowest
    highest = heights[near].max()
    parabola = _fit_parabola(x[near], heights[near], means[near])
    # Where rates are dense, the fit has more points, and would lean towards them. Points between the others
    # even that out. They are interpolated in the residuals, so a curve that is a parabola keeps its minimum.
    even_x, residuals = _fill_gaps(x, heights - np.polyval(parabola, x))
    if len(even_x) > len(x):
        near = (abs(even_x) <= FIT_RADIUS) & np.isfinite(residuals)
        filled = lowest + residuals + np.polyval(parabola, even_x)
        parabola = parabola + _fit_parabola(even_x[near], residuals[near], filled[near])
    curvature, slope, _ = parabola
    return float(center - slope / (2 * curvature)) if curvature > FLAT * highest else math.nan


def _fit_parabola(x: np.ndarray, y: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Returns the coefficients of a parabola through y at x, with the weights that mean losses give."""
    weights = weights_of(means) if len(x) > 3 else np.ones(len(x))
    return np.asarray(np.polyfit(x, y, 2, w=np.sqrt(weights)))


def _fill_gaps(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Adds interpolated points where neighbours are farther apart than the closest two.

    The spacing of the closest two counts as at least a quarter of an octave. The points lie on Fritsch and
    Carlson's monotone cubics (SIAM J. Numer. Anal. 17, 1980), which don't overshoot beside a steep rise. No
    points are added beside a rate that diverged.

    >>> _fill_gaps(np.array([0., 1., 3.]), np.array([5., 2., 0.5]))[0]
    array([0., 1., 2., 3.])
    """
    gaps = np.diff(x)
    nodes = np.isfinite(y) & np.append(True, gaps > 0)      # two rates may be equal but for rounding
    parts = np.maximum(np.rint(gaps / max(gaps.min(), MIN_SPACING)), 1).astype(int)
    parts[~np.isfinite(y[:-1] + y[1:])] = 1
    if (parts == 1).all():
        return x, y
    from scipy import interpolate  # type: ignore[import-untyped]  # slow to import; JAX itself depends on it

    added = np.concatenate([start + gap * np.arange(1, n) / n for start, gap, n in zip(x, gaps, parts)])
    all_x = np.append(x, added)
    all_y = np.append(y, interpolate.PchipInterpolator(x[nodes], y[nodes])(added))
    order = np.argsort(all_x)
    return all_x[order], all_y[order]


def jackknife_margin(replicates: Sequence[float]) -> float:
    """Returns half the width of a statistic's 95% interval, from its values with one of n samples left out.

    The jackknife's variance is (n-1)/n Σ(θ_i - mean θ)² (Efron & Tibshirani 1993, eq. 11.5). The interval is
    Student's, with n - 1 degrees of freedom. It is nan for fewer than two samples.
    """
    n = len(replicates)
    if n < 2:
        return math.nan
    variance = (n - 1) * float(np.var(replicates))
    return student(n - 1) * math.sqrt(variance)
