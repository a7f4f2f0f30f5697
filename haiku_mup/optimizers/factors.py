"""The factors that an optimizer rule puts around an optimizer, for all parameters of a model."""
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from haiku_mup.errors import MupError
from haiku_mup.optimizers import muon
from haiku_mup.optimizers.trees import ByName, by_name
from haiku_mup.optimizers.wrapper import FactorsByName
from haiku_mup.parameters.row_factors import Factor, broadcastable
from haiku_mup.parameters.scaling import ParameterScaling, RowBlock
from haiku_mup.rules.exponents import HIDDEN
from haiku_mup.rules.optimizers import (
    ADAM,
    Coupling,
    OptimizerRule,
    ParameterGrowth,
    Scales,
    ShapeScaling,
    entry_size,
)
from haiku_mup.rules.parametrization import Factors, Parametrization


class OptimizerScaling:
    """The factors of one optimizer, by its rule: a function from a tree and the optimizer's state.

    Args:
      optimizer: the plain optimizer.
      scalings: the model's parameters, by name.
      parametrization: the parametrization.
      optimizer_rule: the rule.
      scale_decay: whether a decay inside the optimizer is multiplied along with the updates.
      lr_mults: multipliers of learning rates, by name.

    Raises:
      MupError: a parametrization that has no learning rates for this rule.
    """

    def __init__(self, optimizer: Any, scalings: Mapping[str, ParameterScaling],
                 parametrization: Parametrization, optimizer_rule: OptimizerRule, *,
                 scale_decay: bool = False, lr_mults: Mapping[str, float] | None = None):
        self.optimizer_rule = optimizer_rule
        self._optimizer, self._scalings, self._parametrization = optimizer, scalings, parametrization
        self._scale_decay, self._lr_mults = scale_decay, lr_mults or {}
        self._shape_scaling: ShapeScaling | None = None
        self._factors: dict[OptimizerRule, FactorsByName] = {}
        # Raises here, before any update. Muon's own factors wait for the runs that find its shape scaling.
        self._factors_of(ADAM if optimizer_rule.coupling is Coupling.MATRIX else optimizer_rule)

    def __call__(self, tree: Any, state: Callable[[], Any]) -> FactorsByName:
        """Returns the factors for a tree of parameters or of gradients.

        Args:
          tree: the tree.
          state: returns the optimizer's state; called for Muon alone.
        """
        if self.optimizer_rule.coupling is not Coupling.MATRIX:
            return self._factors_of(self.optimizer_rule)
        names = muon.parameters_of_muon(state())
        if names is None:
            raise MupError(f"wrap_optimizer(rule={self.optimizer_rule.name!r}): the optimizer's state has no "
                           "MuonState; give it optax.contrib.muon, or a chain with "
                           "optax.contrib.scale_by_muon")
        adam = self._factors_of(ADAM)
        if not names:
            return adam
        for name in sorted(names & set(self._scalings)):
            muon.check_matrix(name, self._scalings[name])
        if self._shape_scaling is None:
            self._shape_scaling = muon.find_shape_scaling(self._optimizer, tree, names, self._scalings)
        return _merge(names, self._factors_of(self.optimizer_rule), adam)

    def of_name(self, name: str) -> tuple[Factor, Factor]:
        """Returns the factor of a parameter's gradient, and the one that divides the parameter.

        For Muon's parameters it returns Adam's factors, since Muon's own need runs of the optimizer.
        """
        factors = self._factors_of(ADAM if self.optimizer_rule.coupling is Coupling.MATRIX else
                                   self.optimizer_rule)
        return factors.gradient(name), factors.parameter(name)

    def sees_base_sizes(self, name: str) -> bool:
        """Returns whether the optimizer sees a parameter's entries as large as at the base, as far as known.

        The neural tangent kernel has no Adam's factor, which is the size of a parameter that starts at zero.
        """
        scaling, (_, divisor) = self._scalings[name], self.of_name(name)
        size = broadcastable(scaling.factor(lambda block: _growth(scaling, block, self._shape_scaling).size))
        return bool(np.all(np.isnan(size) | np.isclose(size, broadcastable(divisor), rtol=1e-6, atol=0.0)))

    def _factors_of(self, rule: OptimizerRule) -> FactorsByName:
        """Returns the factors of all parameters by one rule, which are computed once."""
        if rule not in self._factors:
            alike: dict[Any, Scales] = {}   # `ParameterScaling.of` shares the blocks of parameters of a kind
            scales: dict[tuple[str, RowBlock], Scales] = {}
            for name, scaling in self._scalings.items():
                for block in scaling.row_blocks:
                    kind = id(block), scaling.base.stacks, scaling.target.stacks
                    if kind not in alike:
                        alike[kind] = self._scales(rule, scaling, block)
                    scales[name, block] = alike[kind]

            def numbers(value: Callable[[str, Scales], float]) -> ByName:
                def factor(name: str) -> Factor:
                    return self._scalings[name].factor(lambda block: value(name, scales[name, block]))

                return by_name({name: factor(name) for name in self._scalings})

            # A decay of parameters that the optimizer sees undivided is multiplied like the rest of its update.
            undivided = self._scale_decay and rule.coupling is not Coupling.PARAMETER
            self._factors[rule] = FactorsByName(
                gradient=numbers(lambda name, s: s.gradient),
                update=numbers(lambda name, s: s.update * self._lr_mults.get(name, 1.0)),
                parameter=numbers(lambda name, s: 1.0 if undivided else s.parameter))
        return self._factors[rule]

    def _scales(self, rule: OptimizerRule, scaling: ParameterScaling, block: RowBlock) -> Scales:
        """Computes the scales of a parameter, or of one block of its rows."""
        parametrization = self._parametrization
        parametrization.learning_rate(block.factors, rule.learning_rate)    # raises if there is none
        if parametrization.scales_nothing:
            return Scales()
        if not parametrization.draws and rule.coupling is Coupling.PARAMETER:
            raise MupError(f"{parametrization.name}: rule={rule.name!r} depends on the sizes of parameters, "
                           "and this parametrization leaves their draws as they are")
        if rule.serves_entrywise:
            _check_paired_rates(scaling.target.name, parametrization, block.factors)
        found = rule.scales(_growth(scaling, block, self._shape_scaling))
        if block.role != HIDDEN or rule.coupling is Coupling.PARAMETER:
            return found
        decay = parametrization.step_decay(block.m_in, block.m_out)
        return found._replace(parameter=found.parameter / decay)


def _growth(scaling: ParameterScaling, block: RowBlock, shape_scaling: ShapeScaling | None) -> ParameterGrowth:
    """Returns how a parameter grows, or a block of its rows."""
    base, target = muon.matrices(scaling)
    moments, layers = scaling.target.moments, math.prod(scaling.base.stacks)    # 0 at both, or at neither
    size = entry_size(block.factors, drawn=moments.drawn, zero=moments.std == moments.mean == 0)
    return ParameterGrowth(
        factors=block.factors, size=size, m_in=block.m_in, m_out=block.m_out, base=base, target=target,
        shape_scaling=shape_scaling or ShapeScaling.PLAIN,
        layers=math.prod(scaling.target.stacks) / layers if layers else 1.0)


def _check_paired_rates(name: str, parametrization: Parametrization, factors: Factors) -> None:
    """Raises if gradients / ε's factor, with Adam's learning rates, wouldn't give SGD's learning rates."""
    if not math.isclose(factors.sgd * factors.eps, factors.adam, rel_tol=1e-9):
        raise MupError(f"{name!r}: scale_eps=True needs a table in which SGD's learning rate is Adam's "
                       f"over ε's factor; {parametrization.name} has {factors.sgd:g}, {factors.adam:g} and "
                       f"{factors.eps:g}")


def _merge(names: set[str], factors: FactorsByName, others: FactorsByName) -> FactorsByName:
    """Returns the factors of these names, and other factors of all other names."""
    def merged(field: str) -> ByName:
        return lambda name: getattr(factors if name in names else others, field)(name)

    return FactorsByName(**{field: merged(field) for field in FactorsByName._fields})


def refusal(scalings: Mapping[str, ParameterScaling], parametrization: Parametrization,
            optimizer_rule: OptimizerRule) -> str | None:
    """Returns why a parametrization has no factors for a rule; None if it has them."""
    try:
        OptimizerScaling(None, scalings, parametrization, optimizer_rule)
    except MupError as error:
        return str(error)
    return None
