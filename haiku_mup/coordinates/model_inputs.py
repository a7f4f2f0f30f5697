"""The inputs of a model: what a loss function first calls it with."""
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from haiku_mup.errors import MupError


class Inputs(NamedTuple):
    """The inputs of a model: arrays, and what else it was called with."""

    arrays: list[Any]
    rebuild: Callable[[Sequence[Any]], tuple[tuple[Any, ...], dict[str, Any]]]

    def shapes(self, model: Any, key: Any) -> Any:
        """The shapes that the model's init gives."""
        return jax.eval_shape(lambda key, arrays: self.init(model, key, arrays), key, self.arrays)

    def init(self, model: Any, key: Any, arrays: Sequence[Any]) -> Any:
        """What the model's init gives for arrays like these."""
        args, kwargs = self.rebuild(arrays)
        return model.init(key, *args, **kwargs)


class _Called(BaseException):
    """Carries the inputs of a model out of the loss function that calls it."""


def inputs(loss_fn: Any, rng: Any, batch: Any) -> Inputs:
    """What the loss function first calls the model with.

    Raises:
      MupError: a loss function that never calls it.
    """
    def apply(params, rng, *args, **kwargs):
        raise _Called(args, kwargs)

    try:
        loss_fn(apply, {}, rng, batch)
    except _Called as called:
        leaves, tree = jax.tree.flatten(called.args)
    else:
        raise MupError("loss_fn(apply, params, rng, batch) never called apply(params, rng, *inputs)")
    at = [i for i, leaf in enumerate(leaves) if hasattr(leaf, "shape") and hasattr(leaf, "dtype")]
    arrays = [_concrete(leaves[i]) for i in at]

    def rebuild(arrays):
        filled = list(leaves)
        for i, array in zip(at, arrays):
            filled[i] = array
        args, kwargs = jax.tree.unflatten(tree, filled)
        return args, kwargs

    return Inputs(arrays, rebuild)


def _concrete(x: Any) -> Any:
    """The array; zeros, where it only exists inside a transformation."""
    return np.zeros(x.shape, x.dtype) if isinstance(x, jax.core.Tracer) else x
