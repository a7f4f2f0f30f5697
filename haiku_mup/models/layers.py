"""Layers of transformers: attention with dropout, and blocks applied in a loop or as one `layer_stack`."""
import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import haiku as hk
import jax
import jax.numpy as jnp

from haiku_mup.layers import MultiHeadAttention, Readout
from haiku_mup.parameters.haiku_layers import PROJECTION, LayerType, register, weight_shape
from haiku_mup.parameters.initializers import Initializer
from haiku_mup.parameters.row_factors import scaled
from haiku_mup.tracing.layer_multipliers import multiplier

_gelu_tanh = functools.partial(jax.nn.gelu, approximate=True)
ACTIVATIONS: Mapping[str, Callable[[jax.Array], jax.Array]] = {         # by transformers' names
    "gelu": functools.partial(jax.nn.gelu, approximate=False), "gelu_new": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh, "relu": jax.nn.relu, "silu": jax.nn.silu, "swish": jax.nn.silu,
    "tanh": jnp.tanh,
}

# (x, layer index, what all blocks are given, such as a mask) -> x
BlockFunction: TypeAlias = Callable[[jax.Array, Any, Any], jax.Array]


def normal_init(std: float) -> Initializer:
    """Returns the initializer of matrices and embeddings."""
    init: Initializer = hk.initializers.RandomNormal(std)
    return init


def layer_norm(name: str, eps: float) -> hk.LayerNorm:
    """Returns a layer norm over the last axis."""
    return hk.LayerNorm(-1, create_scale=True, create_offset=True, eps=eps, name=name)


class RMSNorm(hk.RMSNorm):
    """hk.RMSNorm over the last axis, computed in single precision at least."""

    def __init__(self, eps: float, name: str | None = None):
        super().__init__(-1, eps, name=name)

    def __call__(self, inputs: jax.Array) -> jax.Array:
        precise = jnp.promote_types(inputs.dtype, jnp.float32)
        normalized: jax.Array = super().__call__(inputs.astype(precise))
        return normalized.astype(inputs.dtype)


def dropout(x: jax.Array, rate: float) -> jax.Array:
    """Drops entries of x; needs a random key only if the rate is above 0."""
    return x if rate == 0 else hk.dropout(hk.next_rng_key(), rate, x)


class Query(hk.Linear):
    """Projects to queries; multiplies them, and so the attention logits, by μP's factor and `attn_mult`."""

    def __init__(self, output_size: int, w_init: Initializer | None, attn_mult: Any, *, with_bias: bool = True,
                 name: str | None = None):
        super().__init__(output_size, with_bias, w_init=w_init, name=name)
        self.attn_mult = attn_mult

    def __call__(self, inputs: jax.Array, *, precision: Any = None) -> jax.Array:
        factor = multiplier(f"{self.module_name}/w", weight_shape(self, inputs))
        queries: jax.Array = scaled(super().__call__(inputs, precision=precision), factor)
        if isinstance(self.attn_mult, (int, float)) and self.attn_mult == 1:
            return queries              # bit for bit those of the plain layer
        return queries * jnp.asarray(self.attn_mult, queries.dtype)


class Projection(Readout):
    """A linear layer that is an output if its size stays as the width grows, and hidden if it grows."""


register(LayerType(Projection, kinds={"w": PROJECTION}))


class Attention(MultiHeadAttention):
    """`MultiHeadAttention` with dropout, a tunable multiplier, and an initializer of its output projection.

    Parameters and their names are the same. Logits are attn_mult · q·k / √d at the base's key size d, and go
    like 1/d beyond.
    """

    def __init__(self, num_heads: int, key_size: int, *, w_init: Initializer, out_init: Initializer,
                 attn_mult: Any = 1.0, dropout_rate: float = 0.0, zero_query: bool = False,
                 name: str | None = None):
        """Configures the layer.

        Args:
          num_heads: number of attention heads.
          key_size: size of a head.
          w_init: initializer of the projections to queries, keys and values.
          out_init: initializer of the output projection.
          attn_mult: multiplies attention logits; a number, or an array that depends on the layer.
          dropout_rate: of the attention weights.
          zero_query: whether queries start at zero, so that attention starts uniform.
          name: name of the module.
        """
        super().__init__(num_heads, key_size, w_init=w_init, zero_query=zero_query, name=name)
        self.out_init, self.attn_mult, self.dropout_rate = out_init, attn_mult, dropout_rate

    def __call__(self, query: jax.Array, key: jax.Array, value: jax.Array,
                 mask: jax.Array | None = None) -> jax.Array:
        size = self.num_heads * self.key_size
        query_init = jnp.zeros if self.zero_query else self.w_init
        q = self._split_heads(Query(size, query_init, self.attn_mult, name="query")(query))         # [T', H, K]
        k, v = (self._split_heads(hk.Linear(size, w_init=self.w_init, name=name)(x))                # [T, H, K]
                for name, x in (("key", key), ("value", value)))
        logits = jnp.einsum("...thd,...Thd->...htT", q * self.key_size**-0.5, k)
        logits = masked(logits, mask)
        weights = dropout(jax.nn.softmax(logits), self.dropout_rate)                                # [H, T', T]
        out = jnp.einsum("...htT,...Thd->...thd", weights, v)
        return hk.Linear(size, w_init=self.out_init, name="linear")(out.reshape(query.shape[:-1] + (size,)))

    def _split_heads(self, x: jax.Array) -> jax.Array:
        return x.reshape(*x.shape[:-1], self.num_heads, self.key_size)


def masked(logits: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Returns attention logits with the lowest number added where the mask is False.

    As in transformers, a row that masks everything attends to all alike.
    """
    if mask is None:
        return logits
    return logits + jnp.where(mask, 0, jnp.finfo(logits.dtype).min).astype(logits.dtype)


def apply_blocks(make_block: Callable[[str], BlockFunction], x: jax.Array, shared: Any, *,
                 count: int, name: str, layer_stack: bool, remat: bool, keep_inputs: bool,
                 ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """Applies blocks one after the other.

    Args:
      make_block: makes the block of a name.
      x: activations [B, T, D].
      shared: what all blocks are given: a mask as `inputs.combine_masks` returns it, or more arrays.
      count: number of blocks.
      name: of the stack; without one, block i is name_i.
      layer_stack: whether the blocks are one `layer_stack`.
      remat: whether the backward pass recomputes each block's activations.
      keep_inputs: whether to return each block's input.

    Returns:
      The last block's output; and each block's input, or () without `keep_inputs`.
    """
    def apply_block(block_name: str, x: jax.Array, layer_idx: Any) -> jax.Array:
        block = make_block(block_name)
        out: jax.Array = (hk.remat(block) if remat else block)(x, layer_idx, shared)
        return out

    def layer(x: jax.Array, layer_idx: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        return apply_block("block", x, layer_idx), x if keep_inputs else None

    if layer_stack:
        stack = hk.experimental.layer_stack(count, with_per_layer_inputs=True, name=name)
        x, stacked = stack(layer)(x, jnp.arange(count))
        return x, tuple(stacked[i] for i in range(count)) if keep_inputs else ()
    block_inputs = []
    for i in range(count):
        block_inputs.append(x)
        x = apply_block(f"{name}_{i}", x, i)
    return x, tuple(block_inputs) if keep_inputs else ()
