"""Reads what JAX has no public name for: arguments of functions that run, and the program that it traces."""
import concurrent.futures
import functools
import os
import sys
import types
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax

# --- functions that run ---

_JAX = os.path.dirname(str(jax.__file__)) + os.sep


def arguments_of_jax() -> Iterator[jax.Array]:
    """Yields the concrete arrays that the functions of JAX around this line were given, as jit is."""
    for frame in _frames_of_jax():
        for value in tuple(frame.f_locals.values()):
            if isinstance(value, (tuple, list, dict)):
                yield from (x for x in _leaves(value)
                            if isinstance(x, jax.Array) and not isinstance(x, jax.core.Tracer))


def _leaves(tree: Any) -> list[Any]:
    """Returns a tree's leaves; none where keys have no order, as in dicts of JAX's own, which are no arguments.

    >>> _leaves({"a": 1, "b": (2, 3)}), _leaves({"a": 1, 2: 3})
    ([1, 2, 3], [])
    """
    try:
        return jax.tree.leaves(tree)
    except ValueError:      # in JAX 0.8 a dict has our contexts for keys
        return []


def is_abstract() -> bool:
    """Returns whether jax.eval_shape or jax.make_jaxpr runs, so that nothing is drawn or computed."""
    names = ("eval_shape", "make_jaxpr", "make_jaxpr_f")
    return any(frame.f_code.co_name in names for frame in _frames_of_jax())


def _frames_of_jax() -> Iterator[types.FrameType]:
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_filename.startswith(_JAX):
            yield frame
        frame = frame.f_back


# --- the program that is being traced ---

class LiveProgram(NamedTuple):
    """The program that JAX is tracing.

    Attributes:
      variable: the variable of the array that was asked for.
      equations_of: JAX's record of the program, which knows its equations so far.
    """

    variable: Any
    equations_of: Any

    def equations(self) -> list[Any]:
        """Returns its equations so far."""
        return list(self.equations_of.get_eqns())

    def inputs(self) -> list[Any]:
        """Returns the variables of its arguments and of arrays from outside."""
        return [*self.equations_of.invars, *self.equations_of.constvar_to_val]


def live_program(array: Any) -> LiveProgram | None:
    """Returns the program in which an array is traced; None for any other array.

    JAX has no public way to see a program before it is complete, and an init is judged before it returns.
    Where a version of JAX keeps the program elsewhere, this returns None.
    """
    frame, variable = getattr(getattr(array, "_trace", None), "frame", None), getattr(array, "val", None)
    known = variable is not None and all(hasattr(frame, x) for x in ("get_eqns", "invars", "constvar_to_val"))
    return LiveProgram(variable, frame) if known and not hasattr(variable, "val") else None


# --- the trace that is going on ---

def trace_state() -> Any:
    """Returns a value that is equal within one trace of JAX, and differs from that of any other."""
    import jax.extend.core  # slow to import

    name = "get_opaque_trace_state"                     # in jax.core before JAX 0.10
    find = getattr(jax.extend.core, name, None) or getattr(jax.core, name)
    return find(convention="haiku_mup")


@functools.cache
def no_trace_state() -> Any:
    """Returns what `trace_state` does outside of all traces, wherever it is asked: a new thread is in none."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(trace_state).result()


def trace_of(x: Any) -> Any:
    """Returns the trace that an array belongs to; None for an array that has values, and belongs to none.

    Under vmap, what doesn't depend on the mapped inputs belongs to the trace around.
    """
    return getattr(x, "_trace", None)
