"""Evaluates traced programs with NumPy: on a few numbers that is faster than compiling them."""
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from haiku_mup.parameters.jaxprs import ClosedJaxpr, is_literal
from haiku_mup.parameters.traced_numbers import traced_value

Function: TypeAlias = Callable[..., list[Any]]      # from arrays to arrays


def numpy_function(program: Any, traced: float | None = None) -> Function:
    """Returns a program that `jax.make_jaxpr` traced as a function of its flat arguments, NumPy arrays.

    An operation that NumPy has no counterpart of is left to JAX, which compiles that operation alone.

    Args:
      program: the program.
      traced: takes the place of values that the program closes over, and that are being traced elsewhere.

    Raises:
      jax.errors.TracerArrayConversionError: the program closes over such a value, and nothing takes its place.

    >>> program = jax.make_jaxpr(lambda x: jnp.where(x > 1, x, -x) @ x)(jnp.ones(2))
    >>> numpy_function(program)(np.array([1, 3], "float32"))
    [array(8., dtype=float32)]
    """
    function = _function(program.jaxpr, [_known(x, traced) for x in program.consts])

    def evaluate(*arguments: Any) -> list[Any]:
        with np.errstate(all="ignore"), jax.ensure_compile_time_eval():
            return function(*arguments)

    return evaluate


def _closed(program: Any) -> Function:
    """Returns a program as a function, with or without constants of its own."""
    if isinstance(program, ClosedJaxpr):
        return _function(program.jaxpr, [_concrete(x) for x in program.consts])
    return _function(program, ())


def _known(x: Any, traced: float | None) -> Any:
    """Returns a constant of a program, or what takes the place of one that is traced."""
    if not isinstance(x, jax.core.Tracer):
        return _concrete(x)
    found = traced_value(x)
    if found is None and traced is not None and not _is_key(x):
        return np.full(x.shape, traced, x.dtype)
    return _concrete(x if found is None else found)


def _concrete(x: Any) -> Any:
    """Returns an array of JAX's as one of NumPy's; random keys, which NumPy doesn't know, as they are."""
    return x if _is_key(x) else np.asarray(x)


def _is_key(x: Any) -> bool:
    return bool(jnp.issubdtype(x.dtype, jax.dtypes.extended))


def _function(jaxpr: Any, consts: Sequence[Any]) -> Function:
    """Returns a program's operations as a function that runs one after another; looks them all up once."""
    counter = itertools.count()
    places: dict[Any, int] = {v: next(counter) for v in (*jaxpr.constvars, *jaxpr.invars)}
    literals: dict[int, Any] = {}

    def place(v: Any) -> int:
        """Returns where a value is in the list of all values."""
        if is_literal(v):
            aval: Any = v.aval
            literals[i := next(counter)] = np.asarray(v.val, aval.dtype)
            return i
        return places.setdefault(v, next(counter))

    steps = [(_operation(equation), [place(v) for v in equation.invars], [place(v) for v in equation.outvars])
             for equation in jaxpr.eqns]
    results = [place(v) for v in jaxpr.outvars]
    size = next(counter)

    def run(*arguments: Any) -> list[Any]:
        values: list[Any] = [*consts, *arguments, *[None] * (size - len(consts) - len(arguments))]
        for i, value in literals.items():
            values[i] = value
        for operation, inputs, outputs in steps:
            for i, value in zip(outputs, operation(*[values[i] for i in inputs])):
                values[i] = value
        return [values[i] for i in results]

    return run


def _operation(equation: Any) -> Function:
    """Returns one operation as a function."""
    name, params, arrays = equation.primitive.name, equation.params, [v.aval for v in equation.invars]
    if name == "cond":
        branches = [_closed(branch) for branch in params["branches"]]
        return lambda i, *values: branches[int(np.clip(int(i), 0, len(branches) - 1))](*values)
    if name in _CALLS:
        return _closed(params[_CALLS[name]])
    if any(map(_is_key, arrays)) or name in _FLOATS and any(x.dtype.kind in "iu" for x in arrays):
        return _by_jax(equation)
    if name in _WITH_PARAMS and not (name == "dot_general" and any(x.dtype.kind == "V" for x in arrays)):
        return _typed(equation, functools.partial(_WITH_PARAMS[name], params))
    function = _ANY_TYPE.get(name) or _FLOATS.get(name)
    return _by_jax(equation) if function is None else _typed(equation, function)


def _typed(equation: Any, function: Callable[..., Any]) -> Function:
    """Returns a function of NumPy's as an operation, whose result has the type of JAX's."""
    dtype = equation.outvars[0].aval.dtype
    return lambda *values: [np.asarray(function(*values), dtype)]


def _by_jax(equation: Any) -> Function:
    """Returns an operation as JAX computes it."""
    def bind(*values: Any) -> list[Any]:
        out = equation.primitive.bind(*values, **equation.params)
        return [_concrete(x) for x in (out if equation.primitive.multiple_results else [out])]

    return bind


# --- JAX's primitives in NumPy ---

_CALLS = {      # primitives that call a program once, and the parameter that has it
    "jit": "jaxpr", "pjit": "jaxpr", "checkpoint": "jaxpr", "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr", "custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr"}

_ANY_TYPE: dict[str, Callable[..., Any]] = {
    "add": np.add, "add_any": np.add, "sub": np.subtract, "mul": np.multiply, "neg": np.negative,
    "abs": np.abs, "sign": np.sign, "max": np.maximum, "min": np.minimum, "square": np.square,
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater,
    "ge": np.greater_equal, "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor,
    "not": np.invert, "is_finite": np.isfinite, "copy": np.copy, "copy_p": np.copy,
    "clamp": lambda low, x, high: np.minimum(np.maximum(x, low), high),
    "rem": np.fmod, "pow": lambda x, y: np.power(x, y.astype(x.dtype)),     # of a float, to a whole number, too
}

# Whole numbers divide in ways of their own: JAX sees to these.
_FLOATS: dict[str, Callable[..., Any]] = {
    "div": np.divide, "sqrt": np.sqrt, "rsqrt": lambda x: 1 / np.sqrt(x), "exp": np.exp,
    "exp2": np.exp2, "log": np.log, "log1p": np.log1p, "expm1": np.expm1, "tanh": np.tanh, "sin": np.sin,
    "cos": np.cos, "floor": np.floor, "ceil": np.ceil, "cbrt": np.cbrt,
    "logistic": lambda x: 1 / (1 + np.exp(-x)),
}


def _broadcast(params: Any, x: Any) -> Any:
    """Broadcasts x, whose axes become the given ones."""
    shape = [1] * len(params["shape"])
    for axis, n in zip(params["broadcast_dimensions"], x.shape):
        shape[axis] = n
    return np.broadcast_to(x.reshape(shape), params["shape"])


def _dot_general(params: Any, x: Any, y: Any) -> Any:
    """Multiplies two arrays, and sums: axes of one number are one axis."""
    (sums_x, sums_y), (batch_x, batch_y) = params["dimension_numbers"]
    axes_x, axes_y = list(range(x.ndim)), list(range(x.ndim, x.ndim + y.ndim))
    for a, b in zip((*sums_x, *batch_x), (*sums_y, *batch_y)):
        axes_y[b] = axes_x[a]
    rest = [a for a in (*axes_x, *axes_y) if a not in (*sums_x, *batch_x)]
    return np.einsum(x, axes_x, y, axes_y, [*batch_x, *rest])


def _select(params: Any, which: Any, *cases: Any) -> Any:
    """Chooses between arrays, entry by entry."""
    del params
    if which.dtype == bool:
        return np.where(which, cases[-1], cases[0])
    return np.choose(which, cases)


_WITH_PARAMS: dict[str, Callable[..., Any]] = {
    "broadcast_in_dim": _broadcast, "dot_general": _dot_general, "select_n": _select,
    "convert_element_type": lambda params, x: x.astype(params["new_dtype"]),
    "reshape": lambda params, x: x.reshape(params["new_sizes"]),
    "squeeze": lambda params, x: np.squeeze(x, tuple(params["dimensions"])),
    "expand_dims": lambda params, x: np.expand_dims(x, tuple(params["dimensions"])),
    "transpose": lambda params, x: x.transpose(params["permutation"]),
    "concatenate": lambda params, *arrays: np.concatenate(arrays, params["dimension"]),
    "slice": lambda params, x: x[tuple(map(slice, params["start_indices"], params["limit_indices"],
                                           params["strides"] or [1] * x.ndim))],
    "integer_pow": lambda params, x: x ** params["y"] if params["y"] >= 0 else 1 / x ** -params["y"],
    "reduce_sum": lambda params, x: x.sum(tuple(params["axes"]), dtype=x.dtype),
    "reduce_prod": lambda params, x: x.prod(tuple(params["axes"]), dtype=x.dtype),
    "reduce_max": lambda params, x: x.max(tuple(params["axes"])),
    "reduce_min": lambda params, x: x.min(tuple(params["axes"])),
    "reduce_and": lambda params, x: x.all(tuple(params["axes"])),
    "reduce_or": lambda params, x: x.any(tuple(params["axes"])),
}
