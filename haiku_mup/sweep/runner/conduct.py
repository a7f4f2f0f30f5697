"""The conduct of a sweep: hands jobs to workers, keeps what comes back, tries again what fails."""
import collections
import concurrent.futures
import dataclasses
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, Future
from typing import Any

from haiku_mup.sweep.runner import jobs
from haiku_mup.sweep.runner.courses import Cell, Course
from haiku_mup.sweep.runner.ledger import Nothing, Portions
from haiku_mup.sweep.runner.pools import Pool

TRIES = 3               # of a job, before it is given up
SOON = 0.2              # s
DEATHS = 10             # of workers, with no result between, after which it isn't the cells that they die of
WHATEVER = "workers die, whatever they do"


@dataclasses.dataclass
class Job:
    """What a worker is to do: to run cells of a program; or, where there are none, to prepare it.

    Attributes:
      packed: whether the work goes along, for a worker that said that it lacks it.
      tries: how often it failed.
      suspect: whether a worker died while it and others ran: the next time it runs alone.
    """

    course: Course
    cells: list[Cell]
    packed: bool = False
    tries: int = 0
    suspect: bool = False


class Conductor:
    """Runs jobs of courses on a pool, until nothing is left to do.

    Args:
      name: of the work, by which workers know it.
      pack: gives the work as bytes.
      ledger: keeps what comes back.
      chunk: how many trials run beside one another; None for what the workers say.
      tell: called with a course and the number of its trials that have come to an end.
      pause: called every now and then; it may raise.
    """

    def __init__(self, name: str, pack: Callable[[], bytes], ledger: Nothing, chunk: int | None,
                 tell: Callable[[Course, int], None], pause: Callable[[], None]):
        self._name, self._pack, self._ledger, self._chunk = name, pack, ledger, chunk
        self._tell, self._pause = tell, pause
        self._again: collections.deque[Job] = collections.deque()
        self._running: dict[Future[Any], Job] = {}
        self._deaths = 0                        # of workers, since something came back
        self._end = ""                          # why nothing will any more

    def prepare(self, pool: Pool, courses: Sequence[Course]) -> None:
        """Has every program traced."""
        self._again.extend(Job(course, []) for course in courses)
        self._drive(pool, [])

    def run(self, pool: Pool, courses: Sequence[Course]) -> None:
        """Has all cells run, those of the largest programs first."""
        there = [course for course in courses if course.prepared]
        self._drive(pool, sorted(there, key=lambda c: -c.prepared.facts.carry if c.prepared else 0))

    def abandon(self) -> None:
        """Takes back what no worker has begun."""
        for future in self._running:
            self._pool.take_back(future)

    def _drive(self, pool: Pool, courses: Sequence[Course]) -> None:
        self._pool = pool
        while self._fill(pool, courses):
            self._pause()
            done, _ = concurrent.futures.wait(self._running, SOON, concurrent.futures.FIRST_COMPLETED)
            broken = []
            for future in [future for future in self._running if future in done]:       # in their order
                job = self._running.pop(future)
                if isinstance(_error(future), BrokenExecutor):
                    broken.append(job)
                else:
                    self._finish(job, future)
            if broken:
                self._mend(pool, broken)
            self._end = pool.lost() or (WHATEVER if self._deaths >= DEATHS else "")
            while self._end and self._running:
                self._lose(self._running.popitem()[1], self._end)

    def _fill(self, pool: Pool, courses: Sequence[Course]) -> bool:
        """Hands jobs in, as many as the pool wants; whether any run now."""
        while len(self._running) < pool.width and not any(job.suspect for job in self._running.values()):
            if self._running and self._again and self._again[0].suspect:
                break
            open_ = [course for course in courses if not course.waits(pool.pilots)]
            job = self._again.popleft() if self._again else self._next(open_)
            if job is None:
                break
            if self._end:
                self._lose(job, self._end)
                continue
            try:
                self._running[self._submitted(pool, job)] = job
            except (BrokenExecutor, RuntimeError) as error:     # it is shut down, or all its workers died
                self._lose(job, f"{type(error).__name__}: {error}")
        return bool(self._running)

    def _next(self, courses: Sequence[Course]) -> Job | None:
        """Cells of the first course that has some which nobody has done yet."""
        before = -1
        while before < (over := sum(course.over for course in courses)):    # the end of one lets another begin
            before = over
            for course in courses:
                while cells := list(course.take(last=self._ledger.joined)):
                    if todo := self._undone(course, cells):
                        return Job(course, todo)
        return None

    def _undone(self, course: Course, cells: Sequence[Cell]) -> list[Cell]:
        """Those that the ledger hasn't; it has the losses of the others."""
        there = {cell: self._ledger.found(cell) for cell in cells}
        for cell, losses in there.items():
            if losses is not None:
                self._tell(course, len(cell))
                course.finish(cell, losses)
        return [cell for cell, losses in there.items() if losses is None]

    def _submitted(self, pool: Pool, job: Job) -> "Future[Any]":
        order = jobs.Order(self._name, self._pack() if job.packed else None)
        course = job.course
        if course.prepared is None or course.portions is None:
            return pool.submit(jobs.prepare, order, *course.at)
        fingerprint, chunk = course.prepared.facts.fingerprint, course.portions.chunk
        return pool.submit(jobs.run, order, *course.at, fingerprint, chunk, job.cells)

    # --- what comes back ---

    def _finish(self, job: Job, future: "Future[Any]") -> None:
        self._deaths, error = 0, _error(future)
        result = jobs.Failed(f"{type(error).__name__}: {error}", "") if error else future.result()
        if isinstance(result, jobs.Lacks):
            self._again.appendleft(dataclasses.replace(job, packed=True))
        elif isinstance(result, jobs.Failed):
            self._retry(job, result)
        elif isinstance(result, jobs.Prepared):
            self._begin(job.course, result)
        else:
            job.course.timed(result.seconds / len(job.cells))
            for cell, losses in zip(job.cells, result.cells):
                self._ledger.keep(cell, losses)
                self._tell(job.course, len(cell))
                job.course.finish(cell, losses)

    def _begin(self, course: Course, prepared: jobs.Prepared) -> None:
        for category, text in prepared.warned:
            warnings.warn(text, category, stacklevel=2)
        chunk = self._chunk or prepared.chunk
        course.start(prepared, self._ledger.agreed(
            *course.at, prepared.facts, Portions(chunk, chunk * prepared.devices)))

    def _retry(self, job: Job, failed: jobs.Failed, suspect: bool = False) -> None:
        """Runs it again, each cell by itself; or gives it up, where that makes no sense."""
        again = dataclasses.replace(job, tries=job.tries + 1, suspect=suspect)
        if failed.final or again.tries >= TRIES:
            self._lose(job, failed.reason)
        else:
            self._again.extend([dataclasses.replace(again, cells=[cell]) for cell in job.cells] or [again])

    def _lose(self, job: Job, reason: str) -> None:
        if job.course.prepared is None:
            self._tell(job.course, len(job.course.fail(reason)))
        for cell in job.cells:
            self._tell(job.course, len(cell))
            job.course.give_up(cell, reason)

    def _mend(self, pool: Pool, broken: Sequence[Job]) -> None:
        """A worker died: of the one job that ran, or of one of several, which then run one by one."""
        suspects = [*broken, *self._running.values()]
        self._running.clear()
        self._deaths += 1
        pool.mend()
        if len(suspects) == 1:
            self._retry(suspects[0], jobs.Failed("a worker died while it ran", ""), suspect=True)
        else:
            self._again.extendleft(
                dataclasses.replace(job, tries=job.tries + 1, suspect=True) for job in suspects)


def _error(future: "Future[Any]") -> BaseException | None:
    return concurrent.futures.CancelledError() if future.cancelled() else future.exception()
