"""Checks what is given as a batch or as data: arrays, not iterators over batches."""
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from haiku_mup.errors import MupError


def as_arrays(tree: Any, name: str, remedy: str) -> Any:
    """Returns a tree of arrays: those of other libraries become NumPy's.

    Args:
      tree: arrays, numbers, and lists, tuples and dicts of them.
      name: of the argument, for the error.
      remedy: what to give in place of an iterator, for the error.

    Raises:
      MupError: something that is no array, such as an iterator.

    >>> as_arrays({"x": np.ones(2), "y": [1, 2]}, "data", "")
    {'x': array([1., 1.]), 'y': [1, 2]}
    """
    # JAX warns of iterators unless they are said to be leaves.
    return jax.tree.map(lambda leaf: _as_array(leaf, name, remedy), tree,
                        is_leaf=lambda x: isinstance(x, Iterator))


def as_batches(batch: Any, steps: int, fix_batch: bool) -> list[Any]:
    """Returns the batch of each step of a coordinate check.

    Args:
      batch: one batch, or, with fix_batch=False, a sequence or an iterator of them.
      steps: the number of steps.
      fix_batch: whether all steps see the same batch.

    Raises:
      MupError: a function, or an iterator where one batch is wanted.

    >>> as_batches(itertools.repeat(np.ones(2)), 2, fix_batch=False)
    [array([1., 1.]), array([1., 1.])]
    """
    if callable(batch):
        raise MupError("coord_check: batch is a function; give what it returns, such as "
                       "data(jax.random.key(0), 0)")
    if fix_batch:
        return [as_arrays(batch, "coord_check: batch", "give one batch, next(iterator)")] * steps
    # An iterator may be endless; of what has a length, too many batches are a mistake.
    whole = isinstance(batch, Sequence) or hasattr(batch, "shape")
    several = list(batch) if whole else list(itertools.islice(batch, max(steps, 0)))
    return [as_arrays(one, "coord_check: batch", f"give {steps} batches") for one in several]


def _as_array(leaf: Any, name: str, remedy: str) -> Any:
    """Returns an array or a number as it is; converts what NumPy can convert to an array."""
    if isinstance(leaf, jax.Array) and jax.typeof(leaf).sharding.mesh.explicit_axes:
        return np.asarray(leaf)         # parameters are drawn outside of the batch's mesh, and would not fit it
    if isinstance(leaf, (jax.Array, np.ndarray, np.generic, bool, int, float, complex)):
        return leaf
    if hasattr(leaf, "__array__"):
        return np.asarray(leaf)
    kind = type(leaf).__name__
    if isinstance(leaf, Iterable) and not isinstance(leaf, (str, bytes)):
        raise MupError(f"{name} is or has a {kind}, an iterator; {remedy}")
    raise MupError(f"{name} has a {kind}, which is not an array")
