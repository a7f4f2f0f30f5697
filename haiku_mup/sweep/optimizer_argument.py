"""Checks the optimizer of a sweep: a function of the learning rate, which uses the rate."""
import warnings
from typing import Any

import jax

from haiku_mup.errors import MupError, MupWarning
from haiku_mup.optimizers.wrapper import passing_extra_args


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
    """Warns if an optimizer doesn't depend on its learning rate, so that all rates of a sweep are one.

    An optimizer that can't be tried on these parameters passes.

    Args:
      function: from a learning rate to an optimizer.
      params: the shapes of parameters.

    >>> warn_of_unused_rate(optax.adam, {"linear": {"w": jax.ShapeDtypeStruct((2, 3), "float32")}})
    """
    def step(rate, params):
        optimizer = passing_extra_args(function(rate))
        state = optimizer.init(params)
        return state, optimizer.update(params, state, params, value=1.0)

    try:
        jaxpr = jax.make_jaxpr(step)(1e-3, params).jaxpr
    except Exception:       # an optimizer that needs more than gradients and parameters may raise anything
        return
    rate = jaxpr.invars[0]
    if not any(v is rate for users in (*(eqn.invars for eqn in jaxpr.eqns), jaxpr.outvars) for v in users):
        warnings.warn("training: the optimizer doesn't depend on the learning rate that its function is given, "
                      "so all rates are the same to it; pass the rate on, as in lambda lr: optax.adam(lr)",
                      MupWarning, stacklevel=4)     # the call of the Training
