"""What a worker does: it makes programs of what it was sent, and runs cells of trials. No error escapes."""
import contextlib
import pickle
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from haiku_mup.errors import MupError, MupWarning
from haiku_mup.sweep.program import Program, ProgramInfo, TrialLosses
from haiku_mup.sweep.runner import packing
from haiku_mup.sweep.trial import Trial

# What changes numbers, or whether a program can be traced at all; a worker takes it over.
SETTINGS = ("enable_x64", "default_matmul_precision", "default_prng_impl", "threefry_partitionable",
            "numpy_dtype_promotion", "numpy_rank_promotion")
_making = threading.Lock()              # where jobs run in threads
_known: dict[str, "Work"] = {}          # what this process was sent


class Work(NamedTuple):
    """What makes trials, and the programs that were made.

    Attributes:
      makers: {parametrization: make_trial}.
      names: of the hyperparameters.
      settings: JAX's, where the sweep was called.
      programs: those of this process.
      shelf: what they have put on its devices.
    """

    makers: Mapping[str, Callable[[int], Callable[..., Any]]]
    names: Sequence[str]
    settings: Mapping[str, Any]
    programs: dict[tuple[str, int], Program]
    shelf: dict[int, tuple[Any, Any]]


class Order(NamedTuple):
    """What a worker needs to know of a sweep.

    Attributes:
      name: of the work; a process keeps it under that.
      packed: the work, pickled; None where it should be there already.
    """

    name: str
    packed: bytes | None = None


class Prepared(NamedTuple):
    """Facts of a program, how many trials to run beside one another, and what was warned of in the making."""

    facts: ProgramInfo
    chunk: int
    devices: int
    warned: Sequence[tuple[type[Warning], str]]


class Done(NamedTuple):
    """The losses of each cell's trials, and how long all of them took."""

    cells: list[list[TrialLosses]]
    seconds: float


class Lacks(NamedTuple):
    """The worker has not been sent the work."""


class Failed(NamedTuple):
    """What went wrong: in a line, and all of it; and whether it would again."""

    reason: str
    details: str
    final: bool = False


def settings() -> dict[str, Any]:
    """JAX's settings in this thread.

    >>> settings()["enable_x64"]
    False
    """
    return {name: getattr(jax.config, f"jax_{name}") for name in SETTINGS}


def pack(work: Work) -> bytes:
    """The work as bytes, for another process.

    Raises:
      MupError: functions that can't be pickled.
    """
    return packing.pack(work._replace(programs={}, shelf={}))


def keep(name: str, work: Work) -> None:
    """Has this process know the work, without pickling."""
    _known[name] = work


def forget(name: str) -> None:
    """The opposite."""
    _known.pop(name, None)


def prepare(order: Order, parametrization: str, width: int) -> Prepared | Lacks | Failed:
    """Traces the program of one parametrization at one width."""
    def do(work: Work) -> Prepared:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            program = _program(work, parametrization, width)
        warned = [(w.category, str(w.message)) for w in caught
                  if isinstance(w.category, type) and issubclass(w.category, UserWarning)]
        return Prepared(program.info, program.auto_chunk(), jax.local_device_count(), warned)

    found: Prepared | Lacks | Failed = _safely(order, do)
    return found


def run(order: Order, parametrization: str, width: int, fingerprint: str, chunk: int,
        cells: Sequence[Sequence[Trial]]) -> Done | Lacks | Failed:
    """Runs cells of one program, one after the other."""
    def do(work: Work) -> Done | Failed:
        start = time.perf_counter()
        program = _program(work, parametrization, width)
        if program.info.fingerprint != fingerprint:
            return Failed("MupError: this worker's program is another than the first worker's: has it other "
                          "versions of jax, haiku_mup or your own code, or is make_trial random?", "", True)
        return Done([program.run(cell, chunk) for cell in cells], time.perf_counter() - start)

    found: Done | Lacks | Failed = _safely(order, do)
    return found


def _program(work: Work, parametrization: str, width: int) -> Program:
    at = parametrization, width
    with _making:
        if at not in work.programs:
            work.programs[at] = Program(work.makers[parametrization](width), work.names, work.shelf)
    return work.programs[at]


def _safely(order: Order, do: Callable[[Work], Any]) -> Any:
    """do(work) in the sweep's settings; an error comes back as a value, which every executor can carry."""
    try:
        if order.name not in _known:
            if order.packed is None:
                return Lacks()
            _known.clear()                              # another sweep's, with its data
            _known[order.name] = pickle.loads(order.packed)
        work = _known[order.name]
        with _set(work.settings):
            return do(work)
    except Exception as error:
        return Failed(_line(error), traceback.format_exc(), isinstance(error, (MupError, MupWarning)))


def _line(error: BaseException) -> str:
    """The error in a line, and where in whose code it came from."""
    frames = [f for f in traceback.extract_tb(error.__traceback__)
              if not any(part in f.filename for part in ("site-packages", "haiku_mup", "<"))]
    where = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}{where}"


@contextlib.contextmanager
def _set(values: Mapping[str, Any]) -> Iterator[None]:
    """JAX's settings, in this thread, for a while."""
    with contextlib.ExitStack() as stack:
        for name, value in values.items():
            stack.enter_context(getattr(jax, name)(value))
        yield
