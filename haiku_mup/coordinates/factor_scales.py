"""Scales of a program's values: how much larger a value is at the target than at the base, and why."""
import dataclasses
import enum
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

CLOSE = 1e-4            # logarithms of scales that differ by less are equal: float32 rounds √n to 1e-7
Equation = Any          # jax.extend.core.JaxprEqn


class Action(enum.StrEnum):
    """Effect of an operation on a value, in the words of a finding."""

    MULTIPLIED = "multiplied by"
    DIVIDED = "divided by"
    ADDED = "added to"
    SUMMED = "a sum over"


@dataclasses.dataclass(frozen=True, eq=False)
class ScalingOperation:
    """One operation that puts a factor of the width into its result.

    Attributes:
      equations: the operation in the target's program, after those whose sub-programs it is in.
      action: what it does.
      base, target: by or over how much at the two widths.
      may_be_product: whether it sums what a weight of the width multiplies: a product with a readout of one's
        own, which μP's factors serve, or a sum over gains times features, which they don't.
    """

    equations: tuple[Equation, ...]
    action: Action
    base: float
    target: float
    may_be_product: bool = False


@dataclasses.dataclass(frozen=True)
class Constant:
    """A number that the program knows, at both widths; of an array, its entries other than zero."""

    base: float
    target: float

    @property
    def log_scale(self) -> float:
        """Returns the logarithm of target / base; 0 for zeros and for what is not finite."""
        sizes = abs(self.base), abs(self.target)
        return math.log(sizes[1] / sizes[0]) if all(0 < x < math.inf for x in sizes) else 0.0


@dataclasses.dataclass(frozen=True)
class Value:
    """A value of the program, as far as its scale goes.

    Attributes:
      log_scale: logarithm of its scale.
      operations: the operations that its scale comes from, in their order.
      constant: its value, where the program knows it and all its entries other than zero are one number.
      inputs: whether it depends on the program's inputs.
      weights: whether it depends on parameters.
      wide: whether it depends on parameters whose shapes follow the width.
      weighted: whether it is an activation times a weight of the width, entry by entry.
      computed: whether a matrix product has made it of parameters alone, as a layer does of learned queries.
    """

    log_scale: float = 0.0
    operations: tuple[ScalingOperation, ...] = ()
    constant: Constant | None = None
    inputs: bool = False
    weights: bool = False
    wide: bool = False
    weighted: bool = False
    computed: bool = False

    @property
    def scaled(self) -> bool:
        """Returns whether its scale differs from 1."""
        return abs(self.log_scale) > CLOSE

    @property
    def is_weight(self) -> bool:
        """Returns whether it is made of parameters alone."""
        return self.weights and not self.inputs

    @property
    def is_number(self) -> bool:
        """Returns whether it is made of constants alone."""
        return not (self.weights or self.inputs)


@dataclasses.dataclass(frozen=True, eq=False)
class Leftover:
    """A scale that nothing cancels.

    Attributes:
      operations: the operations that it comes from, in their order.
      log_scale: its logarithm.
    """

    operations: tuple[ScalingOperation, ...]
    log_scale: float


class WalkState:
    """Keeps the scales that nothing cancels, and the operation that is being followed.

    Attributes:
      leftovers: in the program's order.
    """

    def __init__(self) -> None:
        self.leftovers: list[Leftover] = []
        self._around: list[Equation] = []

    def leave(self, values: Iterable[Value]) -> None:
        """Reports the values' scales as left over, unless they may be those of products with weights."""
        for value in values:
            products = sum(math.log(op.target / op.base) for op in value.operations if op.may_be_product)
            of_products = products and abs(value.log_scale - products) < CLOSE
            if value.scaled and value.operations and not value.is_number and not of_products:
                self.leftovers.append(Leftover(value.operations, value.log_scale))

    def operation(self, action: Action, base: float, target: float,
                  may_be_product: bool = False) -> ScalingOperation:
        """Returns the operation that the walk is at, with its factors."""
        return ScalingOperation(tuple(self._around), action, base, target, may_be_product)

    def marked(self, value: Value, action: Action) -> Value:
        """Returns a number that follows the width as made by this operation; other values as they are."""
        if not (value.constant and value.scaled):
            return value
        operation = self.operation(action, value.constant.base, value.constant.target)
        return dataclasses.replace(value, operations=(operation,))

    def agreed(self, values: Sequence[Value]) -> Value:
        """Returns the common scale of values that are added or joined; reports scales that differ."""
        scales = [dataclasses.replace(self.marked(v, Action.ADDED), inputs=True) for v in values
                  if not v.is_number or v.constant and v.scaled]
        if not scales:
            return Value()
        first = scales[0]
        if all(abs(v.log_scale - first.log_scale) < CLOSE for v in scales):
            return Value(first.log_scale, max((v.operations for v in scales), key=len))
        self.leave(scales)
        return Value()


def depending_on(out: Value, values: Sequence[Value]) -> Value:
    """Returns the result with what it depends on; without the operations, if they cancel."""
    if not out.scaled:
        out = dataclasses.replace(out, operations=())
    return dataclasses.replace(out, inputs=any(v.inputs for v in values),
                               weights=any(v.weights for v in values), wide=any(v.wide for v in values),
                               computed=out.computed or any(v.computed for v in values))


def given(base: Any, target: Any) -> Value:
    """Returns the value of a literal or of an array that the program closes over."""
    if not all(hasattr(x, "dtype") or np.isscalar(x) for x in (base, target)):
        return Value()                              # a random key
    try:
        base, target = (np.asarray(x) for x in (base, target))
    except TypeError:
        return Value()
    if not all(x.size and np.issubdtype(x.dtype, np.number) and x.size <= 2**24 for x in (base, target)):
        return Value()
    sizes = [x[x != 0] if x.ndim else x.ravel() for x in (base, target)]
    if any(len(x) == 0 for x in sizes):
        return Value(constant=Constant(0.0, 0.0))
    if all((x == x.flat[0]).all() for x in sizes):
        return number(float(sizes[0].flat[0].real), float(sizes[1].flat[0].real))
    if base.shape == target.shape and ((base == 0) == (target == 0)).all():
        ratios = sizes[1] / sizes[0]                # an array made of the width, such as a mask over its number
        if np.allclose(ratios, ratios.flat[0], rtol=CLOSE, atol=0):
            return number(float(abs(sizes[0]).max()), float(abs(sizes[1]).max()))
    return Value()


def number(base: float, target: float) -> Value:
    """Returns the value of a number that the program knows at both widths."""
    constant = Constant(base, target)
    return Value(constant.log_scale, constant=constant)
