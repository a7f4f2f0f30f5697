"""The factors around an optimizer for every parameter of a model: an optimizer rule, on what was captured."""
import math
from collections.abc import Callable, Mapping
from typing import Any

from haiku_mup.errors import MupError
from haiku_mup.optimizers import muon
from haiku_mup.optimizers.trees import ByName, by_name
from haiku_mup.optimizers.wrapper import FactorsByName
from haiku_mup.parameters import factors as scale
from haiku_mup.parameters.scaling import ParameterScaling, RowBlock
from haiku_mup.rules import optimizers as optimizer_rules
from haiku_mup.rules.optimizers import NORMED, ParameterGrowth, Scales
from haiku_mup.rules.parametrization import Parametrization
from haiku_mup.rules.tables import standard

SGDS = ("sgd", "momo")


class OptimizerScaling:
    """An optimizer rule for all parameters of a model.

    Args:
      optimizer: the plain optimizer.
      entries: base beside target, by name.
      parametrization: the parametrization.
      optimizer_rule: a key of `optimizer_rules.RULES`.
      scale_eps: see `optimizer_rules.scales`.
      scale_decay: whether a decay inside is multiplied along with the updates.
      mults: of the learning rates, by name.

    Raises:
      MupError: a parametrization that has no learning rates for this rule.
    """

    def __init__(self, optimizer: Any, entries: Mapping[str, ParameterScaling],
                 parametrization: Parametrization, optimizer_rule: str, *, scale_eps: bool = False,
                 scale_decay: bool = False, mults: Mapping[str, float] | None = None):
        self._optimizer, self._shape_scaling = optimizer, ""
        self._entries, self._parametrization = entries, parametrization
        self._optimizer_rule, self._scale_eps = optimizer_rule, scale_eps
        self._scale_decay, self._mults = scale_decay, mults or {}
        self._found: dict[str, FactorsByName] = {}
        self._of("adam" if optimizer_rule == "muon" else optimizer_rule)        # raises here for what cannot be

    def __call__(self, tree: Any, state: Callable[[], Any]) -> FactorsByName:
        """What is around the optimizer, for a tree of parameters or of gradients and its state, if asked."""
        if self._optimizer_rule != "muon":
            return self._of(self._optimizer_rule)
        taken = muon.taken(state())
        if taken is None:
            raise MupError("wrap_optimizer(rule='muon'): the optimizer's state has no MuonState; give it "
                           "optax.contrib.muon, or a chain with optax.contrib.scale_by_muon")
        for name in sorted(taken & set(self._entries)):
            muon.check(name, self._entries[name])
        if not self._shape_scaling and taken:
            self._shape_scaling = muon.find_shape_scaling(self._optimizer, tree, taken, self._entries)
        adam = self._of("adam")
        muons = self._of("muon") if taken else adam

        def by_state(part):
            muons_, adams = getattr(muons, part), getattr(adam, part)
            return lambda name: (muons_ if name in taken else adams)(name)

        return FactorsByName(*map(by_state, FactorsByName._fields))

    def _of(self, optimizer_rule: str) -> FactorsByName:
        """What one rule puts around every parameter."""
        if optimizer_rule not in self._found:
            self._found[optimizer_rule] = self._around(optimizer_rule)
        return self._found[optimizer_rule]

    def _around(self, optimizer_rule: str) -> FactorsByName:
        def numbers(value: Callable[[str, Scales], float]) -> ByName:
            def factor(name: str, entry: ParameterScaling) -> scale.Factor:
                return entry.factor(lambda part: value(name, self._scales(optimizer_rule, entry, part)))

            return by_name({name: factor(name, entry) for name, entry in self._entries.items()})

        as_they_are = self._scale_decay and optimizer_rule not in NORMED
        return FactorsByName(
            gradient=numbers(lambda name, s: s.gradient),
            update=numbers(lambda name, s: s.update * self._mults.get(name, 1.0)),
            parameter=numbers(lambda name, s: 1.0 if as_they_are else s.parameter))

    def _scales(self, optimizer_rule: str, entry: ParameterScaling, part: RowBlock) -> Scales:
        parametrization, factors = self._parametrization, part.factors
        sgd = optimizer_rule in SGDS and not self._scale_eps
        if math.isnan(factors.sgd if sgd else factors.adam):
            raise MupError(f"{parametrization.name}: no learning rates for {'SGD' if sgd else 'Adam'}: "
                           f"{parametrization.reason or 'it has none'}")
        if parametrization == standard():
            return Scales()
        if not parametrization.draws and optimizer_rule in NORMED:
            raise MupError(f"{parametrization.name}: rule={optimizer_rule!r} needs to know how large "
                           "parameters are, and this parametrization leaves draws as they are")
        if self._scale_eps and optimizer_rule in optimizer_rules.ENTRYWISE or optimizer_rule == "any":
            self._check_pair(entry.target.name, factors)
        stacks = math.prod(entry.base.stacks)       # 0, at the target too, in a stack without layers
        layers = math.prod(entry.target.stacks) / stacks if stacks else 1.0
        growth = ParameterGrowth(factors, size(entry, part), part.m_in, part.m_out, *muon.matrices(entry),
                                 self._shape_scaling, layers)
        return optimizer_rules.scales(optimizer_rule, growth, scale_eps=self._scale_eps)

    def _check_pair(self, name: str, factors: Any) -> None:
        """Raises where gradients / ε's factor and Adam's rates wouldn't be SGD's rates."""
        if not math.isclose(factors.sgd * factors.eps, factors.adam, rel_tol=1e-9):
            raise MupError(f"{name!r}: scale_eps=True needs a table in which SGD's learning rate is Adam's "
                           f"over ε's factor; {self._parametrization.name} has {factors.sgd:g}, "
                           f"{factors.adam:g} and {factors.eps:g}")


def size(entry: ParameterScaling, part: RowBlock) -> float:
    """The size of a parameter's entries, relative to the base.

    One that starts at zero is what updates make of it.
    """
    moments, factors = entry.target.moments, part.factors
    if moments.drawn:
        return factors.init
    return factors.adam if moments.std == moments.mean == 0 else 1 / factors.stored
