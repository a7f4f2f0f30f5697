"""Search strategies of a sweep: every trial of a grid, or an adaptive search for each curve's optimum.

A search is a generator. It yields the trials of a round, is sent the losses of those that succeeded, and
returns the best rates when it ends.

The adaptive search runs a third of a curve's trials at the narrowest width, and fewer at each wider one, down
to a fifth: wide models cost most, and the optimum of the narrower width says where to look. It has three
stages:

1. Initial rates, with one seed. Without a starting point these are some four rates spread over all of them.
   The optimum of the next narrower width is a starting point: then they are that rate, the rates half an octave
   to each side of it, and one every four octaves elsewhere. The far rates show whether the starting point is
   only a local minimum of the curve.
2. A bracket, with one seed. While a neighbour of the lowest rate is more than an octave away, the next trial
   halves that distance. If the lowest rate is the outermost one, the next trial is beyond it. (Press et al.,
   Numerical Recipes, section 10.1, bracket a minimum likewise.) If several rates tie for the lowest loss, the
   bracket is around all of them, and what follows is around their middle. If the lowest rate then is more than
   an octave from the starting point, the narrower width told little, and this one may run a third of its
   trials, too.
3. Replicates. Seed by seed, trials run at the lowest rate and an octave to each side, then half an octave to
   each side, then one and a half. After each round the lowest rate is chosen anew, and the next round is around
   that one. This goes on until the budget is spent.

With several seeds the third stage takes most of the budget, so losses are known best where the curve is lowest.
Comparisons allow for rates having different seeds: see `haiku_mup.sweep.optimum`.
"""
import enum
import math
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence

import numpy as np

from haiku_mup.sweep.loss_curves import Curve, final_loss, finite_or_inf
from haiku_mup.sweep.optimum import marginal_means
from haiku_mup.sweep.ties import first_of_lowest, longest_run, ties_with
from haiku_mup.sweep.trial import Trial

BUDGET_SHARE = 3        # an adaptive search runs at most one in so many of a curve's trials,
WIDEST_SHARE = 5        # and at the widest of several widths one in so many, if its optimum is where it was
MIN_BUDGET = 3          # but at least so many
WARM_START_SEEDS = 3    # with fewer seeds the budget is too small for a start around a known rate and far off
INITIAL_RATES = 4       # without a starting point
FAR_OCTAVES = 4         # between the initial rates away from a starting point
SURPRISE_OCTAVES = 1    # an optimum that is farther from its starting point gets the larger budget

Losses = Mapping[Trial, Mapping[str, np.ndarray]]
GridIndex = tuple[int, int]                 # of a rate and of a seed
Setting = tuple[tuple[str, float], ...]     # of the hyperparameters other than the rate
BestRates = Mapping[Setting, float]         # log2 of the best rate
Search = Generator[list[Trial], Losses, BestRates | None]


class SearchMethod(enum.StrEnum):
    """The strategies that `lr_sweep` offers."""

    GRID = "grid"
    ADAPTIVE = "adaptive"


def grid_search(trials: Sequence[Trial]) -> Search:
    """Runs all trials in one round.

    >>> next(grid_search("ab"))
    ['a', 'b']
    """
    yield list(trials)
    return None


def adaptive_search(trials: Sequence[Trial], warm_start: BestRates | None = None,
                    share: float = BUDGET_SHARE) -> Search:
    """Searches each curve of a grid: all rates and seeds at one setting of the other hyperparameters.

    Args:
      trials: the grid of one parametrization and width.
      warm_start: the best rates of a narrower width, at which this search starts if there are three seeds or
        more; else it starts from rates spread over all of them.
      share: one in so many trials runs where the optimum is near the one that it starts at.

    Returns:
      log2 of the best rates, by setting, without settings at which every trial diverged.

    >>> grid = [Trial("mup", 64, (("lr", 2.0**k),), seed) for k in range(-8, 1) for seed in range(3)]
    >>> search, count, losses = adaptive_search(grid), 0, None
    >>> while True:
    ...     try:
    ...         trials = search.send(losses)
    ...     except StopIteration:
    ...         break
    ...     losses = {t: {"train_loss": np.exp((np.log2(t.point[0][1]) + 2.8)**2)} for t in trials}
    ...     count += len(trials)
    >>> count, trials[-1].point[0][1] in (2**-4, 2**-3, 2**-2)
    (9, True)
    """
    by_setting: dict[Setting, list[Trial]] = {}
    for trial in trials:
        by_setting.setdefault(trial.point[1:], []).append(trial)
    curves = {setting: _CurveSearch(members, (warm_start or {}).get(setting), share)
              for setting, members in by_setting.items()}
    yield from _merge_rounds([curve.rounds() for curve in curves.values()])
    best = {setting: curve.best_log2_lr for setting, curve in curves.items()}
    return {setting: log2_lr for setting, log2_lr in best.items() if not math.isnan(log2_lr)}


def search_width_by_width(grids: Iterable[Sequence[Trial]]) -> Search:
    """Searches one width after another, with ever fewer trials, each from the best rates of the one before.

    Args:
      grids: all trials of one parametrization, for each width in ascending order.

    Returns:
      log2 of the best rates at the last width, by setting.

    >>> grids = [[Trial("mup", width, (("lr", 2.0**k),), seed) for k in range(-8, 1) for seed in range(3)]
    ...          for width in (64, 128)]
    >>> {trial.width for trial in next(search_width_by_width(grids))}
    {64}
    """
    best: BestRates | None = None
    by_width = list(grids)
    for trials, share in zip(by_width, np.geomspace(BUDGET_SHARE, WIDEST_SHARE, max(2, len(by_width)))):
        best = yield from adaptive_search(trials, best, share)
    return best


def adaptive_budget(trials: int, share: float = BUDGET_SHARE) -> int:
    """Returns how many trials an adaptive search may run of a curve that has so many.

    >>> adaptive_budget(36), adaptive_budget(36, 6), adaptive_budget(5)
    (12, 6, 3)
    """
    return max(int(trials / share + 1e-9), min(MIN_BUDGET, trials))


Rounds = Generator[list[Trial], Losses, None]


def _merge_rounds(searches: Iterable[Rounds]) -> Rounds:
    """Advances several searches at once: a round of the result is the sum of their rounds."""
    running = [(search, next(search, [])) for search in searches]
    while any(trials for _, trials in running):
        losses = yield [trial for _, trials in running for trial in trials]
        running = [(search, _next_round(search, trials, losses)) for search, trials in running]


def _next_round(search: Rounds, trials: Sequence[Trial], losses: Losses) -> list[Trial]:
    """Sends the losses of a round's trials; returns the trials of the next, none if the search has ended."""
    if not trials:
        return []
    try:
        return search.send({trial: losses[trial] for trial in trials if trial in losses})
    except StopIteration:
        return []


def _first_loss(losses: Mapping[str, np.ndarray] | None) -> float:
    """Returns a trial's first loss; inf for a trial that diverged or failed."""
    return math.inf if losses is None else finite_or_inf(final_loss(next(iter(losses.values()))))


class _CurveSearch:
    """The adaptive search of one curve. Rates, ascending, and seeds go by their indices.

    Args:
      trials: all trials of the curve.
      start: log2 of the rate to start at; None for no starting point.
      share: see `adaptive_search`.
    """

    def __init__(self, trials: Sequence[Trial], start: float | None, share: float):
        lrs = sorted({trial.point[0][1] for trial in trials})
        seeds = list(dict.fromkeys(trial.seed for trial in trials))
        self._trials = {(lrs.index(t.point[0][1]), seeds.index(t.seed)): t for t in trials}
        self._log2_lrs, self._seeds = np.log2(lrs), len(seeds)
        self._budget, self._usual_budget = adaptive_budget(len(trials)), adaptive_budget(len(trials), share)
        self._octave = self._grid_steps(1)
        self._half_octave = max(1, self._octave // 2)
        warm = start is not None and len(seeds) >= WARM_START_SEEDS
        self._start = int(abs(self._log2_lrs - start).argmin()) if warm else None
        self._losses: dict[GridIndex, float] = {}

    @property
    def best_log2_lr(self) -> float:
        """Returns log2 of the best rate; nan if every trial so far diverged."""
        table = self._loss_table()
        tried = ~np.isnan(table).all(axis=1)
        return Curve.of_losses(self._log2_lrs[tried].round(10), table[tried]).optimum.log2_lr

    def rounds(self) -> Rounds:
        """Yields the trials of each round, and is sent their losses."""
        for indices in self._stages():
            losses = yield [self._trials[index] for index in indices]
            self._losses |= {index: _first_loss(losses.get(self._trials[index])) for index in indices}

    def _stages(self) -> Iterator[list[GridIndex]]:
        """Yields the rounds of the three stages, until the budget is spent."""
        yield self._within_budget((rate, 0) for rate in self._initial_rates())
        while indices := self._within_budget(self._bracket()):
            yield indices
        if not self._is_surprised():
            least = len(self._losses) + self._for_an_interval()
            self._budget = min(self._budget, max(self._usual_budget, least))
        while indices := self._within_budget(self._replicates()):
            yield indices

    def _for_an_interval(self) -> int:
        """Returns how many trials are missing for two seeds at the lowest rate and an octave to each side."""
        rates = (self._lowest_rate() + step for step in (0, self._octave, -self._octave))
        return sum(0 <= rate < len(self._log2_lrs) and (rate, seed) not in self._losses
                   for rate in rates for seed in range(2))

    def _is_surprised(self) -> bool:
        """Returns whether the lowest rate is far from the starting point, or there was none."""
        octaves = math.inf if self._start is None else abs(
            self._log2_lrs[self._lowest_rate()] - self._log2_lrs[self._start])
        return octaves > SURPRISE_OCTAVES + 1e-9        # of rates that differ by rounding

    def _initial_rates(self) -> Iterable[int]:
        """Returns the first rates to try, the most important ones first."""
        rates, start = len(self._log2_lrs), self._start
        if start is None:
            stride = max(1, round(rates / INITIAL_RATES))
            return range((stride - 1) // 2, rates, stride)
        near = [rate for rate in (start - self._half_octave, start + self._half_octave) if 0 <= rate < rates]
        stride = self._grid_steps(FAR_OCTAVES)
        far = {*range(start % stride, rates, stride)} - {start}
        return [start, *near, *sorted(far, key=lambda rate: abs(rate - start))]

    def _bracket(self) -> list[GridIndex]:
        """Returns the next rates that narrow the bracket around the lowest one, with the first seed."""
        (first, last), tried = self._lowest_rates(), {rate for rate, _ in self._losses}
        below = min((first - rate for rate in tried if rate < first), default=0)
        above = min((rate - last for rate in tried if rate > last), default=0)
        rates = [end + sign * step for end, sign, step in (
            (first, -1, self._bracket_step(below, above)), (last, 1, self._bracket_step(above, below))) if step]
        return [(min(max(rate, 0), len(self._log2_lrs) - 1), 0) for rate in rates]

    def _bracket_step(self, gap: int, opposite: int) -> int:
        """Returns how far to go to one side of the lowest rate; 0 for nowhere.

        Args:
          gap: the distance of the neighbour on that side; 0 if there is none.
          opposite: the distance of the other neighbour.
        """
        if not gap:
            return 2 * max(opposite, self._half_octave)     # ever larger steps until the loss rises
        return max(self._octave, -(-gap // 2)) if gap > self._octave else 0

    def _replicates(self) -> list[GridIndex]:
        """Returns the next trials around the lowest rate, of one seed, the nearest rates first."""
        octave, half, lowest = self._octave, self._half_octave, self._lowest_rate()
        for steps in ((0, octave, -octave), (half, -half), (octave + half, -octave - half)):
            rates = [lowest + step for step in steps if 0 <= lowest + step < len(self._log2_lrs)]
            for seed in range(self._seeds):
                if new := [(rate, seed) for rate in rates if (rate, seed) not in self._losses]:
                    return new
        return []

    def _within_budget(self, indices: Iterable[GridIndex]) -> list[GridIndex]:
        """Returns those of the trials that are new, as many as the budget allows."""
        new = [index for index in dict.fromkeys(indices) if index not in self._losses]
        return new[:max(0, self._budget - len(self._losses))]

    def _grid_steps(self, octaves: float) -> int:
        """Returns the number of steps between rates that makes so many octaves, at least 1."""
        gaps = np.diff(np.unique(self._log2_lrs.round(10)))     # rounded: two rates may differ in the last bit
        return max(1, round(octaves / float(np.median(gaps)))) if len(gaps) else 1

    def _loss_table(self) -> np.ndarray:
        """Returns the losses, [rates, seeds], with nan for trials that haven't run."""
        table = np.full((len(self._log2_lrs), self._seeds), np.nan)
        for index, loss in self._losses.items():
            table[index] = loss
        return table

    def _lowest_rate(self) -> int:
        """Returns the rate of the lowest mean; the middle of several; the first of all if each diverged."""
        return sum(self._lowest_rates()) // 2

    def _lowest_rates(self) -> tuple[int, int]:
        """Returns the ends of the longest stretch of rates that tie for the lowest mean, as far as tried."""
        table = self._loss_table()
        means = marginal_means(table)
        lowest = first_of_lowest(means)
        if not np.isfinite(means[lowest]):
            return lowest, lowest
        tried = np.flatnonzero(~np.isnan(table).all(axis=1))
        tied, _ = ties_with(table[tried], int(np.searchsorted(tried, lowest)))
        first, last = longest_run(tied)
        return int(tried[first]), int(tried[last])
