"""The layers that μP multiplies: readouts, shared embeddings and attention."""
import functools
from collections.abc import Sequence
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp

from haiku_mup.errors import MupError
from haiku_mup.layers import sharded_lookup as lookups
from haiku_mup.parameters.factors import scaled
from haiku_mup.parameters.haiku_layers import READOUT, TIED, Attention, LayerType, register, weight_shape
from haiku_mup.parameters.initializers import Initializer
from haiku_mup.tracing import context


class Readout(hk.Linear):
    """An output layer: hk.Linear whose inputs are multiplied by `output_mult` / m_in.

    Use it for every linear layer from a growing width to a fixed size. The bias is added after the
    multiplier, and is not multiplied. Outside of μP, m_in is 1. (Tensor Programs V, arXiv 2203.03466,
    Table 8, output weights.)

    >>> def fn(x):
    ...     with haiku_mup.apply_mup():
    ...         return haiku_mup.Readout(10)(x)
    >>> params = hk.transform(fn).init(jax.random.PRNGKey(0), jnp.ones((2, 64)))
    >>> haiku_mup.get_shapes(params)
    {'readout': {'b': (10,), 'w': (64, 10)}}
    """

    def __init__(self, output_size: int, with_bias: bool = True,
                 w_init: Initializer | None = None, b_init: Initializer | None = None,
                 name: str | None = None, *, output_mult: float = 1.0, zero_init: bool = False):
        """Makes the layer.

        Args:
          output_size: size of the last axis of the output.
          with_bias: whether to add a bias.
          w_init: initializer of the weights [fan_in, output_size]; hk.Linear's by default.
          b_init: initializer of the bias [output_size]; zeros by default.
          name: name of the module, "readout" by default.
          output_mult: a constant to tune at the base; it transfers.
          zero_init: weights that start at zero, so that the first outputs are the bias, at any width.

        Raises:
          MupError: `zero_init` together with `w_init`.
        """
        if zero_init and w_init is not None:
            raise MupError("Readout: zero_init=True and a w_init: give one of the two")
        super().__init__(output_size, with_bias, jnp.zeros if zero_init else w_init, b_init,
                         name=name)
        self.output_mult = output_mult

    def __call__(self, inputs: jax.Array, *, precision: Any = None) -> jax.Array:
        """Maps inputs [..., fan_in] to [..., output_size].

        Args:
          inputs: activations.
          precision: of the matrix product, as in hk.Linear.

        Raises:
          MupError: in a wrapped model, a readout that was not captured with this shape.
        """
        return super().__call__(_multiplied(self, inputs), precision=precision)


class ConvReadout(hk.ConvND):
    """A convolutional output layer: hk.ConvND whose inputs are multiplied by `output_mult` / m_in.

    Use it where a network ends in a convolution from growing to fixed channels. The bias is added after the
    multiplier, and is not multiplied. Outside of μP, m_in is 1. (Tensor Programs V, arXiv 2203.03466, Table 8,
    output weights; a convolution's fan-in grows with its channels, not with its kernel.)

    >>> def fn(x):
    ...     with haiku_mup.apply_mup():
    ...         return haiku_mup.ConvReadout(2, output_channels=3, kernel_shape=1)(x)
    >>> params = hk.transform(fn).init(jax.random.PRNGKey(0), jnp.ones((1, 8, 8, 16)))
    >>> jax.tree.map(jnp.shape, params)
    {'conv_readout': {'b': (3,), 'w': (1, 1, 16, 3)}}
    """

    def __init__(self, num_spatial_dims: int, output_channels: int, kernel_shape: int | Sequence[int], *,
                 output_mult: float = 1.0, zero_init: bool = False, **kwargs: Any):
        """Makes the layer.

        Args:
          num_spatial_dims: 1, 2 or 3.
          output_channels: size of the output's channels.
          kernel_shape: size of the kernel, one number for all dimensions or one for each.
          output_mult: a constant to tune at the base; it transfers.
          zero_init: weights that start at zero, so that the first outputs are the bias, at any width.
          **kwargs: what else hk.ConvND takes: stride, padding, with_bias, w_init, data_format, name, ….

        Raises:
          MupError: `zero_init` together with `w_init`.
        """
        if zero_init and kwargs.get("w_init") is not None:
            raise MupError("ConvReadout: zero_init=True and a w_init: give one of the two")
        if zero_init:
            kwargs["w_init"] = jnp.zeros
        super().__init__(num_spatial_dims, output_channels, kernel_shape, **kwargs)
        self.output_mult = output_mult

    def __call__(self, inputs: jax.Array, *, precision: Any = None) -> jax.Array:
        """Maps inputs [N, ..., fan_in] to [N, ..., output_channels], with any data_format.

        Args:
          inputs: activations, with the spatial dimensions between.
          precision: of the convolution, as in hk.ConvND.

        Raises:
          MupError: in a wrapped model, a readout that was not captured with this shape.
        """
        out: jax.Array = super().__call__(_multiplied(self, inputs), precision=precision)
        return out


def _multiplied(layer: Readout | ConvReadout, inputs: jax.Array) -> jax.Array:
    factor = context.multiplier(f"{layer.module_name}/w", weight_shape(layer, inputs))
    multiplied: jax.Array = scaled(inputs, layer.output_mult * factor)
    return multiplied


class SharedEmbed(hk.Embed):
    """An embedding whose matrix is a readout's weights, too: hk.Embed, to be given to `SharedReadout`.

    Its matrix has the role of input weights: its init is not multiplied, the logits are. Arguments are
    hk.Embed's. (Tensor Programs V, arXiv 2203.03466, Table 8, input weights.)

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
        """The rows [..., embed_dim] of ids, as hk.Embed looks them up; also in a mesh of explicit axes."""
        with lookups.told():
            rows: jax.Array = super().__call__(*args, **kwargs)
        return rows

    def get_weights(self) -> jax.Array:
        """The matrix [vocab_size, embed_dim]. Call it outside of a layer_stack, and close over it.

        Raises:
          MupError: inside a layer_stack or lift, where Haiku would make an untied copy of it.

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
    """An output layer with the matrix of a SharedEmbed: x · output_mult / m times its transpose.

    m is the ratio of the embedding's width, and 1 outside of μP. (Tensor Programs V, arXiv 2203.03466,
    Table 8: the matrix is an input's, its use an output's.)

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
        """Logits [..., vocab_size] of activations x [..., embed_dim].

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
            factor = context.multiplier(f"{weight.module_name}/embeddings", weights.shape)
        else:
            weights, factor = jnp.asarray(weight), context.tied_multiplier()
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


class MultiHeadAttention(hk.MultiHeadAttention):
    """hk.MultiHeadAttention whose logits are scaled as 1/√d at the base's key size d, and 1/d beyond.

    Same parameters, same names. When only the number of heads grows, nothing changes. (Tensor
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
        """Makes the layer; arguments as in hk.MultiHeadAttention, and one more.

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
          zero_query: queries that start at zero, so that the first attention is uniform, at any width.
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
          mask: which of [..., H or 1, T', T] to attend to.

        Returns:
          Vectors [..., T', model_size].

        Raises:
          MupError: a subclass that makes its queries without an hk.Linear named "query"; in a wrapped
            model, queries that were not captured with this shape.
        """
        scaled_query: list[bool] = []
        with hk.intercept_methods(functools.partial(_scale_query, self, scaled_query)):
            out = super().__call__(query, key, value, mask)
        if not scaled_query:
            raise MupError(f"{self.module_name!r}: no hk.Linear named 'query' makes the queries, so logits "
                           "would not be scaled; keep the name in a subclass")
        return out


def _scale_query(attention: MultiHeadAttention, done: list[bool], next_method, args, kwargs, call):
    """Multiplies queries, and so logits: softmax's input is (query · factor) · key / √key_size."""
    name = f"{attention.module_name}/query"
    if call.method_name != "__call__" or call.module.module_name != name:
        return next_method(*args, **kwargs)
    if attention.zero_query:
        call.module.w_init = call.module.b_init = jnp.zeros
    done.append(True)
    queries = next_method(*args, **kwargs)      # [..., T', H·K]
    shape = (args[0].shape[-1], queries.shape[-1])
    return scaled(queries, context.multiplier(f"{name}/w", shape))


register(LayerType(Readout, kinds={"w": READOUT}))
register(LayerType(ConvReadout, kinds={"w": READOUT}))
register(LayerType(SharedEmbed, kinds={"embeddings": TIED}))
register(LayerType(MultiHeadAttention, attention=Attention(lambda module: module.key_size, scales_logits=True)))
