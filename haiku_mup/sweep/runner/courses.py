"""The course of one program in a sweep: rounds of trials that a search asks for, cut into cells."""
import collections
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any

from haiku_mup.sweep.program import TrialLosses
from haiku_mup.sweep.runner import jobs
from haiku_mup.sweep.runner.ledger import Portions
from haiku_mup.sweep.trial import Missing, Trial, split_into_cells

JOB = 0.5               # s that a job should take at least: small cells go several at a time,
MOST = 32               # at most so many
Cell = tuple[Trial, ...]
Search = Generator[list[Trial], Mapping[Trial, TrialLosses], Any]


def grid(trials: Sequence[Trial], before: None = None) -> Search:
    """All trials, in one round.

    >>> next(grid("ab"))
    ['a', 'b']
    """
    yield list(trials)


class Course:
    """One program, a parametrization at a width, and how far its trials have come.

    Args:
      at: the parametrization and the width.
      search: makes a generator, which yields the trials of a round, and is sent their losses, those that have
        any. It is given what the one before returned; None where none did.
      after: the course that ends before this one begins.

    Attributes:
      prepared: what a worker said of the program.
      portions: in which its trials run.
      losses: of each trial that has finished.
      missing: the trials that were given up.
      over: whether nothing is left to do: the search has ended, or there is no program.
    """

    def __init__(self, at: tuple[str, int], search: Callable[[Any], Search], after: "Course | None" = None):
        self.at, self.after = at, after
        self.prepared: jobs.Prepared | None = None
        self.portions: Portions | None = None
        self.losses: dict[Trial, TrialLosses] = {}
        self.missing: list[Missing] = []
        self._make, self._open = search, 0
        self._search: Search | None = None
        self.over, self._answer = False, None
        self._round: dict[Trial, TrialLosses] = {}
        self._asked: list[Trial] = []
        self._ready: collections.deque[Cell] = collections.deque()
        self._seconds, self._out = 0.0, 0   # that a cell takes; how many are out

    def start(self, prepared: jobs.Prepared, portions: Portions) -> None:
        """Has its program: it may begin."""
        self.prepared, self.portions = prepared, portions

    def fail(self, reason: str) -> list[Trial]:
        """Gives up: there is no program. The trials of a first round are missing."""
        lost = next(self._make(None), [])
        self.missing += [Missing(trial, reason) for trial in lost]
        self.over = True
        return lost

    def take(self, last: bool) -> Iterator[Cell]:
        """The next cells to run: as many as make a job. From the end of a round, where `last` is true."""
        if self._search is None and not self.over and (self.after is None or self.after.over):
            self._search = self._make(self.after and self.after._answer)
            self._next(None)
        for _ in range(max(1, min(MOST, int(JOB / self._seconds))) if self._seconds else 1):
            if self._ready:
                self._out += 1
                yield self._ready.pop() if last else self._ready.popleft()

    def waits(self, pilots: bool) -> bool:
        """Whether its next cell should wait for the first to come back."""
        return pilots and self._out > 0 and not self._seconds

    def timed(self, seconds: float) -> None:
        """Learns how long a cell takes."""
        self._seconds = seconds

    def finish(self, cell: Cell, losses: Sequence[TrialLosses]) -> None:
        """A cell has its losses."""
        found = dict(zip(cell, losses))
        self.losses.update(found)
        self._round.update(found)
        self._close()

    def give_up(self, cell: Cell, reason: str) -> None:
        """A cell will have none."""
        self.missing += [Missing(trial, reason) for trial in cell]
        self._close()

    def in_order(self) -> list[tuple[Trial, TrialLosses]]:
        """The trials that have finished, in the order in which the search asked for them."""
        return [(trial, self.losses[trial]) for trial in self._asked if trial in self.losses]

    def _close(self) -> None:
        self._open, self._out = self._open - 1, self._out - 1
        if not self._open:
            self._next(self._round)

    def _next(self, found: Mapping[Trial, TrialLosses] | None) -> None:
        assert self.portions is not None and self._search is not None
        try:
            trials = next(self._search) if found is None else self._search.send(found)
        except StopIteration as end:
            self.over, self._answer = True, end.value
            return
        self._asked.extend(trials)
        self._ready.extend(split_into_cells(trials, self.portions.cell))
        self._round, self._open = {}, len(self._ready)
