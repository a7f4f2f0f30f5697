"""What is taken of an array, whatever its size: statistics, and a sample of its entries."""
import functools
from collections.abc import Callable, Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap

Stat: TypeAlias = str | Callable[[jax.Array], jax.Array]
SAMPLE = 512                # entries of an array that are kept, to see how far it moves

STATS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "l1": lambda x: jnp.abs(x).mean(),
    "l2": lambda x: jnp.sqrt(jnp.square(x).mean()),
    "mean": jnp.mean,
    "std": jnp.std,
    "max": lambda x: jnp.abs(x).max(),
}


def stat_name(stat: Stat) -> str:
    """Its name in records."""
    return stat if isinstance(stat, str) else getattr(stat, "__name__", repr(stat))


def statistics(x: jax.Array, stats: Sequence[Stat]) -> jax.Array:
    """[stats], of an array taken to float32."""
    x = (jnp.abs(x) if jnp.iscomplexobj(x) else x).astype(jnp.float32)
    return jnp.stack([jnp.asarray((STATS[s] if isinstance(s, str) else s)(x), jnp.float32).reshape(())
                      for s in stats])


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
