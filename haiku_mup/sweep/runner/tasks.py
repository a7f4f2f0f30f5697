"""The tasks of workers: to trace a program, and to run a cell of its trials."""
import contextlib
import dataclasses
import os
import pickle
import threading
import traceback
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from haiku_mup.errors import MupError, MupWarning
from haiku_mup.sweep.program import Program, ProgramInfo, TrialLosses
from haiku_mup.sweep.trial import Trial

# The settings of JAX that change numbers, or decide whether a program can be traced at all.
SETTINGS = ("enable_x64", "default_matmul_precision", "default_prng_impl", "threefry_partitionable",
            "numpy_dtype_promotion", "numpy_rank_promotion")
_known: Any = weakref.WeakValueDictionary()         # this process's TrialRunners, by the id of their sweep
_received: list["TrialRunner"] = []                 # keeps the one alive that came last from another process


class TracedProgram(NamedTuple):
    """Describes a program that a worker has traced."""

    info: ProgramInfo
    chunk: int                                          # trials side by side on a device
    cell: int                                           # trials side by side on all devices
    warnings: Sequence[tuple[type[Warning], str]]       # what tracing warned of


class Failure(NamedTuple):
    """Describes an error in one line; a final one would come again."""

    reason: str
    is_final: bool = False


@dataclasses.dataclass(eq=False)
class TrialRunner:
    """Makes a sweep's programs, each once in a process, and runs their trials. Its pickle has no programs."""

    make_trials: Mapping[str, Callable[[int], Callable[..., Any]]]      # by parametrization
    hyperparameters: Sequence[str]                                      # their names, "lr" first
    settings: Mapping[str, Any] = dataclasses.field(
        default_factory=lambda: {name: getattr(jax.config, f"jax_{name}") for name in SETTINGS})
    sweep_id: str = dataclasses.field(default_factory=lambda: os.urandom(8).hex())

    def __post_init__(self) -> None:
        self._programs: dict[tuple[str, int], Program] = {}
        self._device_arrays: dict[int, tuple[Any, Any]] = {}            # shared by the programs
        self._lock = threading.Lock()                                   # executors may run tasks in threads
        _known[self.sweep_id] = self

    def __reduce__(self) -> tuple[Any, ...]:
        return TrialRunner, (self.make_trials, self.hyperparameters, self.settings, self.sweep_id)

    def trace(self, parametrization: str, width: int, chunk: int | None) -> TracedProgram:
        """Traces a program, which chooses the size of the chunk if that is None."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            program = self._program(parametrization, width)
        given = [(w.category, w.message.args[0]) for w in caught if isinstance(w.message, UserWarning)]
        chunk = chunk or program.auto_chunk()
        return TracedProgram(program.info, chunk, chunk * jax.local_device_count(), given)

    def run_cell(self, parametrization: str, width: int, fingerprint: str, chunk: int,
                 cell: Sequence[Trial]) -> Sequence[TrialLosses] | Failure:
        """Returns the losses of a cell's trials."""
        program = self._program(parametrization, width)
        if program.info.fingerprint != fingerprint:
            return Failure("MupError: this worker's program is another than the first worker's: has it other "
                           "versions of jax, haiku_mup or your own code, or is make_trial random?", True)
        return program.run(cell, chunk)

    def _program(self, parametrization: str, width: int) -> Program:
        with self._lock:
            if (parametrization, width) not in self._programs:
                self._programs[parametrization, width] = Program(
                    self.make_trials[parametrization](width), self.hyperparameters, self._device_arrays)
            return self._programs[parametrization, width]


RUNNER_MISSING = Failure("this worker has not been sent the sweep's TrialRunner")


def run_task(sweep_id: str, attempt: int, pickled: bytes | None, method: str, *args: Any) -> Any:
    """Calls a method of a sweep's `TrialRunner` in the sweep's settings of JAX.

    Returns RUNNER_MISSING if the runner has to be sent along, pickled; and a `Failure` for an error, since
    executors may break at exceptions. A new `attempt` makes another call: distributed runs equal ones once.
    """
    try:
        runner = _known.get(sweep_id)
        if runner is None:
            if pickled is None:
                return RUNNER_MISSING
            _received[:] = [runner := pickle.loads(pickled)]
        with contextlib.ExitStack() as stack:
            for name, value in runner.settings.items():
                stack.enter_context(getattr(jax, name)(value))
            return getattr(runner, method)(*args)
    except BaseException as error:
        # The last line of the user's own code says more than the library's where the error was raised.
        frames = [frame for frame in traceback.extract_tb(error.__traceback__)
                  if not any(part in frame.filename for part in ("site-packages", "haiku_mup", "<"))]
        where = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
        return Failure(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}{where}",
                       isinstance(error, (MupError, MupWarning)))
