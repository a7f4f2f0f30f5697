"""What is taken of an array, whatever its size: statistics, and a sample of its entries."""
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap

Stat: TypeAlias = str | Callable[[jax.Array], jax.Array]
JUDGED = ("l1", "l2")       # others are recorded, and have no expectation
BLOCK = 1 << 15             # entries that are measured at a time
SAMPLE = 512                # entries of an array that are kept, to see how far it moves

STATS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "l1": lambda x: jnp.abs(x).mean(),
    "l2": lambda x: jnp.sqrt(jnp.square(x).mean()),
    "mean": jnp.mean,
    "std": jnp.std,
    "max": lambda x: jnp.abs(x).max(),
}


IN_MEMORY: dict[str, Callable[[Callable[[], Iterable[np.ndarray]]], float]] = {
    "l1": lambda blocks: _mean(blocks, np.abs),
    "l2": lambda blocks: math.sqrt(_mean(blocks, np.square)),
    "mean": lambda blocks: _mean(blocks, lambda x: x),
    "std": lambda blocks: math.sqrt(_mean(blocks, functools.partial(_squares, _mean(blocks, lambda x: x)))),
    "max": lambda blocks: float(np.max([np.abs(piece).max() for piece in blocks()])),
}


def stat_name(stat: Stat) -> str:
    """Its name in records."""
    return stat if isinstance(stat, str) else getattr(stat, "__name__", repr(stat))


def statistics(x: jax.Array, stats: Sequence[Stat]) -> jax.Array:
    """[stats], of an array taken to float32."""
    x = (jnp.abs(x) if jnp.iscomplexobj(x) else x).astype(jnp.float32)
    return jnp.stack([jnp.asarray((STATS[s] if isinstance(s, str) else s)(x), jnp.float32).reshape(())
                      for s in stats])


def by_layer(x: jax.Array, minus: jax.Array | None = None, *, stats: Sequence[Stat], axes: int) -> jax.Array:
    """[layers …, stats] of an array, or of a difference, whose first axes are layers."""
    def take(x: jax.Array) -> jax.Array:
        return statistics(x, stats)

    for _ in range(axes):
        take = jax.vmap(take)
    return take(x if minus is None else x - minus)


def in_memory(x: Any, minus: Any = None, *, stats: Sequence[str], axes: int) -> np.ndarray:
    """The same as `by_layer`, of arrays that NumPy can see: for this nothing has to be compiled."""
    arrays = [np.asarray(each) for each in (x, minus) if each is not None]
    layers = [each.reshape(-1, math.prod(each.shape[axes:])) for each in arrays]
    with np.errstate(all="ignore"):             # of a training that diverges
        found = [[IN_MEMORY[stat](functools.partial(_blocks, *layer)) for stat in stats]
                 for layer in zip(*layers, strict=True)]
    return np.asarray(found, np.float32).reshape(*arrays[0].shape[:axes], len(stats))


def _blocks(x: np.ndarray, minus: np.ndarray | None = None) -> Iterator[np.ndarray]:
    """Pieces of a vector, or of a difference, in float32: small ones, which stay in the processor's cache."""
    for i in range(0, x.size, BLOCK):
        piece = x[i:i + BLOCK] if minus is None else x[i:i + BLOCK] - minus[i:i + BLOCK]
        yield (np.abs(piece) if np.iscomplexobj(piece) else piece).astype(np.float32, copy=False)


def _squares(mean: float, x: np.ndarray) -> np.ndarray:
    return np.asarray(np.square(x - np.float32(mean)))


def _mean(blocks: Callable[[], Iterable[np.ndarray]], of: Callable[[np.ndarray], np.ndarray]) -> float:
    sums = [(float(of(piece).sum()), piece.size) for piece in blocks()]
    return sum(each for each, _ in sums) / sum(size for _, size in sums)


def measurer(stats: Sequence[Stat]) -> Callable[[jax.Array], jax.Array]:
    """A function from an array to [1 + stats + SAMPLE]: one, statistics, some of its entries.

    Under vmap it is one measurement of the whole batch, and not one of each: so it is no batch itself,
    and may be kept in Haiku's state.
    """
    @custom_vmap
    def measure(x):
        flat = (jnp.abs(x) if jnp.iscomplexobj(x) else x).astype(jnp.float32).reshape(-1)
        return jnp.concatenate([jnp.ones(1, jnp.float32), statistics(x, stats), flat[_sampled(flat.size)]])

    @measure.def_vmap
    def _(axis_size, in_batched, x):
        del axis_size, in_batched
        return measure(x), False

    def stopped(x: jax.Array) -> jax.Array:
        out: jax.Array = measure(jax.lax.stop_gradient(x))
        return out

    return stopped


@functools.lru_cache(maxsize=256)
def _sampled(size: int) -> np.ndarray:
    """Which entries are kept: the same in every run; all, where they are few."""
    if size <= SAMPLE:
        return np.arange(SAMPLE) % size
    return np.sort(np.random.default_rng(size).integers(0, size, SAMPLE)).astype(np.int32)
