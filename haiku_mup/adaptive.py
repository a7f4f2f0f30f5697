"""search="adaptive": where a curve is lowest, from a third of the trials that its grid has, or fewer."""
import math
from collections.abc import Generator, Iterable, Mapping, Sequence

import numpy as np

from haiku_mup.sweep import FLOOR, levelled
from haiku_mup.swept import final
from haiku_mup.trials import Trial

SHARE = 3           # of the grid's trials at most this part
SCOUTS = 4          # rates that are tried first, spread over all of them
Found = Mapping[Trial, Mapping[str, np.ndarray]]
At = tuple[int, int]        # a rate and a seed, by their places
Search = Generator[list[Trial], Found, None]


def adaptive(trials: Sequence[Trial]) -> Search:
    """Searches each curve of a grid: all rates and seeds at one setting of the other hyperparameters.

    Args:
      trials: the grid.

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
    groups: dict[object, list[Trial]] = {}
    for trial in trials:
        groups.setdefault(trial.point[1:], []).append(trial)
    yield from _together([_curve(some) for some in groups.values()])


def _together(searches: Iterable[Search]) -> Search:
    """Their rounds, side by side."""
    open_ = [(search, next(search, [])) for search in searches]
    while any(trials for _, trials in open_):
        found = yield [trial for _, trials in open_ for trial in trials]
        open_ = [(search, _sent(search, {t: found[t] for t in trials if t in found}) if trials else [])
                 for search, trials in open_]


def _sent(search: Search, found: Found) -> list[Trial]:
    try:
        return search.send(found)
    except StopIteration:
        return []


def _curve(trials: Sequence[Trial]) -> Search:
    """The search of one curve, by the place of its rates and seeds in their order."""
    lrs, seeds = sorted({t.point[0][1] for t in trials}), list(dict.fromkeys(t.seed for t in trials))
    at = {(lrs.index(t.point[0][1]), seeds.index(t.seed)): t for t in trials}
    state = _Curve(np.log2(lrs), len(seeds), max(len(at) // SHARE, min(3, len(at))))
    for wanted in state.rounds():
        found = yield [at[place] for place in wanted]
        state.learn({place: _log(found.get(at[place])) for place in wanted})


def _log(losses: Mapping[str, np.ndarray] | None) -> float:
    """The logarithm of the first loss; inf where there is none."""
    return math.inf if losses is None else math.log(max(final(next(iter(losses.values()))), FLOOR))


class _Curve:
    """What is known of a curve.

    Args:
      x: [rates], log2, ascending.
      seeds: how many there are.
      budget: trials that may be run.
    """

    def __init__(self, x: np.ndarray, seeds: int, budget: int):
        self._rates, self._seeds, self._budget = len(x), seeds, budget
        self._octave = max(1, round(1 / float(np.median(np.diff(x))))) if len(x) > 1 else 1     # steps in one
        self._known: dict[At, float] = {}

    def learn(self, found: Mapping[At, float]) -> None:
        self._known.update(found)

    def rounds(self) -> Iterable[list[At]]:
        """First with one seed, coarse and then finer around the lowest; then with all seeds around it."""
        stride = max(1, round(self._rates / SCOUTS))
        yield from self._affordable([(rate, 0) for rate in range((stride - 1) // 2, self._rates, stride)])
        while stride > self._octave:
            stride = max(self._octave, -(-stride // 2))
            yield from self._affordable([(rate, 0) for rate in self._around(stride)])
        before = -1
        while len(self._known) > before:
            before = len(self._known)
            yield from self._affordable(self._next())

    def _next(self) -> list[At]:
        """All seeds at the lowest and an octave to each side; then closer; then farther."""
        octave, half = self._octave, max(1, self._octave // 2)
        for some in ([0, octave, -octave], [half], [-half], [octave + half], [-octave - half]):
            rates = [self._lowest() + step for step in some]
            open_ = [(rate, seed) for seed in range(self._seeds) for rate in rates
                     if 0 <= rate < self._rates and (rate, seed) not in self._known]
            if open_:
                return open_
        return []

    def _around(self, stride: int) -> list[int]:
        return [rate for rate in (self._lowest() - stride, self._lowest() + stride) if 0 <= rate < self._rates]

    def _affordable(self, wanted: Sequence[At]) -> Iterable[list[At]]:
        """Those that are new, as far as the budget goes."""
        new = [place for place in wanted if place not in self._known][:max(0, self._budget - len(self._known))]
        if new:
            yield new

    def _lowest(self) -> int:
        """The rate of the lowest mean, as if all rates had all seeds."""
        table = np.full((self._rates, self._seeds), np.nan)
        for place, loss in self._known.items():
            table[place] = loss
        return int(levelled(table).argmin())            # where all diverged: the lowest rate
