"""The factors of the forward pass: on the parameters themselves, or on the inputs of their layers."""
from collections.abc import Callable, Mapping
from typing import Any

from haiku_mup.parameters.haiku_layers import TIED
from haiku_mup.parameters.row_factors import broadcastable, map_factor, scale_gradient, scaled
from haiku_mup.parameters.scaling import ParameterScaling
from haiku_mup.plans.trees import check_params, mapped


def needs_factor(scaling: ParameterScaling) -> bool:
    """Returns whether the forward pass of a model has a factor for a parameter or its product."""
    factors = scaling.runtime_factors
    return scaling.multiplier != 1 or factors.forward != 1 or factors.gradient != 1


def multiplier_of(scaling: ParameterScaling) -> Any:
    """Returns the forward multiplier of a parameter, or of its product: see `Plan.multiplier`."""
    if scaling.target.layer == TIED:
        return scaling.multiplier
    return broadcastable(map_factor(lambda forward: forward * scaling.multiplier,
                                    scaling.runtime_factors.forward))


def multiply(scalings: Mapping[str, ParameterScaling], params: Any, note: Callable[[str], None]) -> Any:
    """Returns the parameters times their forward multipliers: see `Plan.multiplied`.

    Args:
      scalings: the parameters of a plan.
      params: a tree that has them; of a module of Flax NNX, a copy is returned.
      note: is told the name of each parameter that has its whole factor now.

    Raises:
      MupError: other parameters.
    """
    check_params(scalings, params)

    def value(scaling: ParameterScaling, x: Any) -> Any:
        tied, factors = scaling.target.layer == TIED, scaling.runtime_factors
        if not tied:                    # a table's logits have another, for `Plan.readout`
            note(scaling.target.name)
        multiplier = 1.0 if tied else factors.multiplier
        x = scaled(x, map_factor(lambda forward: forward * multiplier, factors.forward))
        return x if factors.gradient == 1 else scale_gradient(x, factors.gradient)

    return mapped(scalings, params, value)
