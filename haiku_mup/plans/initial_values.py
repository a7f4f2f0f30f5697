"""Initial values in μP: draws times the factors of their stds."""
import functools
import math
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax

from haiku_mup.errors import MupError
from haiku_mup.parameters.record import Record
from haiku_mup.parameters.row_factors import Factor, scaled
from haiku_mup.parameters.scaling import ParameterScaling
from haiku_mup.plans.stds import measured_moments
from haiku_mup.plans.trees import check_params, mapped

_UNCERTAIN = 0.05       # share of a factor
Initializers = Mapping[str, Callable[..., Any]]         # (key, shape, dtype) -> array, by the parameter's name


def rescale(scalings: Mapping[str, ParameterScaling], params: Any, initializers: Initializers,
            key: Any = None) -> Any:
    """Returns drawn parameters in μP: see `Plan.rescaled`.

    Args:
      scalings: the parameters of a plan.
      params: a tree that has them; of a module of Flax NNX, a copy is returned.
      initializers: of those that are drawn anew where there is a key.
      key: a random key, or None.

    Raises:
      MupError: other parameters; draws of another std than the plan's target.
    """
    check_params(scalings, params)

    def value(scaling: ParameterScaling, x: Any) -> Any:
        name = scaling.target.name
        if key is not None and name in initializers:
            x = _drawn(initializers[name], jax.random.fold_in(key, zlib.crc32(name.encode())), scaling.target,
                       x.dtype)
        if isinstance(x, jax.ShapeDtypeStruct):
            raise MupError(f"rescaled: {name!r} is a shape; give its array; or key=..., and in the plan "
                           f"its initializer, stds={{{name!r}: jax.nn.initializers.lecun_normal()}}")
        return scaled(x, _factor(scaling, x))

    return mapped(scalings, params, value)


def uncertain_draws(scalings: Mapping[str, ParameterScaling]) -> str:
    """Returns a line on draws whose factors are inexact, since few entries tell their stds; "" for none."""
    errors = {name: math.hypot(scaling.base.moments.error, scaling.target.moments.error)
              for name, scaling in scalings.items()
              if any(block.draw != 1 and not math.isnan(block.draw) for block in scaling.row_blocks)}
    names = [name for name, error in errors.items() if error > _UNCERTAIN]
    if not names:
        return ""
    worst, others = max(names, key=errors.__getitem__), len(names) - 1
    more = f", and of {others} more," if others else ""
    return (f"\nThe std of {worst!r}{more} is measured on few entries, and the factor of its draw known to "
            f"{errors[worst]:.0%}; where that matters, declare it: "
            f"haiku_mup.plan(stds={{{worst!r}: 'constant'}}), 'fan_in', or its initializer")


def _factor(scaling: ParameterScaling, x: Any) -> Factor:
    """Returns the factor of a draw.

    Raises:
      MupError: it is unknown, or the draw is not the target's.
    """
    target = scaling.target
    error = functools.partial(MupError.about, target.name, scaling.base.shape, target.shape)
    if any(math.isnan(block.draw) for block in scaling.row_blocks):
        raise error("its std is unknown, since base or target are shapes; make the plan of arrays, or "
                    f"declare it: haiku_mup.plan(stds={{{target.name!r}: 'fan_in'}}), a number, or its "
                    "initializer")
    now = measured_moments(x)
    tolerance = 5 * (now.error + target.moments.error) + 1e-3
    if scaling.draw != 1 and now.drawn and target.moments.drawn and not math.isnan(now.std) and not (
            abs(now.std - target.moments.std) <= tolerance * max(now.std, target.moments.std)):
        raise error(f"its std is {now.std:.3g}, and that of the plan's target {target.moments.std:.3g}: it "
                    "was rescaled already, or drawn in another way; give it as its initializer draws it")
    return scaling.draw


def _drawn(init: Callable[..., Any], key: Any, target: Record, dtype: Any) -> jax.Array:
    """Returns what an initializer draws for a parameter: for each layer of its stacks by itself."""
    layers = math.prod(target.stacks)
    if not target.stacks:
        x: jax.Array = init(key, target.shape, dtype)
        return x
    stacked: jax.Array = jax.vmap(lambda key: init(key, target.shape, dtype))(jax.random.split(key, layers))
    return stacked.reshape(*target.stacks, *target.shape)
