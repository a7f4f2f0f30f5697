"""Reads the size of a loop's state, and the primitives in use, off a traced program."""
import math
from typing import Any

from haiku_mup.parameters.jaxprs import programs_inside


def carry_bytes(jaxpr: Any) -> int:
    """Returns the bytes of the largest loop state: what a scan or a while loop carries from step to step.

    >>> def f(x):
    ...     return jax.lax.scan(lambda carry, _: (2 * carry, carry.sum()), x, None, length=3)
    >>> carry_bytes(jax.make_jaxpr(f)(jnp.ones(5)).jaxpr)
    20
    """
    return max((max(_loop_bytes(eqn), *map(carry_bytes, programs_inside(eqn)), 0) for eqn in jaxpr.eqns),
               default=0)


def contains(jaxpr: Any, primitive: str) -> bool:
    """Returns whether a program, or any program inside it, applies a primitive.

    >>> contains(jax.make_jaxpr(jax.jit(jnp.sin))(1.0).jaxpr, "sin")
    True
    """
    return any(eqn.primitive.name == primitive
               or any(contains(inner, primitive) for inner in programs_inside(eqn)) for eqn in jaxpr.eqns)


def _loop_bytes(eqn: Any) -> int:
    """Returns the bytes of an equation's state if it is a loop, else 0."""
    if eqn.primitive.name == "scan":
        # A scan returns its carry and stacked results. A stacked result has one axis more outside than in
        # the body; a carry has the same shape in both.
        body = next(programs_inside(eqn))
        state = [outer for outer, inner in zip(eqn.outvars, body.outvars)
                 if outer.aval.ndim == inner.aval.ndim]
    elif eqn.primitive.name == "while":
        state = eqn.outvars
    else:
        state = []
    # Extended dtypes, such as random keys, have no itemsize.
    return sum(math.prod(v.aval.shape) * getattr(v.aval.dtype, "itemsize", 4) for v in state)
