"""Reads programs that JAX has traced: those inside, and those that only move entries."""
from collections.abc import Iterable
from typing import Any


def jaxpr_of(program: Any) -> Any:
    """Returns a program without its constants."""
    return getattr(program, "jaxpr", program)


def inner_program(equation: Any) -> Any:
    """Returns the program that an equation calls with its own operands; None where it calls none."""
    found: Any = next((jaxpr_of(equation.params[key]) for key in ("jaxpr", "call_jaxpr", "fun_jaxpr")
                  if key in equation.params), None)
    return found if hasattr(found, "eqns") and len(found.invars) == len(equation.invars) else None


# --- programs that only move entries ---

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
    return all(not hasattr(v, "val") and v in entries for v in jaxpr.outvars)


def _entries(jaxpr: Any, arguments: Iterable[Any]) -> set[Any]:
    """Returns the variables of a program whose entries are all those of some arguments."""
    known = set(arguments)
    for equation in jaxpr.eqns:
        name, inner = equation.primitive.name, inner_program(equation)
        indices = 1 if name in ("dynamic_slice", "gather") else 2 if name == "dynamic_update_slice" else None
        are_entries = [not hasattr(v, "val") and v in known for v in equation.invars]
        if name in _MOVES and all(are_entries[:indices]):
            known.update(equation.outvars)
        elif inner is not None and name != "while":
            inside = _entries(inner, [v for v, entry in zip(inner.invars, are_entries) if entry])
            known.update(out for v, out in zip(inner.outvars, equation.outvars)
                         if not hasattr(v, "val") and v in inside)
    return known
