"""The rules for optimizers, at the path that the documentation names: see haiku_mup.rules.optimizers."""
import dataclasses
from typing import Any

from haiku_mup.rules import Factors, optimizers
from haiku_mup.rules.optimizers import *  # noqa: F403
from haiku_mup.rules.optimizers import RULES, SHAPE_SCALINGS, Coupling, Matrix, ParameterGrowth, Scales, choose

# Names and arguments of 0.2.0.
LAWS = SHAPE_SCALINGS
ENTRYWISE, NORMED, SUMMED = (tuple(name for name, rule in RULES.items() if rule.coupling is coupling)
                             for coupling in (Coupling.ENTRY, Coupling.PARAMETER, Coupling.MODEL))
_ONE = Matrix(1, 1)


class Known(ParameterGrowth):
    """A `ParameterGrowth` with positional arguments, and with `law` for `shape_scaling`."""

    factors: Factors

    def __init__(self, factors: Factors, size: float = 1.0, m_in: float = 1.0, m_out: float = 1.0,
                 base: Matrix = _ONE, target: Matrix = _ONE, law: str = "plain", layers: float = 1.0):
        super().__init__(factors=factors, size=size, m_in=m_in, m_out=m_out, base=base, target=target,
                         shape_scaling=law, layers=layers)

    @property
    def law(self) -> str:
        """Returns `shape_scaling`, as 0.2.0 called it."""
        return self.shape_scaling

    def _replace(self, **changes: Any) -> "Known":
        names = {field.name: field.name for field in dataclasses.fields(self)} | {"shape_scaling": "law"}
        return Known(**{name: getattr(self, field) for field, name in names.items()} | changes)


def scales(rule: str, growth: ParameterGrowth, *,       # type: ignore[no-redef]
           scale_eps: bool = False, level: bool = False) -> Scales:
    """Computes the factors that a rule puts around an optimizer, for one parameter.

    Args:
      rule: a key of `RULES`.
      growth: how the parameter grows.
      scale_eps: whether gradients are made as large as at the base, so that the optimizer's ε acts alike at
        every width.
      level: the name of scale_eps in 0.2.0.

    >>> from haiku_mup import maximal_update, optimizer_rules
    >>> growth = ParameterGrowth(factors=maximal_update().factors("output", 4.0, 1.0))
    >>> optimizer_rules.scales("lamb", growth, scale_eps=True)
    Scales(gradient=4.0, update=1.0, parameter=1.0)
    """
    return optimizers.scales(rule, growth, scale_eps=scale_eps or level)


def checked(rule: str | None, adam: bool, level: bool = False) -> str:
    """Returns the name of the rule that `wrap_optimizer` is asked for; `choose` returns the rule."""
    choose(rule, adam, level)
    return choose(rule, adam).name
