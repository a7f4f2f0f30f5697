"""The factors around an optimizer for every parameter of a model: a rule, on what was captured."""
import math
from collections.abc import Callable, Mapping
from typing import Any

from haiku_mup.errors import MupError
from haiku_mup.optimizers import muon
from haiku_mup.optimizers.wrapper import Around, ByName, by_name
from haiku_mup.parameters import factors as scale
from haiku_mup.parameters.scaling import ParameterScaling, RowBlock
from haiku_mup.rules import optimizers as optimizer_rules
from haiku_mup.rules.optimizers import NORMED, Known, Scales
from haiku_mup.rules.parametrization import Parametrization
from haiku_mup.rules.tables import standard

SGDS = ("sgd", "momo")


class Scaling:
    """A rule for all parameters of a model.

    Args:
      optimizer: the plain optimizer.
      entries: base beside target, by name.
      table: the parametrization.
      rule: a key of `optimizer_rules.RULES`.
      level: see `optimizer_rules.scales`.
      scale_decay: whether a decay inside is multiplied along with the updates.
      mults: of the learning rates, by name.

    Raises:
      MupError: a parametrization that has no learning rates for this rule.
    """

    def __init__(self, optimizer: Any, entries: Mapping[str, ParameterScaling], table: Parametrization,
                 rule: str, *, level: bool = False, scale_decay: bool = False,
                 mults: Mapping[str, float] | None = None):
        self._optimizer, self._law = optimizer, ""
        self._entries, self._table, self._rule, self._level = entries, table, rule, level
        self._scale_decay, self._mults = scale_decay, mults or {}
        self._found: dict[str, Around] = {}
        self._of("adam" if rule == "muon" else rule)        # raises here for what cannot be

    def __call__(self, tree: Any, state: Callable[[], Any]) -> Around:
        """What is around the optimizer, for a tree of parameters or of gradients and its state, if asked."""
        if self._rule != "muon":
            return self._of(self._rule)
        taken = muon.taken(state())
        if taken is None:
            raise MupError("wrap_optimizer(rule='muon'): the optimizer's state has no MuonState; give it "
                           "optax.contrib.muon, or a chain with optax.contrib.scale_by_muon")
        for name in sorted(taken & set(self._entries)):
            muon.check(name, self._entries[name])
        if not self._law and taken:
            self._law = muon.law(self._optimizer, tree, taken, self._entries)
        adam = self._of("adam")
        muons = self._of("muon") if taken else adam

        def by_state(part):
            muons_, adams = getattr(muons, part), getattr(adam, part)
            return lambda name: (muons_ if name in taken else adams)(name)

        return Around(*map(by_state, Around._fields))

    def _of(self, rule: str) -> Around:
        """What one rule puts around every parameter."""
        if rule not in self._found:
            self._found[rule] = self._around(rule)
        return self._found[rule]

    def _around(self, rule: str) -> Around:
        def numbers(value: Callable[[str, Scales], float]) -> ByName:
            def factor(name: str, entry: ParameterScaling) -> scale.Factor:
                return entry.factor(lambda part: value(name, self._scales(rule, entry, part)))

            return by_name({name: factor(name, entry) for name, entry in self._entries.items()})

        as_they_are = self._scale_decay and rule not in NORMED
        return Around(
            gradient=numbers(lambda name, s: s.gradient),
            update=numbers(lambda name, s: s.update * self._mults.get(name, 1.0)),
            parameter=numbers(lambda name, s: 1.0 if as_they_are else s.parameter))

    def _scales(self, rule: str, entry: ParameterScaling, part: RowBlock) -> Scales:
        table, factors = self._table, part.factors
        sgd = rule in SGDS and not self._level
        if math.isnan(factors.sgd if sgd else factors.adam):
            raise MupError(f"{table.name}: no learning rates for {'SGD' if sgd else 'Adam'}: {table.reason}")
        if table == standard():
            return Scales()
        if not table.draws and rule in NORMED:
            raise MupError(f"{table.name}: rule={rule!r} needs to know how large parameters are, and this "
                           "parametrization leaves draws as they are")
        if self._level and rule in optimizer_rules.ENTRYWISE or rule == "any":
            self._check_pair(entry.target.name, factors)
        stacks = math.prod(entry.base.stacks)       # 0, at the target too, in a stack without layers
        layers = math.prod(entry.target.stacks) / stacks if stacks else 1.0
        known = Known(factors, size(entry, part), part.m_in, part.m_out, *muon.matrices(entry), self._law,
                      layers)
        return optimizer_rules.scales(rule, known, level=self._level)

    def _check_pair(self, name: str, factors: Any) -> None:
        """Raises where gradients / ε's factor and Adam's rates wouldn't be SGD's rates."""
        if not math.isclose(factors.sgd * factors.eps, factors.adam, rel_tol=1e-9):
            raise MupError(f"{name!r}: scale_eps=True needs a table in which SGD's learning rate is Adam's "
                           f"over ε's factor; {self._table.name} has {factors.sgd:g}, {factors.adam:g} and "
                           f"{factors.eps:g}")


def size(entry: ParameterScaling, part: RowBlock) -> float:
    """The size of a parameter's entries, relative to the base.

    One that starts at zero is what updates make of it.
    """
    moments, factors = entry.target.moments, part.factors
    if moments.drawn:
        return factors.init
    return factors.adam if moments.std == moments.mean == 0 else 1 / factors.stored
