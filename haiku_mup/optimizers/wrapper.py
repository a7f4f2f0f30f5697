"""Per-parameter scaling of an optax optimizer, a black box."""
import contextlib
import contextvars
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from haiku_mup.errors import MupError
from haiku_mup.optimizers.trees import ByName, is_masked, named_leaves, scale_by_names
from haiku_mup.parameters.factors import mapped

_MARK = "_haiku_mup"
_inside = contextvars.ContextVar("inside a wrapped optimizer", default=False)


def scale_by_name(factor: ByName, check: Callable[[Any], None] = lambda params: None,
                  ) -> optax.GradientTransformationExtraArgs:
    """Multiplies each parameter's update by a number that its name gives; no state.

    Args:
      factor: from "module/name" to a Python float, or to `scale.Rows`.
      check: called with the parameters as the state is made.

    >>> t = scale_by_name(lambda name: 0.5 if name == "linear/w" else 1.0)
    >>> updates = {"linear": {"w": jnp.ones(2), "b": jnp.ones(2)}}
    >>> t.update(updates, t.init(updates))[0]["linear"]["w"]
    Array([0.5, 0.5], dtype=float32)
    """
    def update(updates, state, params=None, **extra):
        del params, extra
        return scale_by_names(factor, updates), state

    def init(params):
        _check_outermost()
        if jax.tree.leaves(params):
            check(params)
        return optax.EmptyState()

    return optax.GradientTransformationExtraArgs(init, update)


class FactorsByName(NamedTuple):
    """What is done around an optimizer, by a parameter's name.

    Attributes:
      gradient: what multiplies the gradients that it sees.
      update: what multiplies its updates.
      parameter: what divides the parameters that it sees.
    """

    gradient: ByName
    update: ByName
    parameter: ByName


def scale_optimizer(optimizer: Any, around: Callable[[Any, Callable[[], Any]], FactorsByName],
                    check: Callable[[Any], None]) -> optax.GradientTransformationExtraArgs:
    """An optimizer, a black box, with factors for each parameter's gradient, its update and itself.

    Where the optimizer works on p' = p / s and its update is multiplied by s, that is p's update. What it
    takes from gradients is so multiplied by s, and what it takes from p itself, its decay, is not. Its
    state is the inner optimizer's own.

    Args:
      optimizer: any optax optimizer.
      around: from a tree and a function that gives the optimizer's state, to the factors.
      check: called with the parameters as the state is made.
    """
    inner = extra_args(optimizer)

    def shrunk(params, factor):
        return scale_by_names(lambda name: mapped(lambda x: 1 / x, factor(name)), params)

    def init(params):
        _check_outermost()
        if jax.tree.leaves(params):     # optax.tree_map_params asks what becomes of a tree that has none
            check(params)
        with inside():
            return inner.init(shrunk(params, around(
                params, lambda: jax.eval_shape(inner.init, params)).parameter))

    def update(updates, state, params=None, **extra):
        gradient, factor, parameter = around(updates, lambda: state)
        if any(map(callable, extra.values())) and any(
                parameter(name) != 1 for name, x in named_leaves(updates) if not is_masked(x)):
            raise MupError(f"the wrapped optimizer was given a function ({', '.join(extra)}) of parameters, "
                           "and works on rescaled ones; put what needs it, such as a line search, outside: "
                           "chain(wrap_optimizer(…), …)")
        params = None if params is None else shrunk(params, parameter)
        updates, state = inner.update(scale_by_names(gradient, updates), state, params, **extra)
        return scale_by_names(factor, updates), state

    setattr(update, _MARK, True)
    return optax.GradientTransformationExtraArgs(init, update)


@contextlib.contextmanager
def inside():
    """Marks that an optimizer with μP's factors calls the one inside it."""
    token = _inside.set(True)
    try:
        yield
    finally:
        _inside.reset(token)


def _check_outermost() -> None:
    if _inside.get():
        raise MupError("an optimizer with μP's factors is inside another that has them, so they would act "
                       "twice; wrap once: wrap_optimizer(optax.chain(…)), or chain(…, wrap_optimizer(…))")


def is_wrapped(optimizer: Any) -> bool:
    """Whether `scale_optimizer` made it."""
    return hasattr(getattr(optimizer, "update", None), _MARK)


def extra_args(optimizer: Any) -> optax.GradientTransformationExtraArgs:
    """Any optax optimizer, as one that takes extra arguments."""
    if hasattr(optimizer, "gradient_transformation"):       # optax.MultiSteps
        optimizer = optimizer.gradient_transformation()
    if not isinstance(optimizer, optax.GradientTransformation):
        raise MupError(f"{type(optimizer).__name__} is not an optax optimizer: give wrap_optimizer a "
                       "GradientTransformation, such as optax.adam(1e-3)")
    return optax.with_extra_args_support(optimizer)
