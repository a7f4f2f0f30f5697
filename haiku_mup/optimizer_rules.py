"""The rules for optimizers, at the path that the documentation names: see haiku_mup.rules.optimizers."""
import dataclasses
from typing import Any

from haiku_mup.rules import optimizers
from haiku_mup.rules.optimizers import *  # noqa: F403
from haiku_mup.rules.optimizers import RULES, SHAPE_SCALINGS, Coupling, ParameterGrowth, Scales, choose

# Names and arguments of 0.2.0.
LAWS = SHAPE_SCALINGS
ENTRYWISE, NORMED, SUMMED = (tuple(name for name, rule in RULES.items() if rule.coupling is coupling)
                             for coupling in (Coupling.ENTRY, Coupling.PARAMETER, Coupling.MODEL))
_FIELDS = ("factors", "size", "m_in", "m_out", "base", "target", "shape_scaling", "layers")


class Known(ParameterGrowth):
    """A `ParameterGrowth` as 0.2.0 made it: with positional arguments, and with `law` for `shape_scaling`."""

    def __init__(self, *args: Any, **kwargs: Any):
        if "law" in kwargs:
            kwargs["shape_scaling"] = kwargs.pop("law")
        super().__init__(**dict(zip(_FIELDS, args)), **kwargs)

    @property
    def law(self) -> str:
        """Returns `shape_scaling`, as 0.2.0 called it."""
        return self.shape_scaling

    def _replace(self, **changes: Any) -> "Known":
        return Known(**{field.name: getattr(self, field.name) for field in dataclasses.fields(self)} | changes)


def scales(rule: str, growth: ParameterGrowth, *,       # type: ignore[no-redef]
           scale_eps: bool = False, level: bool = False) -> Scales:
    """Calls `haiku_mup.rules.optimizers.scales`; 0.2.0 called `scale_eps` `level`."""
    return optimizers.scales(rule, growth, scale_eps=scale_eps or level)


def checked(rule: str | None, adam: bool, level: bool = False) -> str:
    """Returns the name of the rule that `wrap_optimizer` is asked for; `choose` returns the rule."""
    choose(rule, adam, level)
    return choose(rule, adam).name
