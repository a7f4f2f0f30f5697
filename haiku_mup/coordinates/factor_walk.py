"""Follows factors of the width through a model's traced program.

The programs of one model at two widths are walked side by side. Each value has a scale: the factor by which
explicit operations make it larger at the target than at the base. A product has the product of the scales, a
sum over n entries n times the scale of one, a root its root. So whatever belongs together cancels: the sum
over features and the division by their number (a mean), the products of queries with keys over d entries and
the 1/d of their logits, the sum of squares and the root of a norm. Weights have the size that the
parametrization gives them, whatever it is: a product with a weight has the scale of the activations.

A scale other than 1 is left over where it meets an operation that does not commute with it (tanh, exp, the sum
of two values of different scales), and where it leaves the program.
"""
import dataclasses
import enum
from collections.abc import Iterator, Sequence
from typing import Any

from haiku_mup.coordinates.factor_rules import PRIMITIVE_SCALES, divided, multiplied, opaque
from haiku_mup.coordinates.factor_scales import CLOSE, Equation, Value, WalkState, depending_on, given, number
from haiku_mup.parameters.jaxprs import ClosedJaxpr, called_program, is_literal, scan_operands


class ProgramsDiffer(Exception):
    """Signals that base and target don't run the same operations.

    Attributes:
      equation: the target's first one that differs; None where the target has none left.
    """

    def __init__(self, equation: Equation | None):
        super().__init__("the programs of base and target are not the same operations")
        self.equation = equation


class Side(enum.Enum):
    """The program that has a multiplication which the other one lacks."""

    BASE = enum.auto()
    TARGET = enum.auto()


class Walk(WalkState):
    """One walk through two programs, which keeps what is left over."""

    def program(self, base: Any, target: Any, values: Sequence[Value]) -> list[Value]:
        """Follows the values of the inputs to those of the outputs.

        Raises:
          ProgramsDiffer: the two are not the same operations.
        """
        constants = [given(b, t) for b, t in zip(base.consts, target.consts)]
        return self._jaxpr(base.jaxpr, target.jaxpr, [*constants, *values])

    def _jaxpr(self, base: Any, target: Any, values: Sequence[Value]) -> list[Value]:
        """Follows values through two programs, whose variables are the target's."""
        inputs = [*target.constvars, *target.invars]
        env: dict[Any, Value] = dict(zip(inputs, values))
        twins: dict[Any, Any] = dict(zip([*base.constvars, *base.invars], inputs))
        only_base: dict[Any, Value] = {}        # results of products that the target leaves out

        def read(b: Any, t: Any) -> Value:
            """Returns the value of an operand."""
            if is_literal(b) or is_literal(t):
                return given(b.val, t.val) if is_literal(b) and is_literal(t) else Value()
            return only_base[b] if b in only_base else env[t]

        for b, t in _aligned(base.eqns, target.eqns):
            if b is None:
                env[t.outvars[0]] = self._one_sided(t, Side.TARGET, env[_operand(t)])
            elif t is None:
                x = _operand(b)
                value = only_base[x] if x in only_base else env[twins[x]]
                only_base[b.outvars[0]] = self._one_sided(b, Side.BASE, value)
            else:
                self._around.append(t)
                env.update(zip(t.outvars, self._equation(b, t, [read(*v) for v in zip(b.invars, t.invars)])))
                self._around.pop()
                twins.update(zip(b.outvars, t.outvars))
        return [read(*pair) for pair in zip(base.outvars, target.outvars)]

    def _one_sided(self, equation: Equation, side: Side, x: Value) -> Value:
        """Returns the result of a product with a number that the other program leaves out, as it is 1 there."""
        by = float(next(v.val for v in equation.invars if is_literal(v)))
        factor = number(by, 1.0) if side == Side.BASE else number(1.0, by)
        first = is_literal(equation.invars[0])
        self._around.append(equation)
        rule = multiplied if equation.primitive.name == "mul" else divided
        out = depending_on(rule(self, equation, equation, [factor, x] if first else [x, factor]), [x])
        self._around.pop()
        return out

    def _equation(self, base: Equation, target: Equation, values: list[Value]) -> list[Value]:
        """Returns the values of an operation's results."""
        name = target.primitive.name
        if name in _STRUCTURES:
            return _STRUCTURES[name](self, base, target, values)
        inner = called_program(target)
        if inner is not None:
            return self._closed(called_program(base), inner, values)
        out = PRIMITIVE_SCALES.get(name, opaque)(self, base, target, values)
        return [depending_on(out, values)] * len(target.outvars)

    def _closed(self, base: Any, target: Any, values: Sequence[Value]) -> list[Value]:
        """Follows values through two programs inside, with or without constants of their own."""
        if isinstance(target, ClosedJaxpr):
            return self.program(base, target, values)
        return self._jaxpr(base, target, values)


def _aligned(base: Sequence[Equation], target: Sequence[Equation]) -> Iterator[tuple[Any, Any]]:
    """Yields the equations of two programs side by side; None where one leaves out a product with 1.

    Raises:
      ProgramsDiffer: other differences.
    """
    i = j = 0
    while i < len(base) or j < len(target):
        b, t = (side[at] if at < len(side) else None for side, at in ((base, i), (target, j)))
        if _same_operation(b, t):
            yield b, t
            i, j = i + 1, j + 1
        elif _is_product_with_number(t) and (b is None or _same_operation(b, target[j + 1:j + 2])):
            yield None, t
            j += 1
        elif _is_product_with_number(b) and (t is None or _same_operation(base[i + 1:i + 2], t)):
            yield b, None
            i += 1
        else:
            raise ProgramsDiffer(t)


def _same_operation(base: Any, target: Any) -> bool:
    """Returns whether two equations are one operation, whatever the sizes; False if one is missing."""
    b, t = (x[0] if isinstance(x, Sequence) and x else x for x in (base, target))
    return bool(b and t) and b.primitive is t.primitive and len(b.invars) == len(t.invars)


def _is_product_with_number(equation: Equation | None) -> bool:
    """Returns whether an equation multiplies or divides by a literal; programs leave out a product with 1."""
    return equation is not None and equation.primitive.name in ("mul", "div") and (
        [is_literal(v) for v in equation.invars] in ([False, True], [True, False]))


def _operand(equation: Equation) -> Any:
    """Returns what a product with a number multiplies."""
    return next(v for v in equation.invars if not is_literal(v))


# --- operations with programs inside ---

def _scan(walk: Walk, base: Equation, target: Equation, values: list[Value]) -> list[Value]:
    """Follows values through the body of a scan."""
    consts, carry = scan_operands(target)
    return _loop(walk, base.params["jaxpr"], target.params["jaxpr"], values, consts=consts, carry=carry)


def _while(walk: Walk, base: Equation, target: Equation, values: list[Value]) -> list[Value]:
    """Follows values through the body of a while loop; its condition makes no values."""
    skip, consts = (target.params[k] for k in ("cond_nconsts", "body_nconsts"))
    return _loop(walk, base.params["body_jaxpr"], target.params["body_jaxpr"], values[skip:], consts=consts,
                 carry=len(values) - skip - consts)


def _loop(walk: Walk, base: Any, target: Any, values: list[Value], *, consts: int, carry: int) -> list[Value]:
    """Follows values through a loop's body, and reports a carry that comes back with another scale.

    The body is walked until what the carry depends on stands still: at most four times, since there are three
    such fields. Only the last walk reports.
    """
    fixed, rest = values[:consts], values[consts + carry:]
    start = [dataclasses.replace(v, constant=None) for v in values[consts:consts + carry]]
    reported = len(walk.leftovers)
    for _ in range(4):
        del walk.leftovers[reported:]
        out = walk._closed(base, target, [*fixed, *start, *rest])
        joined = [dataclasses.replace(a, inputs=a.inputs or b.inputs, weights=a.weights or b.weights,
                                      computed=a.computed or b.computed)
                  for a, b in zip(start, out)]
        if joined == start:
            break
        start = joined
    walk.leave(dataclasses.replace(b, log_scale=b.log_scale - a.log_scale)
               for a, b in zip(start, out) if abs(a.log_scale - b.log_scale) > CLOSE)
    return [*start, *out[carry:]]


def _cond(walk: Walk, base: Equation, target: Equation, values: list[Value]) -> list[Value]:
    """Returns the common scales of what the branches return."""
    branches = zip(base.params["branches"], target.params["branches"])
    found = [walk._closed(b, t, values[1:]) for b, t in branches]
    return [depending_on(walk.agreed(outs), outs) for outs in zip(*found)]


_STRUCTURES = {"scan": _scan, "while": _while, "cond": _cond}
