"""search="adaptive": where a curve is lowest, from a third of the trials that its grid has, or fewer."""
import math
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence

import numpy as np

from haiku_mup.sweep.loss_curves import FLOOR, Curve
from haiku_mup.sweep.optimum import levelled
from haiku_mup.sweep.result import final
from haiku_mup.sweep.trial import Trial

SHARE = 3           # of a curve's trials at most this part,
LEAST = 3           # but so many at least
FEW = 3             # seeds that are needed to begin where a narrower width's search ended
SCOUTS = 4          # rates that are tried first, spread over all of them, where nothing is known
FAR = 2             # octaves between those that look for another valley, where a place to begin is known
Found = Mapping[Trial, Mapping[str, np.ndarray]]
At = tuple[int, int]        # a rate and a seed, by their places
Setting = tuple[tuple[str, float], ...]     # of the hyperparameters other than the rate
Best = Mapping[Setting, float]              # log2 of the best rate
Search = Generator[list[Trial], Found, Best]


def adaptive(trials: Sequence[Trial], before: Best | None = None) -> Search:
    """Searches each curve of a grid: all rates and seeds at one setting of the other hyperparameters.

    Args:
      trials: the grid, of one parametrization and width.
      before: where the search of a narrower width ended. It is where this one begins; without it, or with fewer
        than three seeds, trials that are spread over all rates look for a place.

    Returns:
      Where it ended: log2 of the best rate, by setting; without those at which all that was tried diverged.

    >>> grid = [Trial("mup", 64, (("lr", 2.0**k),), seed) for k in range(-8, 1) for seed in range(3)]
    >>> search, asked, found = adaptive(grid), 0, None
    >>> while True:
    ...     try:
    ...         round = search.send(found)
    ...     except StopIteration:
    ...         break
    ...     found = {t: {"train_loss": np.exp((np.log2(t.point[0][1]) + 2.8)**2)} for t in round}
    ...     asked += len(round)
    >>> asked, round[-1].point[0][1] in (2**-4, 2**-3, 2**-2)
    (9, True)
    """
    groups: dict[Setting, list[Trial]] = {}
    for trial in trials:
        groups.setdefault(trial.point[1:], []).append(trial)
    found = [_Curve(some, (before or {}).get(setting)) for setting, some in groups.items()]
    yield from _together([curve.search() for curve in found])
    best = {setting: curve.best for setting, curve in zip(groups, found)}
    return {setting: x for setting, x in best.items() if not math.isnan(x)}


def allowed(trials: int) -> int:
    """How many trials may run of a curve that has so many.

    >>> allowed(36), allowed(5)
    (12, 3)
    """
    return max(trials // SHARE, min(LEAST, trials))


def _together(searches: Iterable[Generator[list[Trial], Found, None]]) -> Generator[list[Trial], Found, None]:
    """Their rounds, side by side."""
    open_ = [(search, next(search, [])) for search in searches]
    while any(trials for _, trials in open_):
        found = yield [trial for _, trials in open_ for trial in trials]
        open_ = [(search, _sent(search, {t: found[t] for t in trials if t in found}) if trials else [])
                 for search, trials in open_]


def _sent(search: Generator[list[Trial], Found, None], found: Found) -> list[Trial]:
    try:
        return search.send(found)
    except StopIteration:
        return []


def _log(losses: Mapping[str, np.ndarray] | None) -> float:
    """The logarithm of the first loss; inf where there is none."""
    return math.inf if losses is None else math.log(max(final(next(iter(losses.values()))), FLOOR))


class _Curve:
    """What is known of a curve. Its rates, ascending, and its seeds go by their places.

    Args:
      trials: the curve's.
      start: log2 of the rate to begin at, if one is known.
    """

    def __init__(self, trials: Sequence[Trial], start: float | None):
        lrs, seeds = sorted({t.point[0][1] for t in trials}), list(dict.fromkeys(t.seed for t in trials))
        self._trials = {(lrs.index(t.point[0][1]), seeds.index(t.seed)): t for t in trials}
        self._x, self._seeds = np.log2(lrs), len(seeds)
        self._budget = allowed(len(trials))
        self._octave = self._steps(1)
        self._half = max(1, self._octave // 2)
        self._start = None if start is None or len(seeds) < FEW else int(abs(self._x - start).argmin())
        self._known: dict[At, float] = {}

    @property
    def best(self) -> float:
        """log2 of the rate of the minimum; nan where all that was tried diverged."""
        table = self._table()
        tried = ~np.isnan(table).all(axis=1)
        return Curve(self._x[tried].round(10), table[tried]).optimum.log2_lr

    def search(self) -> Generator[list[Trial], Found, None]:
        """Its rounds."""
        for wanted in self._rounds():
            found = yield [self._trials[place] for place in wanted]
            self._known |= {place: _log(found.get(self._trials[place])) for place in wanted}

    def _rounds(self) -> Iterator[list[At]]:
        """First with one seed, until the lowest has neighbours an octave off; then with all seeds around it."""
        yield self._affordable((rate, 0) for rate in self._scouts())
        for more in (self._neighbours, self._around):
            while wanted := self._affordable(more()):
                yield wanted

    def _steps(self, octaves: float) -> int:
        """How many of the rates' steps make so many octaves; one at least."""
        gaps = np.diff(np.unique(self._x.round(10)))
        return max(1, round(octaves / float(np.median(gaps)))) if len(gaps) else 1

    def _scouts(self) -> Iterable[int]:
        """Spread over all rates; half an octave around the place to begin, where there is one, and far off."""
        rates, start = len(self._x), self._start
        if start is None:
            stride = max(1, round(rates / SCOUTS))
            return range((stride - 1) // 2, rates, stride)
        half, far = self._half, self._steps(FAR)
        others = {*range(start % far, rates, far)} - {start}
        return [start, *(r for r in (start - half, start + half) if 0 <= r < rates),
                *sorted(others, key=lambda rate: abs(rate - start))]

    def _neighbours(self) -> list[At]:
        """Closer to the lowest, where its neighbours are more than an octave off; beyond, where it has none."""
        lowest, known = self._lowest(), {rate for rate, _ in self._known}
        below = min((lowest - rate for rate in known if rate < lowest), default=0)
        above = min((rate - lowest for rate in known if rate > lowest), default=0)
        steps = (-self._step(below, above), self._step(above, below))
        return [(min(max(lowest + step, 0), len(self._x) - 1), 0) for step in steps if step]

    def _step(self, gap: int, opposite: int) -> int:
        """To the next rate on a side where the neighbour is a gap away (0: there is none)."""
        if not gap:
            return 2 * max(opposite, self._half)
        return max(self._octave, -(-gap // 2)) if gap > self._octave else 0

    def _around(self) -> list[At]:
        """All seeds at the lowest and an octave to each side; then closer; then farther."""
        octave, half, lowest = self._octave, self._half, self._lowest()
        for steps in ((0, octave, -octave), (half, -half), (octave + half, -octave - half)):
            open_ = [(lowest + step, seed) for seed in range(self._seeds) for step in steps
                     if 0 <= lowest + step < len(self._x) and (lowest + step, seed) not in self._known]
            if open_:
                return open_
        return []

    def _affordable(self, wanted: Iterable[At]) -> list[At]:
        """Those that are new, as far as the budget goes."""
        new = [place for place in dict.fromkeys(wanted) if place not in self._known]
        return new[:max(0, self._budget - len(self._known))]

    def _table(self) -> np.ndarray:
        """[rates, seeds], log losses; nan where one is unknown."""
        table = np.full((len(self._x), self._seeds), np.nan)
        for place, loss in self._known.items():
            table[place] = loss
        return table

    def _lowest(self) -> int:
        """The rate of the lowest mean, as if all rates had all seeds."""
        return int(levelled(self._table()).argmin())            # where all diverged: the lowest rate
