"""The course of one program in a sweep: rounds of trials that a search asks for, cut into cells."""
import collections
from collections.abc import Generator, Iterator, Mapping, Sequence

from haiku_mup import jobs
from haiku_mup.programs import Losses
from haiku_mup.swept import Missing
from haiku_mup.trials import Trial, blocks

JOB = 0.5               # s that a job should take at least: small cells go several at a time,
MOST = 32               # at most so many
Cell = tuple[Trial, ...]
Search = Generator[list[Trial], Mapping[Trial, Losses], None]


def grid(trials: Sequence[Trial]) -> Search:
    """All trials, in one round.

    >>> next(grid("ab"))
    ['a', 'b']
    """
    yield list(trials)


class Course:
    """One program, a parametrization at a width, and how far its trials have come.

    Args:
      at: the parametrization and the width.
      search: yields the trials of a round, and is sent their losses, those that have any.

    Attributes:
      prepared: what a worker said of the program.
      chunk: how many trials run beside one another on a device.
      losses: of each trial that has finished.
      missing: the trials that were given up.
    """

    def __init__(self, at: tuple[str, int], search: Search):
        self.at = at
        self.prepared: jobs.Prepared | None = None
        self.chunk = 0
        self.losses: dict[Trial, Losses] = {}
        self.missing: list[Missing] = []
        self._search, self._round, self._open = search, {}, 0
        self._asked: list[Trial] = []
        self._ready: collections.deque[Cell] = collections.deque()
        self._seconds, self._out = 0.0, 0   # that a cell takes; how many were taken

    def start(self, prepared: jobs.Prepared, chunk: int) -> None:
        """Begins the first round."""
        self.prepared, self.chunk = prepared, chunk
        self._next(None)

    def fail(self, reason: str) -> list[Trial]:
        """Gives up: there is no program. The trials of the first round are missing."""
        lost = next(self._search, [])
        self.missing += [Missing(trial, reason) for trial in lost]
        return lost

    def take(self, last: bool) -> Iterator[Cell]:
        """The next cells to run: as many as make a job. From the end of a round, where `last` is true."""
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

    def finish(self, cell: Cell, losses: Sequence[Losses]) -> None:
        """A cell has its losses."""
        found = dict(zip(cell, losses))
        self.losses.update(found)
        self._round.update(found)
        self._close()

    def give_up(self, cell: Cell, reason: str) -> None:
        """A cell will have none."""
        self.missing += [Missing(trial, reason) for trial in cell]
        self._close()

    def in_order(self) -> list[tuple[Trial, Losses]]:
        """The trials that have finished, in the order in which the search asked for them."""
        return [(trial, self.losses[trial]) for trial in self._asked if trial in self.losses]

    def _close(self) -> None:
        self._open -= 1
        if not self._open:
            self._next(self._round)

    def _next(self, found: Mapping[Trial, Losses] | None) -> None:
        try:
            trials = next(self._search) if found is None else self._search.send(found)
        except StopIteration:
            return
        assert self.prepared is not None
        self._asked.extend(trials)
        self._ready.extend(blocks(trials, self.chunk * self.prepared.devices))
        self._round, self._open = {}, len(self._ready)
