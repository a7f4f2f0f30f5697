"""The batches of a training run, and a scan over its steps that ends when the loss is no longer finite."""
import inspect
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import sequential_vmap

from haiku_mup.coordinates.batches import as_arrays
from haiku_mup.errors import MupError
from haiku_mup.sweep.retrace import output_shapes

STACK = ("draw all batches beforehand, `batches = jax.tree.map(lambda *x: jnp.asarray(np.stack(x)), "
         "*itertools.islice(iterator, steps))`, and give `data = lambda key, step: jax.tree.map("
         "lambda x: x[step % len(x)], batches)`")
SEGMENTS = 16           # a run may end early after each of about so many segments

BatchByStep = Callable[[Any], Any]      # from the number of a step to its batch


class ShuffledBatches:
    """Batches of rows of arrays, shuffled in each epoch.

    Args:
      data: a tree of arrays with one row for each example.
      size: the number of rows in a batch; None for all rows.
      steps: the number of batches that a run needs.

    Raises:
      MupError: the arrays differ in length, or have fewer rows than a batch; something that is no array.

    >>> batch = ShuffledBatches(np.arange(5), 2, steps=3).by_step(jax.random.key(0))
    >>> len({int(x) for step in range(2) for x in batch(step)})     # two batches are an epoch
    4
    """

    def __init__(self, data: Any, size: int | None, steps: int):
        data = as_arrays(data, "training: data", "a trial is one compiled program, which can't call it: "
                         f"{STACK}")
        lengths = {np.shape(x)[0] if np.ndim(x) else 0 for x in jax.tree.leaves(data)}
        rows = min(lengths, default=0)
        size = rows if size is None else size
        if len(lengths) != 1 or not 0 < size <= rows:
            raise MupError(f"training: data of {sorted(lengths)} rows, and batch_size={size}: give arrays "
                           "with equal numbers of rows, at least those of a batch, or a function "
                           "data(key, step) that returns a batch, such as a graph; convert lists of numbers by "
                           "np.asarray(list)")
        self._data, self._rows, self._size, self._steps = data, rows, size, steps

    def example(self) -> Any:
        """Returns a batch."""
        return jax.tree.map(lambda x: x[:self._size], self._data)

    def by_step(self, key: Any) -> BatchByStep:
        """Returns the batches of a run, in an order that the key draws. A batch of all rows stays in order."""
        if self._size == self._rows:
            return lambda number: self._data
        in_epoch = self._rows // self._size     # rows that fill no batch are left out of this epoch

        @sequential_vmap            # compiles faster than under vmap, and runs only once in a run
        def shuffled(key):
            keys = jax.random.split(key, -(-self._steps // in_epoch))
            return jax.vmap(lambda key: jax.random.permutation(key, self._rows)[:in_epoch * self._size])(keys)

        rows = shuffled(key).reshape(-1, self._size)        # [steps or more, size]
        return lambda number: jax.tree.map(lambda x: jnp.asarray(x)[rows[number]], self._data)


class DrawnBatches:
    """Batches that a function draws.

    Args:
      draw: from a key and the number of a step to a batch.

    Raises:
      MupError: a function of other arguments, or a generator.

    >>> batches = DrawnBatches(lambda key, step: jax.random.normal(key, (2,)))
    >>> batches.example().shape, batches.by_step(jax.random.key(0))(7).shape
    ((2,), (2,))
    """

    def __init__(self, draw: Callable[[Any, Any], Any]):
        self._draw_any = draw
        try:
            inspect.signature(draw).bind(None, 0)
        except TypeError as error:
            raise MupError(f"training: data is a function, but not of (key, step): {error}; make it data(key, "
                           "step) that returns the batch of the step") from error
        except ValueError:      # a function without a signature
            pass
        if inspect.isgeneratorfunction(draw):
            raise MupError("training: data is a generator function, and a trial is one compiled program: "
                           f"{STACK}")

    def _draw(self, key: Any, step: Any) -> Any:
        """Returns the batch of a step, as arrays."""
        return as_arrays(self._draw_any(key, step), "training: what data(key, step) returns",
                         "return a batch of arrays")

    def example(self) -> Any:
        """Returns a batch of zeros.

        Raises:
          MupError: the function can't be traced; or it draws outside of JAX, so that all steps would see one
            batch.
        """
        try:
            shapes, same = output_shapes(self._draw, jax.random.key(0), 0)
        except jax.errors.JAXTypeError as error:
            raise MupError("training: data(key, step) is traced once for all steps, so step is not a number "
                           "and key is not a NumPy array: index arrays of jax.numpy, as in "
                           "jnp.stack(batches)[step], and draw with jax.random and the key") from error
        if not same:
            raise MupError("training: data(key, step) draws outside of JAX (with NumPy or random, or from an "
                           "iterator): it is traced once, so every step would see one batch. Draw with "
                           f"jax.random and the key, or {STACK}")
        return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    def by_step(self, key: Any) -> BatchByStep:
        """Returns the batches of a run; each step has a key of its own."""
        return lambda number: self._draw(jax.random.fold_in(key, number), number)


def scan_while_finite(step: Callable[[Any, Any], tuple[Any, jax.Array]], carry: Any,
                      steps: int) -> tuple[Any, jax.Array]:
    """Scans `step` over the numbers of the steps, and ends soon after a loss that is not finite.

    It is a while loop over segments, each of which is a scan. The loop checks the loss only between segments:
    under vmap, where one trial may be over and others not, each check costs a copy of the carry.

    Args:
      step: (carry, number) -> (carry, loss).
      carry: the first carry.
      steps: the number of steps.

    Returns:
      The last carry, and the losses, [steps], with inf for the steps that were left out.

    >>> scan_while_finite(lambda x, i: (x * 1e10, x), 1.0, 40)[1][jnp.array([0, 3, 4, 39])]
    Array([1.e+00, 1.e+30,    inf,    inf], dtype=float32)
    """
    size = segment_length(steps)
    remainder, segments = steps % size, steps // size
    first = jnp.zeros(0)
    if remainder:
        carry, first = jax.lax.scan(step, carry, jnp.arange(remainder))
    dtype = jax.eval_shape(step, carry, 0)[1].dtype
    rest = jnp.full((segments, size), jnp.inf, dtype)

    def goes_on(state):
        segment, finite, _, _ = state
        return (segment < segments) & finite

    def run_segment(state):
        segment, _, carry, rest = state
        carry, losses = jax.lax.scan(step, carry, remainder + segment * size + jnp.arange(size))
        return segment + 1, jnp.isfinite(losses[-1]), carry, rest.at[segment].set(losses)

    finite = jnp.isfinite(first[-1]) if remainder else jnp.array(True)
    _, _, carry, rest = jax.lax.while_loop(goes_on, run_segment, (0, finite, carry, rest))
    return carry, jnp.concatenate([first.astype(dtype), rest.reshape(-1)])


def segment_length(steps: int) -> int:
    """Returns the number of steps between two checks, if possible a divisor of the number of all steps.

    A remainder would be a scan of its own, and compile a second time.

    >>> segment_length(200), segment_length(7), segment_length(101)
    (10, 1, 6)
    """
    wanted = max(1, steps // SEGMENTS)
    divisors = [size for size in range(max(1, wanted // 2), 2 * wanted + 1) if steps % size == 0]
    return min(divisors, key=lambda size: abs(math.log(size / wanted)), default=wanted)
