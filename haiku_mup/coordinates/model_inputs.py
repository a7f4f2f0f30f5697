"""The inputs of a model, found by calling the loss function."""
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
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
      MupError: a loss function that never calls `apply`.

    >>> def loss_fn(apply, params, rng, batch):
    ...     return apply(params, rng, batch, is_training=True).mean()
    >>> inputs = model_inputs(loss_fn, jax.random.PRNGKey(0), jnp.ones((8, 3)))
    >>> [x.shape for x in inputs.arrays], inputs.rebuild(["x"])
    ([(8, 3)], (('x',), {'is_training': True}))
    """
    def apply(params, rng, *args, **kwargs):
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


def _concrete(x: Any) -> Any:
    """Returns an array as it is, and zeros of its shape for a tracer, which its transformation would miss."""
    return np.zeros(x.shape, x.dtype) if isinstance(x, jax.core.Tracer) else x
