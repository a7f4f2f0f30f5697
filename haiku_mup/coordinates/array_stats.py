"""Statistics of arrays, computed by JAX or by NumPy, and a sample of their entries."""
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap
from jax.sharding import NamedSharding, PartitionSpec

Stat: TypeAlias = str | Callable[[jax.Array], jax.Array]
JUDGED = ("l1", "l2")       # sizes, whose slopes are known; other statistics are recorded, and not judged
BLOCK = 1 << 15             # entries that NumPy measures at a time, so that they stay in the processor's cache
MOVED = "moved"             # the share of entries that are not zero
SAMPLE = 512                # entries of an array that are kept, to see how far it moves
NORMS = 2                   # numbers about the norms of its vectors: see `squared_norms`
_ENTRIES = jax.lax.GatherDimensionNumbers(offset_dims=(), collapsed_slice_dims=(0,), start_index_map=(0,))

STATS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "l1": lambda x: jnp.abs(x).mean(),
    "l2": lambda x: jnp.sqrt(jnp.square(x).mean()),
    "mean": jnp.mean,
    "std": jnp.std,
    "max": lambda x: jnp.abs(x).max(),
}
_ALL_STATS = STATS | {MOVED: lambda x: (x != 0).mean()}

# The same of an array in blocks: from a function that yields them, as often as it is called.
NUMPY_STATS: dict[str, Callable[[Callable[[], Iterable[np.ndarray]]], float]] = {
    "l1": lambda blocks: _mean(blocks, np.abs),
    "l2": lambda blocks: math.sqrt(_mean(blocks, np.square)),
    "mean": lambda blocks: _mean(blocks, lambda x: x),
    "std": lambda blocks: math.sqrt(_mean(blocks, functools.partial(
        _squared_deviations, _mean(blocks, lambda x: x)))),
    "max": lambda blocks: float(np.max([np.abs(block).max() for block in blocks()])),
    MOVED: lambda blocks: _mean(blocks, lambda x: np.asarray(np.count_nonzero(x != 0))),
}


def stat_name(stat: Stat) -> str:
    """Returns the name of a statistic in records.

    >>> stat_name("l1"), stat_name(jnp.min)
    ('l1', 'min')
    """
    return stat if isinstance(stat, str) else getattr(stat, "__name__", repr(stat))


# --- parameters ---

def statistics(x: jax.Array, stats: Sequence[Stat]) -> jax.Array:
    """Returns the statistics [stats] of an array, in float32; complex numbers count by their moduli."""
    x = (jnp.abs(x) if jnp.iscomplexobj(x) else x).astype(jnp.float32)
    return jnp.stack([jnp.asarray((_ALL_STATS[s] if isinstance(s, str) else s)(x), jnp.float32).reshape(())
                      for s in stats])


def statistics_by_layer(x: jax.Array, minus: jax.Array | None = None, *, stats: Sequence[Stat],
                        axes: int) -> jax.Array:
    """Returns the statistics [layers …, stats] of each layer of an array, or of a difference of two.

    Args:
      x: an array [layers …, …].
      minus: what to subtract from it, if anything.
      stats: the statistics.
      axes: how many of the first axes are layers'.

    >>> statistics_by_layer(jnp.ones((3, 8)), stats=("l1", "l2"), axes=1).shape
    (3, 2)
    """
    function: Callable[[jax.Array], jax.Array] = functools.partial(statistics, stats=stats)
    for _ in range(axes):
        function = jax.vmap(function)
    return function(x if minus is None else x - minus)


def numpy_statistics_by_layer(x: Any, minus: Any = None, *, stats: Sequence[str], axes: int) -> np.ndarray:
    """Returns the same as `statistics_by_layer`, computed by NumPy, so that nothing has to be compiled.

    >>> numpy_statistics_by_layer(np.ones((3, 8)), stats=("l1", "l2"), axes=1).shape
    (3, 2)
    """
    arrays = [np.asarray(each) for each in (x, minus) if each is not None]
    layers = [each.reshape(-1, math.prod(each.shape[axes:])) for each in arrays]
    with np.errstate(all="ignore"):             # where training diverges, the numbers say so
        rows = [[NUMPY_STATS[stat](functools.partial(_blocks, *layer)) for stat in stats]
                for layer in zip(*layers, strict=True)]
    return np.asarray(rows, np.float32).reshape(*arrays[0].shape[:axes], len(stats))


def _blocks(x: np.ndarray, minus: np.ndarray | None = None) -> Iterator[np.ndarray]:
    """Yields blocks of a vector, or of a difference of two, in float32."""
    for i in range(0, x.size, BLOCK):
        block = x[i:i + BLOCK] if minus is None else x[i:i + BLOCK] - minus[i:i + BLOCK]
        yield (np.abs(block) if np.iscomplexobj(block) else block).astype(np.float32, copy=False)


def _squared_deviations(mean: float, x: np.ndarray) -> np.ndarray:
    return np.asarray(np.square(x - np.float32(mean)))


def _mean(blocks: Callable[[], Iterable[np.ndarray]], of: Callable[[np.ndarray], np.ndarray]) -> float:
    """Returns the mean of a function of all entries."""
    sums = [(float(of(block).sum()), block.size) for block in blocks()]
    return sum(total for total, _ in sums) / sum(size for _, size in sums)


# --- activations ---

def measure_function(stats: Sequence[Stat]) -> Callable[[jax.Array], jax.Array]:
    """Returns a function from an array to [1 + stats + SAMPLE + NORMS]: its size, and that times measurements.

    It measures the statistics, some of the entries, and the norms of vectors. Results are added up over calls.
    The first number is then that of all entries; the others, divided by it, are means over the calls, in which
    large arrays count for more. Under vmap the function measures the whole batch at once instead of each
    example, so that its result is not batched, and can be kept in Haiku's state.
    """
    @custom_vmap
    def measure(x):
        x = replicated(x)
        real = (jnp.abs(x) if jnp.iscomplexobj(x) else x).astype(jnp.float32)
        flat = real.reshape(-1)
        sample = jax.lax.gather(        # flat[indices], without what jnp adds for negative ones
            flat, _sampled_indices(flat.size)[:, None], _ENTRIES, slice_sizes=(1,), mode="promise_in_bounds")
        return flat.size * jnp.concatenate([
            jnp.ones(1, jnp.float32), statistics(x, stats), sample, squared_norms(real)])

    @measure.def_vmap
    def _(axis_size, in_batched, x):
        del axis_size, in_batched
        return measure(x), False

    def measure_constant(x: jax.Array) -> jax.Array:
        measured: jax.Array = measure(jax.lax.stop_gradient(x))
        return measured

    return measure_constant


def squared_norms(x: jax.Array) -> jax.Array:
    """Returns [NORMS]: the mean of the squared norms along the last axis, and their mean distance from it.

    >>> squared_norms(jnp.array([[3.0, 4.0], [0.0, 5.0]])).tolist()
    [25.0, 0.0]
    """
    squares = jnp.square(x).sum(-1) if x.ndim else jnp.square(x)
    mean = squares.mean()
    return jnp.stack([mean, jnp.abs(squares - mean).mean()])


def replicated(x: jax.Array) -> jax.Array:
    """Returns an array replicated on each device, if its type says how it is sharded.

    In a mesh with `AxisType.Explicit` axes, as `jax.make_mesh` makes them, JAX neither flattens an array that
    is sharded along several axes nor picks entries of it, unless it is told where the result is to be.
    """
    sharding = jax.typeof(x).sharding
    if all(axis is None for axis in sharding.spec):
        return x
    whole: jax.Array = jax.sharding.reshard(x, NamedSharding(sharding.mesh, PartitionSpec()))
    return whole


@functools.lru_cache(maxsize=256)
def _sampled_indices(size: int) -> np.ndarray:
    """Returns SAMPLE indices into a vector, the same in every run; all of them, repeated, where it is short."""
    if size <= SAMPLE:
        return (np.arange(SAMPLE) % size).astype(np.int32)
    return np.sort(np.random.default_rng(size).integers(0, size, SAMPLE)).astype(np.int32)
