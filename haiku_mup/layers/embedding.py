"""Tied embeddings: an embedding, and an output layer that uses its matrix."""
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp

from haiku_mup.errors import MupError
from haiku_mup.layers import sharded_lookup
from haiku_mup.parameters.fans import FanWord
from haiku_mup.parameters.haiku_layers import TIED, LayerType, register, vector
from haiku_mup.parameters.initializers import Initializer
from haiku_mup.parameters.row_factors import scaled
from haiku_mup.tracing.layer_multipliers import multiplier, tied_multiplier


class SharedEmbed(hk.Embed):
    """An embedding whose matrix also serves as a readout's weights: hk.Embed, for use with `SharedReadout`.

    Its matrix has the role of input weights: its init is not multiplied, the logits are. The arguments are
    those of hk.Embed. (Tensor Programs V, arXiv 2203.03466, Table 8, input weights.)

    >>> def fn(ids):
    ...     with haiku_mup.apply_mup():
    ...         embed = haiku_mup.SharedEmbed(100, 16)
    ...         return haiku_mup.SharedReadout()(embed, embed(ids))
    >>> model = hk.without_apply_rng(hk.transform(fn))
    >>> params = model.init(jax.random.PRNGKey(0), jnp.arange(3))
    >>> model.apply(params, jnp.arange(3)).shape
    (3, 100)
    """

    def __call__(self, *args: Any, **kwargs: Any) -> jax.Array:
        """Looks up the rows [..., embed_dim] of ids as hk.Embed does, also in a mesh with explicit axes."""
        with sharded_lookup.out_sharding():
            rows: jax.Array = super().__call__(*args, **kwargs)
        return rows

    def get_weights(self) -> jax.Array:
        """Returns the matrix [vocab_size, embed_dim]. Call it outside of a layer_stack, and close over it.

        Raises:
          MupError: inside a layer_stack or lift, where Haiku would make an untied copy of the matrix.

        >>> def fn(ids):
        ...     with haiku_mup.apply_mup():
        ...         embed = haiku_mup.SharedEmbed(100, 16)
        ...         weights, readout = embed.get_weights(), haiku_mup.SharedReadout()
        ...         block = lambda x: x + jax.nn.softmax(readout(weights, x)) @ weights
        ...         return readout(weights, hk.experimental.layer_stack(3)(block)(embed(ids)))
        >>> params = hk.transform(fn).init(jax.random.PRNGKey(0), jnp.arange(3))
        >>> haiku_mup.get_shapes(params)
        {'shared_embed': {'embeddings': (100, 16)}}
        """
        weights: jax.Array = self.embeddings
        return weights


class SharedReadout(hk.Module):
    """An output layer that uses the matrix of a SharedEmbed: x · output_mult / m times its transpose.

    m is the ratio of the embedding's width, and 1 outside of μP. (Tensor Programs V, arXiv 2203.03466, Table 8:
    the matrix is an input weight; its use here is that of an output weight.)

    >>> def fn(ids):
    ...     with haiku_mup.apply_mup():
    ...         embed = haiku_mup.SharedEmbed(vocab_size=100, embed_dim=16)
    ...         x = jax.nn.relu(hk.Linear(16)(embed(ids)))
    ...         return haiku_mup.SharedReadout(use_bias=True)(embed, x)
    >>> params = hk.transform(fn).init(jax.random.PRNGKey(0), jnp.arange(3))
    >>> sorted(params), params["shared_embed"]["embeddings"].shape
    (['linear', 'shared_embed', 'shared_readout'], (100, 16))
    """

    def __init__(self, use_bias: bool = False, bias_init: Initializer | None = None,
                 name: str | None = None, *, output_mult: float = 1.0):
        """Makes the layer.

        Args:
          use_bias: whether to add a bias [vocab_size], which is not multiplied.
          bias_init: its initializer; zeros by default.
          name: name of the module, "shared_readout" by default.
          output_mult: a constant to tune at the base; it transfers.

        Raises:
          MupError: `bias_init` without `use_bias`.
        """
        if bias_init is not None and not use_bias:
            raise MupError("SharedReadout: a bias_init, but use_bias=False: set use_bias=True")
        super().__init__(name=name)
        self.use_bias = use_bias
        self.bias_init = bias_init or jnp.zeros
        self.output_mult = output_mult

    def __call__(self, weight: SharedEmbed | jax.Array, x: jax.Array, *,
                 precision: Any = None) -> jax.Array:
        """Returns the logits [..., vocab_size] of activations x [..., embed_dim].

        Args:
          weight: the SharedEmbed, or its matrix: `embed.get_weights()`.
          x: activations.
          precision: of the matrix product, as in hk.Linear.

        Raises:
          MupError: no SharedEmbed in the model; a matrix where several of them grow by different
            ratios; a matrix that does not fit the activations.
        """
        if isinstance(weight, hk.Module):
            if not isinstance(weight, SharedEmbed):
                raise MupError(f"SharedReadout: given {type(weight).__name__}; make it a SharedEmbed")
            weights = weight.get_weights()
            factor = multiplier(f"{weight.module_name}/embeddings", weights.shape)
        else:
            weights, factor = jnp.asarray(weight), tied_multiplier()
        if isinstance(x, hk.Module):
            raise MupError("SharedReadout: given a module for the activations; call SharedReadout()(embed, x)")
        if weights.ndim != 2 or weights.shape[1:] != x.shape[-1:]:
            raise MupError(f"SharedReadout: weights {weights.shape} and activations {x.shape} don't fit: "
                           "they are [vocab_size, embed_dim] and [..., embed_dim]")
        out = jnp.dot(scaled(x, self.output_mult * factor), weights.T, precision=precision)
        if self.use_bias:
            bias = hk.get_parameter("b", weights.shape[:1], weights.dtype, init=self.bias_init)
            out = out + jnp.broadcast_to(bias, out.shape)
        return out


register(LayerType(SharedEmbed, kinds={"embeddings": TIED}))
# A bias for each row of a table, and rows are no width.
register(LayerType(SharedReadout, fans={"b": vector}, finite={"b": FanWord.OUT}))
