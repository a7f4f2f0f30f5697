"""Which program's trials run next."""
import collections
import types
from concurrent.futures import Future

import pytest

from haiku_mup.sweep.program import ProgramInfo
from haiku_mup.sweep.runner.dispatcher import Dispatcher, Task
from haiku_mup.sweep.runner.tasks import TracedProgram

A, B, C = ("sp", 8), ("mup", 8), ("mup", 4)


def next_program(waiting, running, threads=(1, 1, 1), compiled=(A, B, C), equal=False):
    """Returns the program of the next task.

    Args:
      waiting: the programs with waiting cells.
      running: the program of each running task.
      threads: how many the workers of A, B and C need; they have one.
      compiled: the programs with a finished cell.
      equal: whether A and B compute the same.
    """
    dispatcher = Dispatcher(
        runner=None, chunk=None, folder=None, raise_if_interrupted=lambda: None,
        schedule=types.SimpleNamespace(
            waiting={key: collections.deque([()] * (key in waiting)) for key in (A, B, C)}),
        executor=types.SimpleNamespace(threads=1, shares_compiled=True))
    for key, name, number in zip((A, B, C), "aac" if equal else "abc", threads):
        dispatcher._traced[key] = TracedProgram(ProgramInfo(name, 1, "cpu"), 1, 1, [])
        dispatcher._threads[key] = number
    dispatcher._compiled |= set(compiled)
    dispatcher._running = {Future(): Task(program, ()) for program in running}
    return dispatcher._next_program()


@pytest.mark.parametrize("case, expected", [
    (dict(waiting=[A, B, C], running=[]), A),                           # the order of the schedule
    (dict(waiting=[A, B, C], running=[A]), B),                          # each worker keeps to its program
    (dict(waiting=[A, B, C], running=[B]), A),
    (dict(waiting=[A], running=[A]), A),                                # rather than no work
    (dict(waiting=[A, C], running=[A, B]), C),
    (dict(waiting=[A], running=[A], compiled=[]), None),                # one worker compiles it for both
    (dict(waiting=[A, B, C], running=[A], equal=True), C),              # B's losses will be those of A
    (dict(waiting=[A, B], running=[A], threads=(1, 2, 1)), A),          # B needs other workers
    (dict(waiting=[B], running=[A], threads=(1, 2, 1)), None)])         # and waits for A's to end
def test_the_next_program(case, expected):
    assert next_program(**case) == expected
