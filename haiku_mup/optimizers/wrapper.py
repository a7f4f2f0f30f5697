"""Wraps an optax optimizer, a black box, in factors for each parameter."""
import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import optax

from haiku_mup.errors import MupError
from haiku_mup.optimizers.tree_names import HAIKU_NAMES, TreeNames, with_names
from haiku_mup.optimizers.trees import ByName, multiply_by_name, named_leaves
from haiku_mup.parameters.row_factors import map_factor
from haiku_mup.parameters.tree_paths import is_masked

_MARK = "_haiku_mup"            # an attribute of a wrapped optimizer's update function
_is_inside = contextvars.ContextVar("inside a wrapped optimizer", default=False)


class FactorsByName(NamedTuple):
    """Factors around an optimizer, each a function of a parameter's name.

    Attributes:
      gradient: multiplier of the gradients that it sees.
      update: multiplier of its updates.
      parameter: divisor of the parameters that it sees.
    """

    gradient: ByName
    update: ByName
    parameter: ByName


def scale_updates(factor: ByName, check: Callable[[Any], None] = lambda params: None,
                  names: TreeNames = HAIKU_NAMES) -> optax.GradientTransformationExtraArgs:
    """Returns a transformation that multiplies each parameter's update by its name's factor. It has no state.

    Args:
      factor: from "module/name" to a Python float, or to one for each block of rows.
      check: called with the parameters when the state is made.
      names: the names of the leaves of trees.

    >>> t = scale_updates(lambda name: 0.5 if name == "linear/w" else 1.0)
    >>> updates = {"linear": {"w": jnp.ones(2), "b": jnp.ones(2)}}
    >>> t.update(updates, t.init(updates))[0]["linear"]["w"]
    Array([0.5, 0.5], dtype=float32)
    """
    def update(updates, state, params=None, **extra):
        del params, extra
        return multiply_by_name(factor, updates), state

    def init(params):
        _check_outermost()
        if jax.tree.leaves(params):
            check(params)
        return optax.EmptyState()

    return optax.GradientTransformationExtraArgs(with_names(names, init), with_names(names, update))


def scale_optimizer(optimizer: Any, find_factors: Callable[[Any, Callable[[], Any]], FactorsByName],
                    check: Callable[[Any], None], names: TreeNames = HAIKU_NAMES,
                    ) -> optax.GradientTransformationExtraArgs:
    """Returns an optimizer with factors of each parameter's gradient, of its update, and of the parameter.

    The optimizer works on p' = p / s, and its update, × s, is that of p. So the part of the update that it
    makes of gradients is multiplied by s, and the part that it makes of p itself, its decay, is not. The state
    is the inner optimizer's own.

    Args:
      optimizer: any optax optimizer.
      find_factors: from a tree and a function that returns the optimizer's state, to the factors.
      check: called with the parameters when the state is made.
      names: the names of the leaves of trees.
    """
    inner = extra_args(optimizer)

    def init(params):
        _check_outermost()
        if jax.tree.leaves(params):     # optax.tree_map_params makes a state of a tree without leaves
            check(params)
        with inside():
            factors = find_factors(params, lambda: jax.eval_shape(inner.init, params))
            return inner.init(_divide(params, factors.parameter))

    def update(updates, state, params=None, **extra):
        factors = find_factors(updates, lambda: state)
        extra = _without_functions(extra, updates, factors.parameter)
        params = None if params is None else _divide(params, factors.parameter)
        updates, state = inner.update(multiply_by_name(factors.gradient, updates), state, params, **extra)
        return multiply_by_name(factors.update, updates), state

    named_update = with_names(names, update)
    setattr(named_update, _MARK, True)
    return optax.GradientTransformationExtraArgs(with_names(names, init), named_update)


def _divide(params: Any, divisor: ByName) -> Any:
    """Divides each parameter by its name's factor."""
    return multiply_by_name(lambda name: map_factor(lambda x: 1 / x, divisor(name)), params)


def _without_functions(extra: dict[str, Any], updates: Any, parameter: ByName) -> dict[str, Any]:
    """Returns extra arguments in which functions raise: they are of parameters, which are divided inside.

    An optimizer that doesn't call them is right: optax.chain gives each argument to each of its members.
    """
    if not any(parameter(name) != 1 for name, x in named_leaves(updates) if not is_masked(x)):
        return extra

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise MupError(f"the wrapped optimizer was given a function of parameters ({', '.join(extra)}), and "
                       "would call it on rescaled ones; put what needs the function, such as a line search, "
                       "outside: "
                       "chain(wrap_optimizer(…), …)")

    return {name: refuse if callable(x) else x for name, x in extra.items()}


@contextlib.contextmanager
def inside() -> Iterator[None]:
    """Marks calls of the optimizer inside a wrapped one, where no other may be wrapped."""
    token = _is_inside.set(True)
    try:
        yield
    finally:
        _is_inside.reset(token)


def _check_outermost() -> None:
    """Raises inside another wrapped optimizer."""
    if _is_inside.get():
        raise MupError("a wrapped optimizer is inside another one, so μP's factors would act twice; wrap "
                       "once: wrap_optimizer(optax.chain(…)), or chain(…, wrap_optimizer(…))")


def is_wrapped(optimizer: Any) -> bool:
    """Returns whether `scale_optimizer` made an optimizer."""
    return hasattr(getattr(optimizer, "update", None), _MARK)


def extra_args(optimizer: Any) -> optax.GradientTransformationExtraArgs:
    """Converts any optax optimizer to one that takes extra arguments, such as the loss as `value`.

    Raises:
      MupError: it is no optax optimizer.
    """
    if not isinstance(optimizer, (optax.GradientTransformation, optax.MultiSteps)):
        raise MupError(f"{type(optimizer).__name__} is not an optax optimizer: give wrap_optimizer a "
                       "GradientTransformation, such as optax.adam(1e-3)")
    return passing_extra_args(optimizer)


def passing_extra_args(optimizer: Any) -> optax.GradientTransformationExtraArgs:
    """Converts anything with optax's init and update, as `extra_args` does.

    >>> optimizer = passing_extra_args(optax.sgd(0.5))
    >>> optimizer.update(2.0, optimizer.init(1.0), 1.0, value=3.0)[0]
    -1.0
    """
    multi_steps = getattr(optimizer.update, "__self__", None)
    if isinstance(multi_steps, optax.MultiSteps):       # its gradient_transformation() drops extra arguments
        update: Any = multi_steps.update
        return optax.GradientTransformationExtraArgs(multi_steps.init, update)
    return optax.with_extra_args_support(optimizer)
