"""The learning rates of a captured model: their factors, alone or around an optimizer."""
import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, Literal

import jax
import numpy as np
import optax

from haiku_mup.errors import MupError
from haiku_mup.optimizers.factors import OptimizerScaling
from haiku_mup.optimizers.mismatch import MismatchCheck
from haiku_mup.optimizers.tree_names import HAIKU_NAMES, TreeNames, naming
from haiku_mup.optimizers.trees import by_name, check_params
from haiku_mup.optimizers.wrapper import is_wrapped, scale_optimizer, scale_updates
from haiku_mup.parameters.declarations import Declarations
from haiku_mup.parameters.globs import multipliers_by_name, parse_multipliers
from haiku_mup.parameters.row_factors import Factor, broadcastable
from haiku_mup.parameters.scaling import ParameterScaling
from haiku_mup.parameters.summary_table import Row
from haiku_mup.rules import Parametrization
from haiku_mup.rules import optimizers as optimizer_rules
from haiku_mup.rules.run_scale import RunScale
from haiku_mup.tracing.warn_once import warn_once


@dataclasses.dataclass(frozen=True, kw_only=True)
class LearningRates:
    """The learning rates of a captured model's parameters, and the optimizers that are wrapped in them.

    Attributes:
      scalings: the parameters, by name.
      parametrization: the model's parametrization.
      lr_mults: the user's {glob over "module/name": multiplier}.
      names: the names of the leaves of trees.
    """

    scalings: Mapping[str, ParameterScaling]
    parametrization: Parametrization
    lr_mults: Mapping[str, float]
    names: TreeNames = HAIKU_NAMES

    def with_multipliers(self, lr_mults: Mapping[str, float]) -> "LearningRates":
        """Returns the learning rates with other multipliers from the user."""
        return dataclasses.replace(self, lr_mults=lr_mults)

    def multipliers(self) -> dict[str, float]:
        """Returns the user's multiplier of each parameter's learning rate, by name."""
        return multipliers_by_name(self.scalings, self.lr_mults, "lr_mults")

    def factors(self, adam: bool) -> dict[str, Factor]:
        """Returns the factor of each parameter's learning rate, for Adam or for SGD.

        Raises:
          MupError: a parametrization without learning rates for it.
        """
        check_adam(adam)
        rate, multipliers = self.parametrization.learning_rate, self.multipliers()
        optimizer: Literal["adam", "sgd"] = "adam" if adam else "sgd"
        return {name: scaling.factor(lambda block, x=multipliers[name]:         # type: ignore[misc]
                                     rate(block.factors, optimizer) * x)
                for name, scaling in self.scalings.items()}

    def as_tree(self, adam: bool) -> Any:
        """Returns the factors as numbers that broadcast to the parameters, in a tree like theirs."""
        factors = self.factors(adam)
        return self.names.tree(self.scalings, lambda scaling: broadcastable(factors[scaling.target.name]))

    def rows(self) -> list[Row]:
        """Returns the rows of `Mup.table`, which show these learning rates."""
        multipliers = self.multipliers()
        return [row for name, scaling in self.scalings.items() for row in Row.of(scaling, multipliers[name])]

    def scale_updates(self, adam: bool) -> optax.GradientTransformationExtraArgs:
        """Returns a transform that multiplies each parameter's update by the factor of its learning rate."""
        self._require_factors("scale_updates", optimizer_rules.ADAM)
        return scale_updates(by_name(self.factors(adam)), functools.partial(check_params, self.scalings),
                             self.names)

    def muon_dimensions(self, params: Any) -> Any:
        """Returns a tree for optax.contrib.muon; see `Mup.muon_dimensions`."""
        from haiku_mup.optimizers import muon  # for those who use it

        with naming(self.names):
            return muon.dimension_numbers(self.scalings, params)

    def wrap(self, optimizer: Any, *, adam: bool, rule: str | None, scale_decay: bool,
             scale_eps: bool) -> optax.GradientTransformationExtraArgs:
        """Returns an optimizer with each parameter's learning rate multiplied; see `Mup.wrap_optimizer`.

        Args:
          optimizer: any optax optimizer.
          adam, rule, scale_decay, scale_eps: as in `Mup.wrap_optimizer`.
        """
        check_adam(adam)
        optimizer_rule = optimizer_rules.choose(rule, adam, scale_eps)
        self._require_factors("wrap_optimizer", optimizer_rule)
        if is_wrapped(optimizer):
            raise MupError("wrap_optimizer: this optimizer is wrapped already; wrap the plain one, once")
        factors = OptimizerScaling(optimizer, self.scalings, self.parametrization, optimizer_rule,
                                   scale_decay=scale_decay, lr_mults=self.multipliers())
        check_rule = MismatchCheck(optimizer, factors, self.scalings, self.parametrization,
                                   adam=adam, rule=rule)
        with naming(self.names):
            check_rule(self.names.tree(
                self.scalings, lambda s: jax.ShapeDtypeStruct(s.target.shape, "float32")))

        def check(params):
            """Checks parameters as the state is made."""
            check_params(self.scalings, params)
            check_rule(params)

        return scale_optimizer(optimizer, factors, check, self.names)

    def _require_factors(self, function: str, optimizer_rule: optimizer_rules.OptimizerRule) -> None:
        """Raises if a plain optimizer of this rule trains the wrapped model.

        Args:
          function: what the user called.
          optimizer_rule: the rule.
        """
        if self.parametrization.plain and optimizer_rule.entrywise:
            raise MupError(f"{function}: in {self.parametrization.name} {self.parametrization.reason}")


def wrap_declared(rates: LearningRates, declarations: Declarations, warned: set[str], optimizer: Any, *,
                  lr_mults: Mapping[str, float] | None, run_scale: RunScale | None, **options: Any,
                  ) -> tuple[optax.GradientTransformationExtraArgs, Declarations]:
    """Wraps an optimizer for a captured model, as `Mup.wrap_optimizer` and `Plan.wrap_optimizer` do.

    Args:
      rates: the model's learning rates.
      declarations: what the user says of the model.
      warned: the kinds of warning that were given.
      optimizer: any optax optimizer.
      lr_mults, run_scale: as in `Mup.wrap_optimizer`.
      options: its other arguments, which `LearningRates.wrap` takes.

    Returns:
      The wrapped optimizer, and the declarations with these multipliers and this run.

    Raises:
      MupError: what `Mup.wrap_optimizer` raises of its arguments.
    """
    if lr_mults is not None:
        declarations = declarations._replace(lr_mults=parse_multipliers("lr_mults", lr_mults))
        rates = rates.with_multipliers(declarations.lr_mults)
    if run_scale is not None:
        declarations = declarations.with_run_scale(run_scale)
    wrapped = rates.wrap(optimizer, **options)
    for doubt in run_scale.doubts if run_scale else ():
        warn_once(warned, "run scale", f"wrap_optimizer(run_scale=...): {doubt}")
    return wrapped, declarations


def check_adam(adam: Any) -> None:
    """Raises MupError unless `adam` is a bool."""
    if not isinstance(adam, (bool, np.bool_)):
        raise MupError(f"adam={adam!r}: give True for Adam's factors, or False for SGD's")
