"""Rules of single operations: the scale of a result, from the scales of the operands.

Each rule takes the state of the walk, the equation at the base and at the target, and the operands' values. It
reads sizes of axes off the equations' shapes, and exponents off their parameters.
"""
import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from haiku_mup.coordinates.factor_scales import Action, Equation, Value, WalkState, number


def _same(walk: WalkState, base: Equation, target: Equation, values: list[Value]) -> Value:
    """Returns the scale of the first operand, which the operation moves, reshapes or selects from."""
    return values[0]


def _plain(walk: WalkState, base: Equation, target: Equation, values: list[Value]) -> Value:
    """Returns scale 1: signs, comparisons and positions do not depend on the operands' scales."""
    return Value()


def opaque(walk: WalkState, base: Equation, target: Equation, values: list[Value]) -> Value:
    """Reports the operands' scales: the operation, such as tanh, does not commute with them."""
    known = [v.constant for v in values]
    function = _FUNCTIONS.get(target.primitive.name)
    if function and all(known):
        return _computed(function, values)
    walk.leave(values)
    return Value()


def _computed(function: Any, values: Sequence[Value]) -> Value:
    """Computes a number from numbers."""
    with np.errstate(all="ignore"):
        return number(*(float(function(*(getattr(v.constant, side) for v in values)))
                         for side in ("base", "target")))


def _negated(walk: WalkState, base: Equation, target: Equation, values: list[Value]) -> Value:
    """Returns the operand's scale; of a known number, the number with the other sign."""
    return _computed(np.negative, values) if values[0].constant else values[0]


def multiplied(walk: WalkState, base: Equation, target: Equation, values: list[Value]) -> Value:
    """Returns the product of the scales."""
    return _product(walk, values, Action.MULTIPLIED, 1)


def divided(walk: WalkState, base: Equation, target: Equation, values: list[Value]) -> Value:
    """Returns the quotient of the scales."""
    return _product(walk, values, Action.DIVIDED, -1)


def _product(walk: WalkState, values: list[Value], action: Action, sign: int) -> Value:
    a, b = values
    if a.constant and b.constant:
        return _computed(_FUNCTIONS["mul" if sign > 0 else "div"], values)
    a, b = walk.marked(a, Action.MULTIPLIED), walk.marked(b, action)
    weighted = sign > 0 and (a.is_weight and a.wide) != (b.is_weight and b.wide) and (a.inputs or b.inputs)
    return Value(a.log_scale + sign * b.log_scale, (*a.operations, *b.operations), weighted=weighted)


def _power(walk: WalkState, base: Equation, target: Equation, values: list[Value]) -> Value:
    """Returns a power of the scale, for roots, squares and exponents that are numbers."""
    name, params = target.primitive.name, target.params
    power = {"sqrt": 0.5, "rsqrt": -0.5, "cbrt": 1 / 3, "square": 2.0, "integer_pow": params.get("y")}.get(name)
    if power is None and values[1].constant and not values[1].scaled:
        power = values[1].constant.target
    if power is None:
        return opaque(walk, base, target, values)
    if values[0].constant:
        return _computed(lambda x, *_: float(x)**power if x > 0 or float(power).is_integer() and x else 0.0,
                         values)
    return Value(values[0].log_scale * power, values[0].operations)


def _add(walk: WalkState, base: Equation, target: Equation, values: list[Value]) -> Value:
    """Returns the common scale of what is added, joined or compared entry by entry."""
    if all(v.constant for v in values) and target.primitive.name in _FUNCTIONS:
        return _computed(_FUNCTIONS[target.primitive.name], values)
    return walk.agreed(values)


def _select(walk: WalkState, base: Equation, target: Equation, values: list[Value]) -> Value:
    """Returns the common scale of the cases; the first operand chooses."""
    return walk.agreed(values[1:])


def _clamp(walk: WalkState, base: Equation, target: Equation, values: list[Value]) -> Value:
    """Returns the scale of what is clamped, the second operand."""
    return values[1]


def _sum(walk: WalkState, base: Equation, target: Equation, values: list[Value]) -> Value:
    """Returns the scale times the ratio of the numbers of entries that are summed over."""
    axes = target.params["axes"] if "axes" in target.params else (target.params["axis"],)
    sizes = [math.prod(e.invars[0].aval.shape[axis] for axis in axes) for e in (base, target)]
    return _summed(walk, values[0], *sizes)


def _summed(walk: WalkState, value: Value, base: int, target: int) -> Value:
    if base == target or not base or not target:
        return Value(value.log_scale, value.operations)
    operation = walk.operation(Action.SUMMED, base, target, value.weighted)
    return Value(value.log_scale + math.log(target / base), (*value.operations, operation))


def _dot(walk: WalkState, base: Equation, target: Equation, values: list[Value]) -> Value:
    """Returns the scale of a matrix product: with a weight the operand's, of activations also that of a sum.

    Entries of queries and keys become correlated in training, so that their product grows like the number of
    terms, and not like its root (Tensor Programs V, Definition 4.1). What a layer makes of learned queries is a
    weight to some models, and an activation to others, so that both readings are admitted.
    """
    a, b = (walk.marked(v, Action.MULTIPLIED) for v in values)
    product = Value(a.log_scale + b.log_scale, (*a.operations, *b.operations),
                    computed=not (a.inputs or b.inputs))
    computed = [_has_fixed_rows(base, target, side) for side in (0, 1) if values[side].is_weight and
                values[side].computed]
    if sum(v.is_weight for v in (a, b)) > sum(computed):
        return product
    (axes, _), _ = target.params["dimension_numbers"]
    sizes = (math.prod(e.invars[0].aval.shape[i] for i in axes) for e in (base, target))
    return _summed(walk, dataclasses.replace(product, weighted=bool(computed)), *sizes)


def _has_fixed_rows(base: Equation, target: Equation, side: int) -> bool:
    """Returns whether the axes of an operand that stay in a product's result are those of the base."""
    contracted, batched = (axes[side] for axes in target.params["dimension_numbers"])
    b, t = (e.invars[side].aval.shape for e in (base, target))
    return all(b[i] == t[i] for i in range(len(t)) if i not in (*contracted, *batched))


def _convolution(walk: WalkState, base: Equation, target: Equation, values: list[Value]) -> Value:
    """Returns the product of the scales; a kernel is a weight."""
    a, b = (walk.marked(v, Action.MULTIPLIED) for v in values)
    return Value(a.log_scale + b.log_scale, (*a.operations, *b.operations))


def _scatter(walk: WalkState, base: Equation, target: Equation, values: list[Value]) -> Value:
    """Returns the common scale of the array and of what is put into it."""
    return walk.agreed([values[0], values[2]])


_FUNCTIONS = {
    "add": np.add, "add_any": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide,
    "max": np.maximum, "min": np.minimum, "exp": np.exp, "log": np.log, "exp2": np.exp2, "tanh": np.tanh,
    "floor": np.floor, "ceil": np.ceil, "round": np.round, "log1p": np.log1p, "expm1": np.expm1, "rem": np.fmod,
}
PRIMITIVE_SCALES: dict[str, Any] = {
    "mul": multiplied, "div": divided, "neg": _negated, "dot_general": _dot,
    "conv_general_dilated": _convolution, "select_n": _select, "clamp": _clamp,
    **dict.fromkeys(("sqrt", "rsqrt", "cbrt", "square", "integer_pow", "pow"), _power),
    **dict.fromkeys((
        "add", "add_any", "sub", "max", "min", "concatenate", "pad", "dynamic_update_slice", "hypot"), _add),
    **dict.fromkeys(("reduce_sum", "cumsum"), _sum),
    **dict.fromkeys(("scatter", "scatter-add", "scatter_add", "scatter-min", "scatter-max"), _scatter),
    **dict.fromkeys((
        "abs", "transpose", "reshape", "broadcast_in_dim", "squeeze", "expand_dims", "slice",
        "dynamic_slice", "gather", "rev", "convert_element_type", "reduce_precision", "stop_gradient", "copy",
        "copy_p", "reduce_max", "reduce_min", "cummax", "cummin", "sort", "top_k", "real", "imag", "complex",
        "conj", "optimization_barrier", "sharding_constraint", "mesh_cast", "reduce_window_max", "name",
        "device_put", "all_gather", "ppermute", "pvary", "split", "reduce_window_sum"), _same),
    **dict.fromkeys((
        "sign", "eq", "ne", "lt", "le", "gt", "ge", "and", "or", "not", "xor", "argmax", "argmin", "iota",
        "is_finite", "reduce_and", "reduce_or", "random_bits", "random_seed", "random_wrap", "random_unwrap",
        "random_split", "random_fold_in", "shift_left", "shift_right_logical", "shift_right_arithmetic",
        "population_count", "eq_to", "le_to", "lt_to", "bitcast_convert_type", "threefry2x32", "clz",
        "reduce_xor"), _plain),
}
