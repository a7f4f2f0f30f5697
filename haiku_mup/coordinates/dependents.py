"""Tells which arrays of a program that JAX traces are computed from some weights, as it is traced."""
from collections.abc import Iterable
from typing import Any

from haiku_mup.parameters.jaxprs import called_program, is_literal, without_constants
from haiku_mup.tracing.jax_internals import live_program

_LOOKUPS = {"gather", "dynamic_slice"}
_REARRANGED = {"slice", "transpose", "reshape", "squeeze", "broadcast_in_dim", "convert_element_type", "copy"}


class Dependents:
    """The arrays that are computed from sources, in the program that JAX traces now.

    An equation whose operands depend on a source makes results that do, whatever is inside of it: a loop, a
    jitted function.

    Args:
      sources: arrays, such as weights.
      tables: whether these are tables, and rows that are looked up in them don't count.

    >>> def f(table, x, w):
    ...     behind, logits = Dependents([w]), Dependents([table], tables=True)
    ...     print(behind.has(x + 1), behind.has(x * w), behind.has(jnp.sin(x * w)))
    ...     rows = table[jnp.array([1, 0, 1])]
    ...     print(logits.has(jnp.sin(rows)), logits.has(rows @ table.T))
    >>> _ = jax.make_jaxpr(f)(jnp.ones((2, 2)), 1.0, 2.0)
    False True True
    False True
    """

    def __init__(self, sources: Iterable[Any], *, tables: bool = False):
        programs = [live_program(x) for x in sources]
        self._known = all(programs)         # JAX shows the program, and each source is in it
        self._program = next((program.equations_of for program in programs if program), None)
        variables = {program.variable for program in programs if program}
        self._tables, self._found = (variables, set()) if tables else (set[Any](), variables)
        self._read = 0                      # equations

    def has(self, x: Any) -> bool:
        """Returns whether an array is computed from a source; True where that is unknown."""
        program = live_program(x)
        if not self._known or program is None or program.equations_of is not self._program:
            return True
        equations = program.equations()[self._read:]
        _follow(equations, self._tables, self._found)
        self._read += len(equations)
        return program.variable in self._found


def _follow(equations: Iterable[Any], tables: set[Any], found: set[Any]) -> None:
    """Adds what equations compute from tables, other than rows that they look up, and from what is found."""
    for equation in equations:
        operands = {v for v in equation.invars if not is_literal(v)}
        name = equation.primitive.name
        if operands & found:
            found.update(equation.outvars)
        elif name in _LOOKUPS or not operands & tables:
            continue
        elif name in _REARRANGED or name == "mul" and _by_a_number(equation, tables):
            tables.update(equation.outvars)
        elif (program := called_program(equation)) is not None:
            inner = without_constants(program)
            inside = {local for local, v in zip(inner.invars, equation.invars)
                      if not is_literal(v) and v in tables}
            computed = set[Any]()
            _follow(inner.eqns, inside, computed)
            for v, local in zip(equation.outvars, inner.outvars):
                if not is_literal(local):
                    tables.update([v] * (local in inside))
                    found.update([v] * (local in computed))
        else:
            found.update(equation.outvars)


def _by_a_number(product: Any, tables: set[Any]) -> bool:
    """Returns whether a product is one of tables and numbers alone."""
    return all(is_literal(v) or v in tables or not v.aval.shape for v in product.invars)
