"""Declarations that a user makes about a model from outside: the arguments of `Mup`."""
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Self

from haiku_mup.errors import MupError
from haiku_mup.parameters.fans import Axes, Fans, FiniteAxes, parse_fans, parse_finite
from haiku_mup.parameters.globs import parse_multipliers
from haiku_mup.rules.parametrization import Parametrization
from haiku_mup.rules.run_scale import RunScale
from haiku_mup.rules.tables import maximal_update


class Declarations(NamedTuple):
    """The arguments of `Mup`, checked.

    Attributes:
      fans: {glob over "module/name": Fans}.
      readouts: globs over names of modules, and over "module/name" of parameters that no layer of Haiku's owns.
      parametrization: of the model.
      finite: {glob over "module/name": axes that are not widths, though their sizes may differ}.
      tied: globs over "module/name" of lookup tables of the user's own that make logits, too.
      init_mults, lr_mults: {glob over "module/name": multiplier}.
      run_scale: the batch size and the length of the run, relative to the base's; None if nothing was said of
        them.
    """

    fans: Mapping[str, Fans]
    readouts: tuple[str, ...]
    parametrization: Parametrization
    finite: Mapping[str, FiniteAxes] = types.MappingProxyType({})
    tied: tuple[str, ...] = ()
    init_mults: Mapping[str, float] = types.MappingProxyType({})
    lr_mults: Mapping[str, float] = types.MappingProxyType({})
    run_scale: RunScale | None = None

    @classmethod
    def parse(cls, *, fans: Mapping[str, Sequence[Axes]] | None, readouts: str | Sequence[str],
              parametrization: Parametrization | None, init_mults: Mapping[str, float] | None,
              lr_mults: Mapping[str, float] | None, finite: Mapping[str, Axes | str] | None = None,
              tied: str | Sequence[str] = ()) -> Self:
        """Returns the arguments of `Mup`, checked.

        Raises:
          MupError: one of another kind; multipliers of rates in a parametrization without learning rates.
        """
        found = cls(parse_fans(fans), _patterns("readouts", readouts), _parametrization(parametrization),
                    parse_finite(finite), _patterns("tied", tied),
                    parse_multipliers("init_mults", init_mults), parse_multipliers("lr_mults", lr_mults))
        if found.parametrization.plain and lr_mults:
            raise MupError(f"lr_mults: in {found.parametrization.name} a plain optimizer trains the wrapped "
                           "model, so learning rates have no factors; take another form")
        return found

    def with_run_scale(self, run_scale: RunScale) -> Self:
        """Returns the declarations with another batch size and length of the run.

        Raises:
          MupError: no `RunScale`.
        """
        if not isinstance(run_scale, RunScale):
            raise MupError(f"run_scale: {run_scale!r}: give a haiku_mup.RunScale, such as "
                           "haiku_mup.RunScale(batch_ratio=4)")
        return self._replace(run_scale=run_scale)


def _patterns(argument: str, given: str | Sequence[str]) -> tuple[str, ...]:
    patterns = (given,) if isinstance(given, str) else given
    if not isinstance(patterns, Iterable) or not all(isinstance(pattern, str) for pattern in patterns):
        raise MupError(f"{argument}: {given!r}: give a glob over {'module ' * (argument == 'readouts')}names, "
                       "or several")
    return tuple(patterns)


def _parametrization(given: Parametrization | None) -> Parametrization:
    parametrization = maximal_update() if given is None else given
    if not isinstance(parametrization, Parametrization):
        raise MupError(f"parametrization: {parametrization!r}: give a haiku_mup.Parametrization, such as "
                       "haiku_mup.maximal_update('table9')")
    return parametrization
