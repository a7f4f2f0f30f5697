"""Reads jaxprs, the programs that JAX traces: what the walks over them share."""
import math
from collections.abc import Iterator
from typing import Any

import jax.extend.core
from jax.extend.core import Literal

# Since JAX 0.11 it is another name of Jaxpr, which type checkers aren't told of.
ClosedJaxpr: Any = vars(jax.extend.core)["ClosedJaxpr"]


def is_literal(operand: Any) -> bool:
    """Returns whether an operand of an equation is a number in the program, and no variable.

    >>> equation, = jax.make_jaxpr(lambda x: 2.0 * x)(1.0).eqns
    >>> [is_literal(operand) for operand in equation.invars]
    [True, False]
    """
    return isinstance(operand, Literal)


def without_constants(program: Any) -> Any:
    """Returns the jaxpr of a closed jaxpr, and a jaxpr as it is."""
    return program.jaxpr if isinstance(program, ClosedJaxpr) else program


def called_program(equation: Any) -> Any:
    """Returns the program that an equation calls once with its own operands, as jit does, or None.

    >>> equation, = jax.make_jaxpr(jax.jit(jnp.sin))(1.0).eqns
    >>> [inner.primitive.name for inner in called_program(equation).eqns]
    ['sin']
    """
    program = next((equation.params[key] for key in ("jaxpr", "call_jaxpr", "fun_jaxpr")
                    if key in equation.params), None)
    jaxpr = without_constants(program)
    return program if hasattr(jaxpr, "eqns") and len(jaxpr.invars) == len(equation.invars) else None


def scan_operands(equation: Any) -> tuple[int, int]:
    """Returns how many operands of a scan are constants of its body, and how many are carried; others are rows.

    JAX has these numbers as parameters up to version 0.10, and three trees of operands since 0.11.

    >>> equation = jax.make_jaxpr(lambda w, x: jax.lax.scan(lambda c, y: (w * c + y, c), 1.0, x))(
    ...     2.0, jnp.ones(3)).eqns[-1]
    >>> scan_operands(equation)
    (1, 1)
    """
    if "num_consts" in equation.params:
        return equation.params["num_consts"], equation.params["num_carry"]
    constants, carried, _ = (len(list(part)) for part in equation.params["ft_in"].unpack())
    return constants, carried


def programs_inside(equation: Any) -> Iterator[Any]:
    """Yields all jaxprs among an equation's parameters: bodies of loops, branches, jitted functions."""
    for value in equation.params.values():
        for program in value if isinstance(value, (tuple, list)) else [value]:
            jaxpr = without_constants(program)
            if hasattr(jaxpr, "eqns"):
                yield jaxpr


def program_size(jaxpr: Any) -> tuple[int, int]:
    """Returns (equations, entries): what is to be compiled, and what is to be computed one by one.

    Entries are those of all results but those of matrix products and convolutions, which libraries compute.

    >>> program_size(jax.make_jaxpr(lambda x: jnp.sin(x @ x) + 1)(jnp.ones((10, 10))).jaxpr)
    (3, 200)
    """
    equations, entries = len(jaxpr.eqns), 0
    for equation in jaxpr.eqns:
        inside = [program_size(program) for program in programs_inside(equation)]
        equations += sum(n for n, _ in inside)
        if inside:
            entries += equation.params.get("length", 1) * sum(n for _, n in inside)      # a scan's steps
        elif equation.primitive.name not in ("dot_general", "conv_general_dilated"):
            entries += sum(math.prod(getattr(out.aval, "shape", ())) for out in equation.outvars)
    return equations, entries
