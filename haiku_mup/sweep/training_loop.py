"""What training goes over: batches of rows, and steps, as long as the loss is finite."""
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import sequential_vmap

from haiku_mup.errors import MupError

SEGMENTS = 16           # times in a training at which it may end early


class Rows:
    """Batches of rows of arrays.

    Args:
      data: arrays with one row an example, in any tree.
      size: of a batch; None for all rows.
      steps: how many batches are needed.

    Raises:
      MupError: arrays of different lengths, or with fewer rows than a batch.

    >>> rows = Rows(np.arange(5), 2, steps=3)
    >>> batch = rows.order(jax.random.key(0))
    >>> len({int(x) for step in range(2) for x in batch(step)})     # two batches are an epoch
    4
    """

    def __init__(self, data: Any, size: int | None, steps: int):
        lengths = {np.shape(x)[0] if np.ndim(x) else 0 for x in jax.tree.leaves(data)}
        rows = min(lengths, default=0)
        size = rows if size is None else size
        if len(lengths) != 1 or not 0 < size <= rows:
            raise MupError(f"training: data of {sorted(lengths)} rows, and batch_size={size}: give arrays with "
                           "as many rows each, and at least as many as a batch")
        self._data, self._rows, self._size, self._steps = data, rows, size, steps

    def example(self) -> Any:
        """A batch."""
        return jax.tree.map(lambda x: x[:self._size], self._data)

    def order(self, key: Any) -> Callable[[Any], Any]:
        """From the number of a step to its batch."""
        if self._size == self._rows:
            return lambda number: self._data
        in_epoch = self._rows // self._size

        @sequential_vmap            # it compiles faster than under vmap, and runs once
        def shuffled(key):
            keys = jax.random.split(key, -(-self._steps // in_epoch))
            return jax.vmap(lambda key: jax.random.permutation(key, self._rows)[:in_epoch * self._size])(keys)

        order = shuffled(key).reshape(-1, self._size)
        return lambda number: jax.tree.map(lambda x: jnp.asarray(x)[order[number]], self._data)


def scan_while_finite(step: Callable[[Any, Any], tuple[Any, jax.Array]], carry: Any,
                      steps: int) -> tuple[Any, jax.Array]:
    """jax.lax.scan of `step` over numbers of steps; soon after a loss that isn't finite it ends.

    Whether it goes on is asked a few times only: where trials are mapped, each time costs a copy of the carry.

    Args:
      step: (carry, number) -> (carry, loss).
      carry: to begin with.
      steps: how many.

    Returns:
      The last carry, and losses [steps]; those of steps that were left out are inf.

    >>> scan_while_finite(lambda x, i: (x * 1e10, x), 1.0, 40)[1][jnp.array([0, 3, 4, 39])]
    Array([1.e+00, 1.e+30,    inf,    inf], dtype=float32)
    """
    size = segment(steps)
    first, count = steps % size, steps // size
    losses = jnp.zeros(0)
    if first:
        carry, losses = jax.lax.scan(step, carry, jnp.arange(first))
    kind = jax.eval_shape(step, carry, 0)[1]
    rest = jnp.full((count, size), jnp.inf, kind.dtype)

    def goes_on(state):
        number, finite, _, _ = state
        return (number < count) & finite

    def some(state):
        number, _, carry, rest = state
        carry, found = jax.lax.scan(step, carry, first + number * size + jnp.arange(size))
        return number + 1, jnp.isfinite(found[-1]), carry, rest.at[number].set(found)

    finite = jnp.isfinite(losses[-1]) if first else jnp.array(True)
    _, _, carry, rest = jax.lax.while_loop(goes_on, some, (0, finite, carry, rest))
    return carry, jnp.concatenate([losses.astype(kind.dtype), rest.reshape(-1)])


def segment(steps: int) -> int:
    """How many steps between one question and the next: a divisor of all, if there is one near.

    What is left over is compiled a second time.

    >>> segment(200), segment(7), segment(101)
    (10, 1, 6)
    """
    wanted = max(1, steps // SEGMENTS)
    near = [size for size in range(max(1, wanted // 2), 2 * wanted + 1) if steps % size == 0]
    return min(near, key=lambda size: abs(math.log(size / wanted)), default=wanted)
