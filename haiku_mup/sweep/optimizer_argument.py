"""Checks the optimizer of a sweep: a function of the learning rate, which uses the rate."""
import warnings
from typing import Any

import jax
import numpy as np

from haiku_mup.errors import MupError, MupWarning
from haiku_mup.optimizers.synthetic_runs import Run, RunShape, Updates, try_runs
from haiku_mup.optimizers.wrapper import passing_extra_args

TRIED_RATES = 2**-10, 2**-8     # so far apart that an ε can neither hide the difference nor make it
TRIED_STEPS = 1, 128            # that move parameters
# A clip may act at one of these gradients, and a tiny step is lost beside a parameter of 1.
RUNS = [Run(params=params, gradient=gradient) for params in (0.0, 1.0) for gradient in (1.0, 1e-2)]


def is_optimizer(x: Any) -> bool:
    """Returns whether this is an optax optimizer, and not a function that makes one.

    >>> is_optimizer(optax.adam(1e-3)), is_optimizer(optax.adam)
    (True, False)
    """
    return hasattr(x, "init") and hasattr(x, "update")


def check_function_of_rate(function: Any) -> None:
    """Raises for an optimizer in place of a function of the learning rate.

    >>> check_function_of_rate(optax.adam)
    """
    if is_optimizer(function):
        raise MupError("training: optimizer has its learning rate already; give a function of the rate, such "
                       "as optax.adam in place of optax.adam(1e-3), or lambda lr: "
                       "optax.chain(optax.clip(1.0), optax.adam(lr))")
    if not callable(function):
        raise MupError(f"training: optimizer is a {type(function).__name__}; give a function of the learning "
                       "rate, such as optax.adam")


def check_made_optimizer(optimizer: Any) -> None:
    """Raises if a function of the learning rate returned something other than an optimizer.

    >>> check_made_optimizer(optax.adam(1e-3))
    """
    if not is_optimizer(optimizer):
        raise MupError(f"training: the optimizer's function returned a {type(optimizer).__name__}; give a "
                       "function of the learning rate that returns an optax optimizer, such as optax.adam")


def warn_of_unused_rate(function: Any, params: Any) -> None:
    """Warns if updates don't depend on the learning rate, so that all rates of a sweep are one.

    Either the optimizer's function ignores the rate, or what comes behind the rate normalizes it away. An
    optimizer that can't be tried on these parameters passes.

    Args:
      function: from a learning rate to an optimizer.
      params: the shapes of parameters.

    >>> warn_of_unused_rate(optax.adam, {"linear": {"w": jax.ShapeDtypeStruct((2, 3), "float32")}})
    """
    if not _traces_rate(function, params):
        warnings.warn("training: the optimizer doesn't depend on the learning rate that its function is given, "
                      "so all rates are the same to it; pass the rate on, as in lambda lr: optax.adam(lr)",
                      MupWarning, stacklevel=4)     # the call of the Training
    elif not _rate_moves_updates(function, params):
        low, high = TRIED_RATES
        warnings.warn(f"training: the optimizer's updates are the same at learning rates of {low:.1g} and "
                      f"{high:.1g}, since it normalizes what the rate has multiplied; multiply by the rate "
                      "last, as in optax.chain(optax.scale_by_adam(), optax.scale_by_learning_rate(lr)), or, "
                      "with optax.contrib.cocob, vary its alpha", MupWarning, stacklevel=4)


def _traces_rate(function: Any, params: Any) -> bool:
    """Returns whether an optimizer's program has the learning rate in it."""
    def step(rate: Any, params: Any) -> Any:
        optimizer = passing_extra_args(function(rate))
        state = optimizer.init(params)
        return state, optimizer.update(params, state, params, value=1.0)

    try:
        jaxpr = jax.make_jaxpr(step)(1e-3, params).jaxpr
    except Exception:       # an optimizer that needs more than gradients and parameters may raise anything
        return True
    rate = jaxpr.invars[0]
    return any(v is rate for users in (*(eqn.invars for eqn in jaxpr.eqns), jaxpr.outvars) for v in users)


def _rate_moves_updates(function: Any, params: Any) -> bool:
    """Returns whether an optimizer's updates differ at two learning rates.

    A schedule may begin at a value of its own. So updates that are equal at first are tried for longer.
    """
    try:
        for steps in TRIED_STEPS:
            low, high = (try_runs(passing_extra_args(function(rate)), params, RUNS, RunShape.SMALL, steps)
                         for rate in TRIED_RATES)
            if _differ(low, high) or not any(updates.last.any() for updates in low.values()):
                return True
    except Exception:       # likewise
        return True
    return False


def _differ(low: dict[str, Updates], high: dict[str, Updates]) -> bool:
    """Returns whether some update of one run differs from the other's by more than what an ε adds."""
    return any(x.shape != y.shape or not np.allclose(x, y, rtol=0.5, atol=0.0, equal_nan=True)
               for x, y in ((low[name].history, high[name].history) for name in low))
