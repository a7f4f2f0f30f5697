"""The schedule of a sweep: the trials that searches ask for, round by round, in cells of one program."""
import collections
import itertools
from collections.abc import Callable, Mapping, Sequence

from haiku_mup.sweep.program import TrialLosses
from haiku_mup.sweep.search import Search
from haiku_mup.sweep.trial import Missing, Trial, split_into_cells

ProgramKey = tuple[str, int]           # of a program: parametrization and width
Cell = tuple[Trial, ...]        # trials of one program that run, and are saved, together


class Schedule:
    """Cuts each round of a search into cells; sends it the round's losses when all of these have ended.

    Args:
      searches: they run side by side.
      advance: called with a parametrization, a width, and how many of their trials have ended.
    """

    def __init__(self, searches: Sequence[Search], advance: Callable[[str, int, int], None]):
        self.waiting: dict[ProgramKey, collections.deque[Cell]] = {}   # cells that nobody has begun
        self._rounds: dict[Search, list[Sequence[Trial]]] = {search: [] for search in searches}
        self._advance = advance
        self._searches: dict[Cell, Search] = {}                 # of the cells that have not ended
        self._ended: dict[Trial, TrialLosses | str] = {}        # losses, or why there are none

    def start(self, cell_sizes: Mapping[ProgramKey, int], failed: Mapping[ProgramKey, str]) -> None:
        """Asks every search for its first round. Every program has a cell size, or a reason why it failed."""
        self._cell_sizes, self._failed = cell_sizes, failed
        self.waiting = {key: collections.deque() for key in cell_sizes}
        for search in self._rounds:
            self._next_round(search, None)

    def end(self, cell: Cell, outcomes: Sequence[TrialLosses | str]) -> None:
        """Records the losses of a cell's trials, or the reasons why there are none."""
        self._ended.update(zip(cell, outcomes))
        self._advance(cell[0].parametrization, cell[0].width, len(cell))
        search = self._searches.pop(cell)
        if search not in self._searches.values():
            self._next_round(search, {trial: outcome for trial in self._rounds[search][-1]
                                      if not isinstance(outcome := self._ended[trial], str)})

    def results(self) -> tuple[dict[Trial, TrialLosses], list[Missing]]:
        """Returns the losses of finished trials, and what is missing, each in the order of the searches."""
        trials = [trial for rounds in self._rounds.values() for trials in rounds for trial in trials]
        ended = {trial: self._ended[trial] for trial in trials if trial in self._ended}
        return ({trial: x for trial, x in ended.items() if not isinstance(x, str)},
                [Missing(trial, x) for trial, x in ended.items() if isinstance(x, str)])

    def _next_round(self, search: Search, losses: Mapping[Trial, TrialLosses] | None) -> None:
        try:
            self._rounds[search].append(next(search) if losses is None else search.send(losses))
        except StopIteration:
            return
        failed: list[Cell] = []
        for key, trials in itertools.groupby(self._rounds[search][-1], key=lambda trial: trial[:2]):
            cells = split_into_cells(list(trials), self._cell_sizes.get(key, 1))
            self._searches.update(dict.fromkeys(cells, search))
            (failed if key in self._failed else self.waiting[key]).extend(cells)
        for cell in failed:
            self.end(cell, [self._failed[cell[0][:2]]])
