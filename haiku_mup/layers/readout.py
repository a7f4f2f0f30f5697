"""Output layers: linear and convolutional, with inputs multiplied by μP's factor."""
from collections.abc import Sequence
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp

from haiku_mup.errors import MupError
from haiku_mup.parameters.haiku_layers import READOUT, LayerType, register, weight_shape
from haiku_mup.parameters.initializers import Initializer
from haiku_mup.parameters.row_factors import scaled
from haiku_mup.tracing.layer_multipliers import multiplier


class Readout(hk.Linear):
    """A linear output layer: hk.Linear with its inputs multiplied by `output_mult` / m_in.

    Use it for every linear layer from a width that grows to a fixed size. The bias is added after the
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
          zero_init: whether the weights start at zero, so that the first outputs are the bias at any width.

        Raises:
          MupError: `zero_init` together with `w_init`; a size or a multiplier that is no number.
        """
        _check_arguments("Readout", output_size=output_size, output_mult=output_mult)
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
    """A convolutional output layer: hk.ConvND with its inputs multiplied by `output_mult` / m_in.

    Use it if a network ends in a convolution from channels that grow to a fixed number of channels. The bias is
    added after the multiplier, and is not multiplied. Outside of μP, m_in is 1. (Tensor Programs V, arXiv
    2203.03466, Table 8, output weights; a convolution's fan-in grows with its channels, not with its kernel.)

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
          zero_init: whether the weights start at zero, so that the first outputs are the bias at any width.
          **kwargs: other arguments of hk.ConvND: stride, padding, with_bias, w_init, data_format, name, ….

        Raises:
          MupError: `zero_init` together with `w_init`; a size or a multiplier that is no number.
        """
        _check_arguments("ConvReadout", output_channels=output_channels, output_mult=output_mult)
        if zero_init and kwargs.get("w_init") is not None:
            raise MupError("ConvReadout: zero_init=True and a w_init: give one of the two")
        if zero_init:
            kwargs["w_init"] = jnp.zeros
        super().__init__(num_spatial_dims, output_channels, kernel_shape, **kwargs)
        self.output_mult = output_mult

    def __call__(self, inputs: jax.Array, *, precision: Any = None) -> jax.Array:
        """Maps inputs [N, ..., fan_in] to [N, ..., output_channels], with any data_format.

        Args:
          inputs: activations. The spatial dimensions are between batch and channels, or last.
          precision: of the convolution, as in hk.ConvND.

        Raises:
          MupError: in a wrapped model, a readout that was not captured with this shape.
        """
        out: jax.Array = super().__call__(_multiplied(self, inputs), precision=precision)
        return out


def _check_arguments(layer: str, output_mult: Any, **size: Any) -> None:
    """Checks that a size is a number from 1 up, and that a multiplier is a number, which may be traced."""
    (name, value), = size.items()
    if isinstance(value, (str, float, bool, type(None))) or isinstance(value, int) and value < 1:
        raise MupError(f"{layer}: {name}={value!r}: give the number of outputs, 1 or more")
    if isinstance(output_mult, (str, bool, type(None))):
        raise MupError(f"{layer}: output_mult={output_mult!r}: give a number, such as 2.0")


def _multiplied(layer: Readout | ConvReadout, inputs: jax.Array) -> jax.Array:
    """Returns the inputs times `output_mult` and μP's factor."""
    factor = multiplier(f"{layer.module_name}/w", weight_shape(layer, inputs))
    multiplied: jax.Array = scaled(inputs, layer.output_mult * factor)
    return multiplied


register(LayerType(Readout, kinds={"w": READOUT}))
register(LayerType(ConvReadout, kinds={"w": READOUT}))
