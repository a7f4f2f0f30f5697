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
from collections.abc import Mapping, Sequence
from typing import Any

from jax.extend.core import ClosedJaxpr, Literal

from haiku_mup.coordinates.factor_rules import RULES, divided, multiplied, opaque
from haiku_mup.coordinates.factor_scales import CLOSE, Equation, Leftovers, Value, depending_on, given, number


class ProgramsDiffer(Exception):
    """Signals that base and target don't run the same operations.

    Attributes:
      equation: of the target, at which they part; None where it has none left.
    """

    def __init__(self, equation: Equation | None):
        super().__init__("the programs of base and target are not the same operations")
        self.equation = equation


class Walk(Leftovers):
    """One walk through two programs, which keeps what is left over."""

    def program(self, base: ClosedJaxpr, target: ClosedJaxpr, values: Sequence[Value]) -> list[Value]:
        """Follows the values of the inputs to those of the outputs.

        Raises:
          ProgramsDiffer: the two are not the same operations.
        """
        constants = [given(b, t) for b, t in zip(base.consts, target.consts)]
        return self._jaxpr(base.jaxpr, target.jaxpr, [*constants, *values])

    def _jaxpr(self, base: Any, target: Any, values: Sequence[Value]) -> list[Value]:
        env: dict[Any, Value] = dict(zip([*target.constvars, *target.invars], values))
        only_base: dict[Any, Value] = {}    # results of the base's operations that the target hasn't

        def read(b: Any, t: Any) -> Value:
            if isinstance(b, Literal) or isinstance(t, Literal):
                return given(b.val, t.val) if isinstance(b, Literal) and isinstance(t, Literal) else Value()
            return only_base.get(b) or env[t]

        left, right = list(base.eqns), list(target.eqns)
        while left or right:
            b, t = (side[0] if side else None for side in (left, right))
            if b is not None and t is not None and _alike(b, t):
                self._around.append(t)
                found = self._equation(b, t, [read(*pair) for pair in zip(b.invars, t.invars)])
                self._around.pop()
                env.update(zip(t.outvars, found))
                left, right = left[1:], right[1:]
            elif t is not None and _by_number(t) and (b is None or len(right) > 1 and _alike(b, right[1])):
                env[t.outvars[0]] = self._one_sided(t, 1.0, None, env)
                right = right[1:]
            elif b is not None and _by_number(b) and (t is None or len(left) > 1 and _alike(left[1], t)):
                x = next(v for v in b.invars if not isinstance(v, Literal))
                twin = next((v for e in right for v, w in zip(e.invars, left[1].invars)
                             if w is b.outvars[0]), None) if len(left) > 1 else None
                if twin is None:
                    raise ProgramsDiffer(t)
                only_base[b.outvars[0]] = self._one_sided(b, None, 1.0, {x: only_base.get(x) or env[twin]})
                left = left[1:]
            else:
                raise ProgramsDiffer(t)
        return [read(*pair) for pair in zip(base.outvars, target.outvars)]

    def _one_sided(self, equation: Equation, base: float | None, target: float | None,
                   env: Mapping[Any, Value]) -> Value:
        """Returns the result of a product with a number that one program has and the other leaves out."""
        by = float(next(v.val for v in equation.invars if isinstance(v, Literal)))
        x = env[next(v for v in equation.invars if not isinstance(v, Literal))]
        factor = number(by if base is None else base, by if target is None else target)
        first = isinstance(equation.invars[0], Literal)
        self._around.append(equation)
        rule = multiplied if equation.primitive.name == "mul" else divided
        out = depending_on(rule(self, equation, equation, [factor, x] if first else [x, factor]), [x])
        self._around.pop()
        return out

    def _equation(self, base: Equation, target: Equation, values: list[Value]) -> list[Value]:
        name = target.primitive.name
        if name in _STRUCTURES:
            return _STRUCTURES[name](self, base, target, values)
        inner = _inner(target)
        if inner is not None:
            return self._closed(_inner(base), inner, values)
        out = RULES.get(name, opaque)(self, base, target, values)
        return [depending_on(out, values)] * len(target.outvars)

    def _closed(self, base: Any, target: Any, values: Sequence[Value]) -> list[Value]:
        if isinstance(target, ClosedJaxpr):
            return self.program(base, target, values)
        return self._jaxpr(base, target, values)

def _alike(base: Equation, target: Equation) -> bool:
    """Tells whether two equations are the same operation, on operands of other sizes."""
    return base.primitive is target.primitive and len(base.invars) == len(target.invars)


def _by_number(equation: Equation) -> bool:
    """Tells whether it multiplies or divides by a number; programs leave out a product with 1."""
    return equation.primitive.name in ("mul", "div") and [isinstance(v, Literal) for v in equation.invars] in (
        [False, True], [True, False])


def _inner(equation: Equation) -> Any:
    """Returns the program that an equation calls once with its own operands; None where it calls none."""
    for key in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        if key in equation.params:
            return equation.params[key]
    return None


# --- operations with programs inside ---

def _scan(walk: Walk, base: Equation, target: Equation, values: list[Value]) -> list[Value]:
    """The carry must come back with its scale: else a stack of layers multiplies it again in each."""
    consts, carry = (target.params[k] for k in ("num_consts", "num_carry"))
    return _loop(walk, base.params["jaxpr"], target.params["jaxpr"], values, consts, carry)


def _while(walk: Walk, base: Equation, target: Equation, values: list[Value]) -> list[Value]:
    skip, consts = (target.params[k] for k in ("cond_nconsts", "body_nconsts"))
    body = base.params["body_jaxpr"], target.params["body_jaxpr"]
    return _loop(walk, *body, values[skip:], consts, len(values) - skip - consts)


def _loop(walk: Walk, base: Any, target: Any, values: list[Value], consts: int, carry: int) -> list[Value]:
    start = [dataclasses.replace(v, constant=None) for v in values[consts:consts + carry]]
    rest = values[consts + carry:]
    for _ in range(2):                      # once to see what a pass depends on, once more to report
        seen = len(walk.leftovers)
        out = walk._closed(base, target, [*values[:consts], *start, *rest])
        grown = [abs(a.log_scale - b.log_scale) > CLOSE for a, b in zip(start, out)]
        joined = [dataclasses.replace(b, inputs=a.inputs or b.inputs, weights=a.weights or b.weights,
                                      constant=None, log_scale=a.log_scale, sites=a.sites)
                  for a, b in zip(start, out)]
        if joined == start:
            break
        start, dropped = joined, walk.leftovers[seen:]
        del walk.leftovers[seen:]
    else:
        walk.leftovers += dropped
    walk.leave(dataclasses.replace(b, log_scale=b.log_scale - a.log_scale)
               for a, b, more in zip(start, out, grown) if more)
    return [*start, *out[carry:]]


def _cond(walk: Walk, base: Equation, target: Equation, values: list[Value]) -> list[Value]:
    branches = zip(base.params["branches"], target.params["branches"])
    found = [walk._closed(b, t, values[1:]) for b, t in branches]
    return [depending_on(walk.agreed(outs), outs) for outs in zip(*found)]


def _custom_vjp(walk: Walk, base: Equation, target: Equation, values: list[Value]) -> list[Value]:
    """Walks what the forward pass computes."""
    return walk._closed(_inner(base), _inner(target), values)


_STRUCTURES = {"scan": _scan, "while": _while, "cond": _cond, "custom_vjp_call": _custom_vjp,
               "custom_vjp_call_jaxpr": _custom_vjp}
