"""Attention with logits scaled as μP requires."""
import functools
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp

from haiku_mup.errors import MupError
from haiku_mup.parameters.haiku_layers import Attention, LayerType, register
from haiku_mup.parameters.initializers import Initializer
from haiku_mup.parameters.row_factors import scaled
from haiku_mup.tracing.layer_multipliers import multiplier


class MultiHeadAttention(hk.MultiHeadAttention):
    """An hk.MultiHeadAttention with logits scaled by 1/√d at the base's key size d, and like 1/d in growth.

    It has the same parameters with the same names. If only the number of heads grows, nothing changes. (Tensor
    Programs V, arXiv 2203.03466, Definition 4.1.)

    >>> def fn(x):
    ...     with haiku_mup.apply_mup():
    ...         init = hk.initializers.VarianceScaling()
    ...         return haiku_mup.MultiHeadAttention(num_heads=2, key_size=8, w_init=init)(x, x, x)
    >>> sorted(hk.transform(fn).init(jax.random.PRNGKey(0), jnp.ones((5, 16))))[-1]
    'multi_head_attention/value'
    """

    def __init__(self, num_heads: int, key_size: int, w_init_scale: float | None = None, *,
                 w_init: Initializer | None = None, with_bias: bool = True,
                 b_init: Initializer | None = None, value_size: int | None = None,
                 model_size: int | None = None, name: str | None = None, zero_query: bool = False):
        """Makes the layer. The arguments are those of hk.MultiHeadAttention, and `zero_query`.

        Args:
          num_heads: number of heads.
          key_size: size of a head's queries and keys.
          w_init_scale: deprecated in Haiku; use w_init.
          w_init: initializer of the four projections.
          with_bias: whether they add biases.
          b_init: initializer of the biases.
          value_size: size of a head's values; key_size by default.
          model_size: size of the output; num_heads · key_size by default.
          name: name of the module, "multi_head_attention" by default.
          zero_query: whether queries start at zero, so that the first attention is uniform at any width.
        """
        super().__init__(num_heads, key_size, w_init_scale, w_init=w_init, with_bias=with_bias,
                         b_init=b_init, value_size=value_size, model_size=model_size,
                         name=name)
        self.zero_query = zero_query

    def __call__(self, query: jax.Array, key: jax.Array, value: jax.Array,
                 mask: jax.Array | None = None) -> jax.Array:
        """Attends from query [..., T', D_q] to key [..., T, D_k] and value [..., T, D_v].

        Args:
          query, key, value: sequences of vectors.
          mask: booleans [..., H or 1, T', T], true for what to attend to.

        Returns:
          Vectors [..., T', model_size].

        Raises:
          MupError: a subclass that makes its queries without an hk.Linear named "query"; in a wrapped model,
            queries that were not captured with this shape.
        """
        scaled_query: list[bool] = []
        with hk.intercept_methods(functools.partial(_scale_query, attention=self, done=scaled_query)):
            out = super().__call__(query, key, value, mask)
        if not scaled_query:
            raise MupError(f"{self.module_name!r}: no hk.Linear named 'query' makes the queries, so logits "
                           "would not be scaled; keep the name in a subclass, and @hk.transparent on a method "
                           "that makes it")
        return out


def _scale_query(next_method, args, kwargs, call, *, attention: MultiHeadAttention, done: list[bool]) -> Any:
    """Multiplies queries, and so logits: softmax's input is (query · factor) · key / √key_size."""
    name = f"{attention.module_name}/query"
    if call.method_name != "__call__" or call.module.module_name != name:
        return next_method(*args, **kwargs)
    if attention.zero_query:
        call.module.w_init = call.module.b_init = jnp.zeros
    done.append(True)
    queries = next_method(*args, **kwargs)      # [..., T', H·K]
    shape = (args[0].shape[-1], queries.shape[-1])
    return scaled(queries, multiplier(f"{name}/w", shape))


register(LayerType(MultiHeadAttention, attention=Attention(lambda module: module.key_size, scales_logits=True)))
