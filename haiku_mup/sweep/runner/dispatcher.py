"""The dispatcher of a sweep: submits tasks, keeps their results, and tries again what failed."""
import collections
import dataclasses
import functools
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Future, wait
from typing import Any

from haiku_mup.sweep.runner import pickling, tasks
from haiku_mup.sweep.runner.executors import SweepExecutor
from haiku_mup.sweep.runner.folder import SweepFolder
from haiku_mup.sweep.runner.schedule import Cell, ProgramKey, Schedule

MAX_TRIES, POLL_SECONDS = 3, 0.2


@dataclasses.dataclass(frozen=True)
class Task:
    """The tracing of a program, or the run of a cell."""

    program: ProgramKey
    cell: Cell | None = None
    tries: int = 0              # how often it has failed
    alone: bool = False         # whether no other task may run meanwhile, to see if it kills its worker


@dataclasses.dataclass(kw_only=True)
class Dispatcher:
    """Runs the tasks of a sweep on an executor."""

    runner: tasks.TrialRunner
    schedule: Schedule
    executor: SweepExecutor
    folder: SweepFolder | None
    chunk: int | None                           # trials side by side on a device; None: programs choose
    raise_if_interrupted: Callable[[], None]    # called several times a second
    show: Callable[[str], None] = lambda text: None     # called with what the workers do, where that changes

    def __post_init__(self) -> None:
        self._pickled_runner = functools.cache(functools.partial(pickling.dumps, self.runner))
        self._traced: dict[ProgramKey, tasks.TracedProgram] = {}
        self._threads: dict[ProgramKey, int] = {}      # per worker
        self._failed: dict[ProgramKey, str] = {}       # why programs could not be traced
        self._compiled: set[ProgramKey] = set()        # programs with a finished cell
        self._finished: dict[Any, Any] = {}             # losses by what a cell computes
        self._pending: collections.deque[Task] = collections.deque()
        self._running: dict[Future[Any], Task] = {}
        self._show_new = functools.lru_cache(maxsize=1)(self.show)      # texts that differ from the last one

    def run(self, programs: Sequence[ProgramKey]) -> None:
        """Traces the programs, runs the cells that the schedule has waiting, and closes the executor."""
        try:
            self._pending.extend(map(Task, programs))
            self._run_tasks()
            # Threads should change seldom. Small trials go first, to show a curve soon; then the largest, so
            # that no worker idles for long at the end.
            small = min((traced.info.carry for traced in self._traced.values()), default=0)
            order = sorted(self._traced, key=lambda key: (
                self._threads[key], (carry := self._traced[key].info.carry) > small, -carry))
            self.schedule.start({key: self._traced[key].cell for key in order}, self._failed)
            self._run_tasks()
        except BaseException:
            self._stop()
            raise
        self.executor.close(at_once=False)

    def _run_tasks(self) -> None:
        """Runs tasks until there are none."""
        while True:
            while len(self._running) < self.executor.capacity and (task := self._next_task()):
                self._submit(task)
            if not self._running:
                return
            self.raise_if_interrupted()
            self._show_work()
            wait(self._running, POLL_SECONDS, FIRST_COMPLETED)
            died = []
            for future in [f for f in self._running if f.done()]:       # `wait` ignores some that are cancelled
                task = self._running.pop(future)
                error = CancelledError() if future.cancelled() else future.exception()
                if isinstance(error, BrokenExecutor):
                    died.append(task)
                elif error:
                    self._retry(task, f"{type(error).__name__}: {error}")
                else:
                    self._receive(task, future.result())
            if died:
                died += self._running.values()
                self._stop()
                for task in died:
                    self._retry(task, "a worker died while it ran", alone=True)
            while self._running and (reason := self.executor.lost()):
                self._give_up(self._running.popitem()[1], reason)

    def _show_work(self) -> None:
        """Shows what the workers do: they trace models, compile a program, or run trials of some width."""
        programs = [task.program for task in self._running.values()]
        new = [program for program in programs if program not in self._compiled]
        work = "tracing" if new and new[0] not in self._traced else "compiling" if new else "training"
        self._show_new("{} {}, width {}".format(work, *(new or programs)[0]))

    def _stop(self) -> None:
        """Ends the workers, and cancels what those of the caller have not begun."""
        self.executor.close(at_once=True)       # first, since loky logs an error at cancelled tasks
        for future in self._running:
            future.cancel()
        self._running.clear()

    def _submit(self, task: Task, pickled: bytes | None = None) -> None:
        traced = self._traced.get(task.program)
        call = (pickled, "trace", *task.program, self.chunk) if traced is None else (
            pickled, "run_cell", *task.program, traced.info.fingerprint, traced.chunk, task.cell)
        try:
            self._running[self.executor.submit(tasks.run_task, self.runner.sweep_id, task.tries, *call)] = task
        except Exception as error:              # the executor was shut down, or broke
            self._give_up(task, f"{type(error).__name__}: {error}")

    def _next_task(self) -> Task | None:
        if any(task.alone for task in self._running.values()):
            return None
        if self._pending:
            return None if self._pending[0].alone and self._running else self._pending.popleft()
        while (program := self._next_program()) is not None:
            cells = self.schedule.waiting[program]
            cell = cells.pop() if self.folder and self.folder.is_shared else cells.popleft()
            if losses := self.folder and self.folder.load_cell(cell):
                self.schedule.end(cell, losses)
            elif losses := self._finished.get(self._computation(program, cell)):
                self._receive(Task(program, cell), losses)
            else:
                return Task(program, cell)
        return None

    def _computation(self, program: ProgramKey, cell: Cell) -> tuple[Any, ...]:
        """Returns what a cell computes: at base width, the same in μP as in the standard parametrization."""
        return *self._traced[program][:2], *((trial.point, trial.seed) for trial in cell)

    def _next_program(self) -> ProgramKey | None:
        """Returns a program with waiting cells, if workers have or can now get its number of threads.

        One that no worker runs comes first, so that workers keep to programs that they have traced and loaded.
        A program waits while its first cell compiles it for all workers, and while an equal one runs for both.
        """
        running = {task.program for task in self._running.values()}
        compiling = running - self._compiled if self.executor.shares_compiled else set()
        for program in sorted(self.schedule.waiting, key=lambda key: (
                self._threads[key] != self.executor.threads, key in running)):
            info = self._traced[program].info
            others = (self._traced[key].info for key in running - {program})
            if self.schedule.waiting[program] and info not in others and program not in compiling:
                if self._threads[program] != self.executor.threads and not self._running:
                    self.executor.set_threads(self._threads[program])
                return program if self._threads[program] == self.executor.threads else None
        return None

    def _receive(self, task: Task, result: Any) -> None:
        """Keeps the result of a task, or tries it again."""
        if result == tasks.RUNNER_MISSING:
            self._submit(task, self._pickled_runner())
        elif isinstance(result, tasks.Failure):
            self._give_up(task, result.reason) if result.is_final else self._retry(task, result.reason)
        elif task.cell is None:
            for category, text in result.warnings:
                warnings.warn(text, category, stacklevel=2)
            self._traced[task.program] = self.folder.register(*task.program, result) if self.folder else result
            self._threads[task.program] = self.executor.threads_for(result.info.carry)
        else:
            self._compiled.add(task.program)
            self._finished[self._computation(task.program, task.cell)] = result
            if self.folder:
                self.folder.save_cell(task.cell, result)
            self.schedule.end(task.cell, result)

    def _retry(self, task: Task, reason: str, alone: bool = False) -> None:
        """Tries a task again; gives it up after MAX_TRIES, or after one more if it has never run alone."""
        if task.tries + 1 < MAX_TRIES or alone > task.alone:
            self._pending.append(dataclasses.replace(task, tries=task.tries + 1, alone=alone))
        else:
            self._give_up(task, reason)

    def _give_up(self, task: Task, reason: str) -> None:
        if task.cell is None:
            self._failed[task.program] = reason
        else:
            self.schedule.end(task.cell, [reason] * len(task.cell))
