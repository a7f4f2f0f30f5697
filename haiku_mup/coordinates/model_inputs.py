"""The inputs of a model, found by calling the loss function; and checks of models and losses."""
import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from haiku_mup.errors import MupError


class ModelInputs(NamedTuple):
    """The inputs of a model's init: arrays, which may be traced, and all else that it is called with.

    Attributes:
      arrays: the arrays among the inputs.
      rebuild: a function from such arrays to the (args, kwargs) of the call.
    """

    arrays: list[Any]
    rebuild: Callable[[Sequence[Any]], tuple[tuple[Any, ...], dict[str, Any]]]

    def shapes(self, model: Any, key: Any) -> Any:
        """Returns the shapes of what the model's init returns."""
        return jax.eval_shape(lambda key, arrays: self.init(model, key, arrays), key, self.arrays)

    def init(self, model: Any, key: Any, arrays: Sequence[Any]) -> Any:
        """Returns what the model's init returns for arrays like these."""
        args, kwargs = self.rebuild(arrays)
        return model.init(key, *args, **kwargs)


class _Called(BaseException):
    """Carries the inputs out of a loss function; no `except Exception` of the user's catches it."""


def model_inputs(loss_fn: Any, rng: Any, batch: Any) -> ModelInputs:
    """Returns the inputs with which a loss function first calls the model.

    Args:
      loss_fn: ``loss_fn(apply, params, rng, batch)``, as `coord_check` takes it.
      rng: a random key.
      batch: what the loss function gets.

    Raises:
      MupError: a loss function of other arguments, or that never calls `apply`, or without a place for a key.

    >>> def loss_fn(apply, params, rng, batch):
    ...     return apply(params, rng, batch, is_training=True).mean()
    >>> inputs = model_inputs(loss_fn, jax.random.PRNGKey(0), jnp.ones((8, 3)))
    >>> [x.shape for x in inputs.arrays], inputs.rebuild(["x"])
    ([(8, 3)], (('x',), {'is_training': True}))
    """
    _check_loss_fn(loss_fn)

    def apply(params, rng=None, *args, **kwargs):
        _check_key(rng)
        raise _Called(args, kwargs)

    try:
        loss_fn(apply, {}, rng, batch)
    except _Called as called:
        leaves, tree = jax.tree.flatten(called.args)
    else:
        raise MupError("loss_fn(apply, params, rng, batch) never called apply(params, rng, *inputs)")
    places = [i for i, leaf in enumerate(leaves) if hasattr(leaf, "shape") and hasattr(leaf, "dtype")]

    def rebuild(arrays):
        filled = list(leaves)
        for i, array in zip(places, arrays):
            filled[i] = array
        args, kwargs = jax.tree.unflatten(tree, filled)
        return args, kwargs

    return ModelInputs([_concrete(leaves[i]) for i in places], rebuild)


def _check_loss_fn(loss_fn: Any) -> None:
    """Raises for a loss function that can't be called with (apply, params, rng, batch)."""
    try:
        inspect.signature(loss_fn, follow_wrapped=False).bind(None, None, None, None)
    except TypeError as error:
        raise MupError(f"loss_fn is no function of (apply, params, rng, batch): {error}; write "
                       "def loss_fn(apply, params, rng, batch), which calls apply(params, rng, *inputs) and "
                       "returns a scalar") from error
    except ValueError:      # a function without a signature
        pass


def _concrete(x: Any) -> Any:
    """Returns an array as it is, and zeros of its shape for a tracer, which its transformation would miss."""
    return np.zeros(x.shape, x.dtype) if isinstance(x, jax.core.Tracer) else x


def _check_key(rng: Any) -> None:
    """Raises if an array that can't be a random key is where `apply` takes one."""
    leaves = [x for x in jax.tree.leaves(rng) if hasattr(x, "shape") and hasattr(x, "dtype")]
    if all(jnp.issubdtype(x.dtype, jax.dtypes.prng_key) or x.dtype == np.uint32 or not x.shape for x in leaves):
        return
    raise MupError("loss_fn called apply(params, inputs): write apply(params, rng, *inputs), for models of "
                   "hk.without_apply_rng, too")


def check_loss(loss: Any) -> None:
    """Raises if what a loss function returned is not a scalar.

    >>> check_loss(jnp.ones(()))
    """
    if not hasattr(loss, "shape") or loss.shape != () or not jnp.issubdtype(loss.dtype, jnp.floating):
        kind = f"an array {loss.shape}" if hasattr(loss, "shape") else f"a {type(loss).__name__}"
        raise MupError(f"loss_fn returned {kind}; a scalar is needed, such as the mean over the batch")


def has_state(model: Any) -> bool:
    """Returns whether a model's init returns a state beside the parameters.

    >>> def fn(x):
    ...     return hk.Linear(3)(x)
    >>> has_state(hk.transform(fn)), has_state(hk.transform_with_state(fn))
    (False, True)
    """
    return isinstance(model, (hk.TransformedWithState, hk.MultiTransformedWithState))


def check_model(model: Any) -> None:
    """Raises for what is no model, or one of several functions.

    >>> check_model(hk.transform(lambda x: hk.Linear(3)(x)))
    """
    kind = type(model).__name__
    if not (hasattr(model, "init") and hasattr(model, "apply")):
        raise MupError(f"make_model returned {kind}; it must return what hk.transform or "
                       "hk.transform_with_state returns. For a pair (init, apply) of another framework, "
                       "give plan=, too")
    if not callable(model.apply):
        transform = "hk.transform_with_state" if has_state(model) else "hk.transform"
        raise MupError(
            f"make_model returned {kind}, a model of several functions; return one function that computes what "
            f"the loss needs: {transform}(lambda *inputs: fn()[0](*inputs)), where fn is what hk.multi_"
            "transform was given, or a function that calls several of them; the loss calls "
            "apply(params, rng, *inputs)")


def check_make_model(make_model: Any) -> None:
    """Raises for a model in place of a function that makes one.

    >>> check_make_model(lambda width: hk.transform(hk.Linear(width)))
    """
    if not callable(make_model):
        raise MupError(f"make_model is a {type(make_model).__name__}; give a function from a width to a model, "
                       "such as lambda width: hk.transform(functools.partial(fn, width=width))")


def check_plan(plan: Any, function: str) -> None:
    """Raises for a plan in place of a function that makes one; None is no plan.

    >>> check_plan(haiku_mup.plan, "coord_check")
    """
    if plan is not None and not callable(plan):
        raise MupError(f"{function}: plan is a {type(plan).__name__}; give a function from the trees of base "
                       "and target to a haiku_mup.Plan, such as functools.partial(haiku_mup.plan, "
                       "readouts=...)")


def as_widths(widths: Iterable[int], function: str) -> list[int]:
    """Returns widths without duplicates, ascending.

    Args:
      widths: whole numbers.
      function: what the user called, for the error.

    Raises:
      MupError: no list of whole numbers.

    >>> as_widths([128, 64, 64], "lr_sweep")
    [64, 128]
    """
    try:
        given = list(widths)
        if all(not isinstance(width, str) and width == int(width) for width in given):
            return sorted(set(map(int, given)))
    except (TypeError, ValueError, OverflowError):
        pass
    raise MupError(f"{function}: widths={widths!r}: give a list of whole numbers, such as [64, 128, 256]")
