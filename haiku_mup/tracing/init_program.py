"""Finds how the init that runs uses parameters: in the program that JAX is tracing, or in a second trace."""
from collections.abc import Mapping, Set
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp

from haiku_mup.parameters.axis_uses import Use, find_uses
from haiku_mup.parameters.jaxprs import is_literal, programs_inside
from haiku_mup.tracing.haiku_internals import RunningInit, running_init
from haiku_mup.tracing.jax_internals import live_program

_PLAIN = frozenset((         # have no program inside
    "add", "broadcast_in_dim", "convert_element_type", "div", "dot_general", "exp", "mul", "reduce_sum",
    "reshape", "rsqrt", "select_n", "slice", "sub", "transpose"))


def traced_uses(arrays: Mapping[str, tuple[Any, int]],
                weights: Set[str] = frozenset()) -> dict[str, frozenset[Use]] | None:
    """Returns the uses of parameters in the program that JAX traces as an init runs.

    Args:
      arrays: {name: (the parameter as the tree has it, the number of axes in one layer)}.
      weights: the names of those that layers use in a known way. They are followed only if something else may
        read them, too, since that takes time.

    Returns:
      {name: uses}, without those of parameters that are not traced; None if none of them is.
    """
    programs = {id(program.equations_of): program for array, _ in arrays.values()
                if (program := live_program(array)) is not None}
    found: dict[str, frozenset[Use]] | None = {} if programs else None
    for program in programs.values():
        variables: dict[Any, tuple[str, int]] = {}
        for name, (array, rank) in arrays.items():
            traced = live_program(array)
            if traced is not None and traced.equations_of is program.equations_of:
                variables[traced.variable] = (name, rank)
        equations = program.equations()
        again = _read_again(equations) if weights else frozenset()
        variables = {v: named for v, named in variables.items() if named[0] not in weights or v in again}
        if not variables:
            continue
        made = {v for v, (name, _) in variables.items() if name not in weights}
        data = _data(equations, program.inputs(), made)
        found = (found or {}) | _named(find_uses(equations, variables, data))
    return found


def retraced_uses(shapes: Mapping[str, tuple[str, tuple[int, ...], Any]]) -> dict[str, frozenset[Use]]:
    """Returns the uses of parameters in the innermost init that runs, by tracing its function once more.

    Nothing is drawn, and nothing is computed. A function that can't run twice tells nothing.

    Args:
      shapes: {name: (the name that layers know, the shape, the dtype)}; no parameters of layer_stacks.
    """
    init = running_init()
    if init is None or not shapes:
        return {}
    names = list(shapes)
    structs = [jax.ShapeDtypeStruct(shape, dtype) for _, shape, dtype in shapes.values()]
    try:
        program = jax.make_jaxpr(lambda *values: _run(init, dict(zip(shapes.values(), values))))(*structs)
    except Exception:       # of the user's function, at a second run, or of what it does to tracers
        return {}
    jaxpr = program.jaxpr
    variables = {v: (name, len(shapes[name][1])) for name, v in zip(names, jaxpr.invars)}
    return _named(find_uses(jaxpr.eqns, variables, jaxpr.constvars))


def _run(init: RunningInit, values: Mapping[Any, Any]) -> Any:
    """Runs an init's function with some parameters given, and all others empty."""
    by_place = {(local, shape): value for (local, shape, _), value in values.items()}

    def creator(next_creator, shape, dtype, initializer, context):
        """Returns a parameter without drawing it."""
        found = by_place.get((context.full_name, tuple(map(int, context.original_shape))))
        return jnp.zeros(shape, dtype) if found is None else found

    def function(*args, **kwargs):
        with hk.custom_creator(creator):
            return init.function(*args, **kwargs)

    return hk.transform_with_state(function).init(jax.random.PRNGKey(0), *init.args, **init.kwargs)


def _read_again(equations: Any) -> Set[Any]:
    """Returns the variables that several equations read, one of which may be that of a program inside."""
    once: set[Any] = set()
    more: set[Any] = set()
    for equation in equations:
        inner = next(programs_inside(equation), None) if equation.primitive.name not in _PLAIN else None
        for v in equation.invars:
            if is_literal(v):
                continue
            (more if inner is not None or v in once else once).add(v)
        if inner is not None:
            once.update(equation.outvars)       # as of remat, where a layer is made and read
    return more


def _data(equations: Any, inputs: list[Any], parameters: Set[Any]) -> list[Any]:
    """Returns a program's inputs other than those that parameters are made from, and other than keys."""
    makes = set(parameters)
    for equation in reversed(equations):
        if any(v in makes for v in equation.outvars):
            makes.update(v for v in equation.invars if not is_literal(v))
    return [v for v in inputs if v not in makes and not _is_key(v.aval)]


def _is_key(aval: Any) -> bool:
    """Returns whether an array is a random key, or may be a raw one."""
    return jnp.issubdtype(aval.dtype, jax.dtypes.prng_key) or (
        aval.dtype == jnp.uint32 and aval.shape in ((2,), (4,)))


def _named(found: Mapping[Any, set[Use]]) -> dict[str, frozenset[Use]]:
    return {str(name): frozenset(each) for name, each in found.items()}
