"""What GPT-2, BERT and RoBERTa share: attention, lookups, dropout, masks, blocks one after the other."""
import functools
from collections.abc import Callable, Mapping
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp

from haiku_mup.layers import MultiHeadAttention
from haiku_mup.parameters.factors import scaled
from haiku_mup.parameters.haiku_layers import weight_shape
from haiku_mup.parameters.initializers import Initializer
from haiku_mup.tracing import context

_gelu_tanh = functools.partial(jax.nn.gelu, approximate=True)
ACTIVATIONS: Mapping[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": functools.partial(jax.nn.gelu, approximate=False), "gelu_new": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh, "relu": jax.nn.relu, "silu": jax.nn.silu, "swish": jax.nn.silu,
    "tanh": jnp.tanh,
}


class Query(hk.Linear):
    """Queries, and so an attention's logits, times what μP and the configuration say."""

    def __init__(self, output_size: int, w_init: Initializer | None, mult: Any, name: str | None = None):
        super().__init__(output_size, w_init=w_init, name=name)
        self.mult = mult

    def __call__(self, inputs: jax.Array, *, precision: Any = None) -> jax.Array:
        factor = context.multiplier(f"{self.module_name}/w", weight_shape(self, inputs))
        queries: jax.Array = scaled(super().__call__(inputs, precision=precision), factor)
        if isinstance(self.mult, (int, float)) and self.mult == 1:
            return queries
        return queries * jnp.asarray(self.mult, queries.dtype)


class Attention(MultiHeadAttention):
    """`MultiHeadAttention` with a tunable constant, dropout, and an initializer of its own for its outputs.

    Same parameters, same names. Logits are `mult` · q·k / √d at the base's key size d, and go like 1/d beyond.
    """

    def __init__(self, num_heads: int, key_size: int, *, w_init: Initializer, out_init: Initializer,
                 mult: Any = 1.0, dropout: float = 0.0, zero_query: bool = False, name: str | None = None):
        super().__init__(num_heads, key_size, w_init=w_init, zero_query=zero_query, name=name)
        self.out_init, self.mult, self.dropout = out_init, mult, dropout

    def __call__(self, query: jax.Array, key: jax.Array, value: jax.Array,
                 mask: jax.Array | None = None) -> jax.Array:
        size = self.num_heads * self.key_size
        query_init = jnp.zeros if self.zero_query else self.w_init
        q = self._heads(Query(size, query_init, self.mult, name="query")(query))    # [T', H, K]
        k, v = (self._heads(hk.Linear(size, w_init=self.w_init, name=name)(x))      # [T, H, K]
                for name, x in (("key", key), ("value", value)))
        logits = jnp.einsum("...thd,...Thd->...htT", q * self.key_size**-0.5, k)
        if mask is not None:
            logits = logits + jnp.where(mask, 0, jnp.finfo(logits.dtype).min).astype(logits.dtype)
        weights = dropped(jax.nn.softmax(logits), self.dropout)                     # [H, T', T]
        out = jnp.einsum("...htT,...Thd->...thd", weights, v)
        return hk.Linear(size, w_init=self.out_init, name="linear")(out.reshape(query.shape[:-1] + (size,)))

    def _heads(self, x: jax.Array) -> jax.Array:
        return x.reshape(*x.shape[:-1], self.num_heads, self.key_size)


def normal(std: float) -> Initializer:
    """The initializer of a matrix."""
    init: Initializer = hk.initializers.RandomNormal(std)
    return init


def norm(name: str, eps: float) -> hk.LayerNorm:
    """A layer norm over the last axis."""
    return hk.LayerNorm(-1, create_scale=True, create_offset=True, eps=eps, name=name)


def dropped(x: jax.Array, rate: float) -> jax.Array:
    """x with dropout; itself at rate 0."""
    return x if rate == 0 else hk.dropout(hk.next_rng_key(), rate, x)


def blocks(config: Any, count: int, make: Callable[[str], Callable[..., jax.Array]], x: jax.Array,
           mask: jax.Array | None, name: str, keep: bool) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """What `count` blocks make of x, one after the other, and what each is given, if that is to be kept.

    Args:
      config: says whether they are stacked, and computed anew in the backward pass.
      count: how many.
      make: from a name to a block, which maps (x, its number, mask) to x.
      x: activations [B, T, D].
      mask: as `attended` gives it.
      name: of the stack; of block i it is name_i.
      keep: whether to keep what each is given.
    """
    def step(x: jax.Array, number: Any, own: str) -> jax.Array:
        block = make(own)
        out: jax.Array = (hk.remat(block) if config.remat else block)(x, number, mask)
        return out

    if not config.layer_stack:
        given = []
        for i in range(count):
            given.append(x)
            x = step(x, i, f"{name}_{i}")
        return x, tuple(given) if keep else ()

    def layer(x: jax.Array, number: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        return step(x, number, "block"), x if keep else None

    stack = hk.experimental.layer_stack(count, with_per_layer_inputs=True, name=name)
    x, stacked = stack(layer)(x, jnp.arange(count))
    return x, tuple(stacked[i] for i in range(count)) if keep else ()
