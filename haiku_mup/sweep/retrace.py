"""Traces a function twice, to find draws that it makes outside of JAX: with NumPy, or from an iterator.

A trial is traced once, so such a draw is a constant of the trial, the same at every step. Another trace has
another constant.
"""
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from haiku_mup.parameters.jaxprs import is_literal
from haiku_mup.tracing.user_context import trace_number

_numbers = itertools.count(1)
_NUMBERS = (bool, int, float, complex, np.ndarray, np.generic)


def output_shapes(function: Callable[..., Any], *args: Any) -> tuple[Any, bool]:
    """Returns the shapes of what a function returns, and whether it returns the same in each trace.

    Args:
      function: a function that JAX can trace.
      *args: its arguments, of which only shapes and dtypes count.

    >>> output_shapes(lambda key: jax.random.normal(key, (2,)), jax.random.key(0))[1]
    True
    >>> rng = np.random.default_rng(0)
    >>> output_shapes(lambda key: jnp.asarray(rng.normal(size=2)), jax.random.key(0))[1]
    False
    """
    first, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
    with trace_number(next(_numbers)):
        second = jax.make_jaxpr(lambda *args: function(*args))(*args)
    pairs = itertools.zip_longest(_constants(first), _constants(second))
    return shapes, all(_equal(a, b) for a, b in pairs)


def _constants(program: Any) -> Iterator[Any]:
    """Yields the arrays that a closed jaxpr closes over, and the constants inside it."""
    yield from program.consts
    yield from _inner_constants(program.jaxpr)


def _inner_constants(jaxpr: Any) -> Iterator[Any]:
    """Yields the primitives of a jaxpr, its literals, and numbers such as the start of a slice."""
    for eqn in jaxpr.eqns:
        yield eqn.primitive.name
        yield from (v.val for v in eqn.invars if is_literal(v))
        for value in eqn.params.values():
            yield from _in_parameter(value)
    yield from (v.val for v in jaxpr.outvars if is_literal(v))


def _in_parameter(value: Any) -> Iterator[Any]:
    """Yields the constants in a parameter of an equation."""
    if isinstance(value, (tuple, list)):
        for item in value:
            yield from _in_parameter(item)
    elif hasattr(value, "consts"):      # a ClosedJaxpr, which has "eqns", too
        yield from _constants(value)
    elif hasattr(value, "eqns"):        # a Jaxpr
        yield from _inner_constants(value)
    elif isinstance(value, _NUMBERS):
        yield value


def _equal(a: Any, b: Any) -> bool:
    """Returns whether two constants are equal, bit for bit."""
    if a is b:
        return True
    if a is None or b is None or isinstance(a, str) or isinstance(b, str):
        return bool(isinstance(a, str) and isinstance(b, str) and a == b)
    x, y = _as_numpy(a), _as_numpy(b)
    return x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes()


def _as_numpy(x: Any) -> np.ndarray:
    """Returns an array, or the numbers of a random key."""
    is_key = hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(x) if is_key else x)
