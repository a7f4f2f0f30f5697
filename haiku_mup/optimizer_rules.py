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
    """Calls `haiku_mup.rules.optimizers.scales`; 0.2.0 called `scale_eps` `level`."""
    return optimizers.scales(rule, growth, scale_eps=scale_eps or level)


def checked(rule: str | None, adam: bool, level: bool = False) -> str:
    """Returns the name of the rule that `wrap_optimizer` is asked for; `choose` returns the rule."""
    choose(rule, adam, level)
    return choose(rule, adam).name
