"""Attention with rotary embeddings, whose heads share keys and values in groups (arXiv 2305.13245)."""
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp

from haiku_mup.models import rope
from haiku_mup.models.layers import Projection, Query, dropout, masked
from haiku_mup.parameters.haiku_layers import Attention, LayerType, register
from haiku_mup.parameters.initializers import Initializer


class GroupedAttention(hk.Module):
    """Attention of H heads that share G keys and values, with rotary embeddings of queries and keys.

    Logits are attn_mult · q·k / √d at the base's head size d, and go like 1/d beyond. Groups whose number and
    size stay, while the width grows, make keys and values outputs: see docs/guides/llama.rst.
    """

    def __init__(self, num_heads: int, num_groups: int, key_size: int, *, w_init: Initializer,
                 with_bias: bool = False, attn_mult: Any = 1.0, zero_query: bool = False,
                 dropout_rate: float = 0.0, name: str | None = None):
        """Configures the layer.

        Args:
          num_heads: H.
          num_groups: G, a divisor of H.
          key_size: size of a head.
          w_init: initializer of the four projections.
          with_bias: whether they add biases.
          attn_mult: multiplies attention logits.
          zero_query: whether queries start at zero, so that attention starts uniform.
          dropout_rate: of the attention weights.
          name: name of the module.
        """
        super().__init__(name=name)
        self.num_heads, self.num_groups, self.key_size = num_heads, num_groups, key_size
        self.w_init, self.with_bias, self.attn_mult = w_init, with_bias, attn_mult
        self.zero_query, self.dropout_rate = zero_query, dropout_rate

    def __call__(self, x: jax.Array, cos: jax.Array, sin: jax.Array,
                 mask: jax.Array | None = None) -> jax.Array:
        """Maps x [..., T, D] to [..., T, D].

        Args:
          x: activations.
          cos, sin: those of the positions' angles, [..., T, key_size / 2].
          mask: booleans [..., 1, T, T], true for what to attend to.
        """
        size, each_group = self.key_size, self.num_heads // self.num_groups
        query_init = jnp.zeros if self.zero_query else self.w_init
        query = Query(self.num_heads * size, query_init, self.attn_mult, with_bias=self.with_bias, name="query")
        q = self._heads(query(x))                                                   # [..., T', H, K]
        k, v = (self._heads(Projection(self.num_groups * size, self.with_bias, self.w_init, name=name)(x))
                for name in ("key", "value"))                                       # [..., T, G, K]
        q, k = rope.rotate(q, cos, sin) * size**-0.5, rope.rotate(k, cos, sin)
        q = q.reshape(*q.shape[:-2], self.num_groups, each_group, size)             # [..., T', G, H/G, K]
        q = jnp.moveaxis(q, -4, -2)         # so that no logits need to be transposed
        logits = jnp.einsum("...ghtd,...Tgd->...ghtT", q, k)
        logits = masked(logits.reshape(*logits.shape[:-4], self.num_heads, *logits.shape[-2:]), mask)
        precise = jnp.promote_types(logits.dtype, jnp.float32)
        weights = jax.nn.softmax(logits.astype(precise)).astype(logits.dtype)
        weights = dropout(weights, self.dropout_rate)                               # [..., H, T', T]
        weights = weights.reshape(*weights.shape[:-3], self.num_groups, each_group, *weights.shape[-2:])
        out = jnp.moveaxis(jnp.einsum("...ghtT,...Tgd->...ghtd", weights, v), -2, -4)
        out = out.reshape(*x.shape[:-1], self.num_heads * size)
        return hk.Linear(x.shape[-1], self.with_bias, self.w_init, name="linear")(out)

    def _heads(self, x: jax.Array) -> jax.Array:
        return x.reshape(*x.shape[:-1], x.shape[-1] // self.key_size, self.key_size)


register(LayerType(GroupedAttention, attention=Attention(lambda module: module.key_size, scales_logits=True)))
