"""Haiku state that is drawn, such as a codebook that moving averages train: the factor of its draw.

No optimizer moves state, and no layer multiplies it. So its std is all that a parametrization has a say in: it
is that at the base times the factor of the table, as for a parameter of the same role.
"""
import math
from collections.abc import Iterator
from typing import NamedTuple

from haiku_mup.errors import MupError
from haiku_mup.parameters.fans import Fans, as_declaration
from haiku_mup.parameters.finite_sizes import with_finite_sizes_of
from haiku_mup.parameters.haiku_layers import vector
from haiku_mup.parameters.record import Record
from haiku_mup.rules import Parametrization, rescale, role


class StateDraw(NamedTuple):
    """The draw of a state at the target.

    Attributes:
      factor: what multiplies it: 1 where nobody says what its axes are.
      warning: what to say of it; None where it is right.
    """

    factor: float
    warning: str | None = None


def state_draw(base: Record | None, target: Record, parametrization: Parametrization) -> StateDraw:
    """Returns how a state is drawn, beside that of the base.

    Args:
      base, target: the records; None where the base has no such state that is drawn.
      parametrization: the model's.

    Raises:
      MupError: finite sizes by which its std can't be told.
    """
    if not parametrization.draws or not target.inexact:
        return StateDraw(1.0)
    if base is None:
        return StateDraw(1.0, _text(target, None, (
            "it is state that is drawn, and the base has none, or is from a file of an earlier version "
            "without its std; capture the base again, with the function that makes the target")))
    base = with_finite_sizes_of(target, base, MupError)
    if base.shape == target.shape or len(base.shape) != len(target.shape):
        return StateDraw(1.0)
    if target.fans.known:
        return StateDraw(_factor(base, target, target.fans, parametrization))
    return StateDraw(1.0, _doubt(base, target, parametrization))


def _factor(base: Record, target: Record, fans: Fans, parametrization: Parametrization) -> float:
    """Returns the factor that makes a draw's std the base's times the table's factor, as Table 8 has it."""
    ratios = [math.prod(target.shape[a] / base.shape[a] for a in axes) for axes in (fans.fan_in, fans.fan_out)]
    factors = parametrization.factors(role(*(ratio != 1 for ratio in ratios)), *ratios)
    return rescale(base.moments.std, target.moments.std, factors.init * factors.stored)


def _doubt(base: Record, target: Record, parametrization: Parametrization) -> str | None:
    """Returns the warning about a state with undeclared axes; None if each reading leaves its draw as it is."""
    readings = [(what, fans, _factor(base, target, fans, parametrization))
                for what, fans in _readings(base, target)]
    if all(math.isclose(factor, 1, rel_tol=1e-6 + 5 * target.moments.error) for _, _, factor in readings):
        return None
    named = "; or ".join(f"{what}, {as_declaration(target.name, fans)}, which draws it × {factor:.4g}"
                         for what, fans, factor in readings)
    return _text(target, base, (
        f"it is state that is drawn, with std {base.moments.std:.3g} at the base and "
        f"{target.moments.std:.3g} at the target. Its axes are unknown, so its draw is left as it is. "
        f"Declare them: {named}"))


def _readings(base: Record, target: Record) -> Iterator[tuple[str, Fans]]:
    """Yields what a state may be."""
    growing = [a for a, (b, t) in enumerate(zip(base.shape, target.shape)) if b != t]
    if len(growing) > 1:
        yield "a weight", Fans(tuple(growing[:1]), tuple(growing[1:]))
    yield "a codebook, or another thing that no product sums over at the start", vector(target.shape)


def _text(target: Record, base: Record | None, text: str) -> str:
    return str(MupError.about(target.name, base and base.shape, target.shape, text))
