"""Tells programs that only move entries, such as stacks of draws, which keep their std."""
from collections.abc import Iterable
from typing import Any

from haiku_mup.parameters.jaxprs import called_program, is_literal, without_constants

_MOVES = frozenset(("broadcast_in_dim", "concatenate", "convert_element_type", "copy", "dynamic_slice",
                    "dynamic_update_slice", "expand_dims", "gather", "reshape", "rev", "sharding_constraint",
                    "slice", "squeeze", "stack", "transpose"))


def is_arrangement(jaxpr: Any) -> bool:
    """Returns whether each entry of a program's results is an entry of its arguments.

    >>> stacked = jax.make_jaxpr(lambda x: jnp.stack([x, x]))(jnp.ones(3))
    >>> is_arrangement(stacked.jaxpr), is_arrangement(jax.make_jaxpr(jnp.sin)(1.0).jaxpr)
    (True, False)
    """
    entries = _entries(jaxpr, jaxpr.invars)
    return all(not is_literal(v) and v in entries for v in jaxpr.outvars)


def _entries(jaxpr: Any, arguments: Iterable[Any]) -> set[Any]:
    """Returns the variables of a program whose entries are all those of some arguments."""
    known = set(arguments)
    for equation in jaxpr.eqns:
        name, inner = equation.primitive.name, without_constants(called_program(equation))
        indices = 1 if name in ("dynamic_slice", "gather") else 2 if name == "dynamic_update_slice" else None
        are_entries = [not is_literal(v) and v in known for v in equation.invars]
        if name in _MOVES and all(are_entries[:indices]):
            known.update(equation.outvars)
        elif inner is not None and name != "while":
            inside = _entries(inner, [v for v, entry in zip(inner.invars, are_entries) if entry])
            known.update(out for v, out in zip(inner.outvars, equation.outvars)
                         if not is_literal(v) and v in inside)
    return known
