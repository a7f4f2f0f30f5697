"""Measures the factor between a linear layer's product and that of its inputs with its stored weight."""
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap

from haiku_mup.coordinates.array_stats import replicated

ROWS, COLUMNS = 16, 16      # of the product, which are enough: the factor is the same in all


def product_sizes(inputs: jax.Array, weight: jax.Array, product: jax.Array) -> jax.Array:
    """Returns a 1, the size of some entries of a product, and of what the stored weight makes of the inputs.

    The ratio of the sizes is the multiplier of μP, and of whatever else stands between the parameter and what
    the layer returns. It has no scatter, and so tells a wrong exponent of the width exactly. The three numbers
    can be added up over calls, and are added up under vmap.

    Args:
      inputs: [..., n_in].
      weight: [n_in, n_out], as it is stored.
      product: [..., n_out], what the layer returns, without its bias.

    >>> x, w = jnp.arange(6.0).reshape(2, 3), jnp.ones((3, 5))
    >>> multiplier_of(product_sizes(x, w, 0.25 * x @ w))
    0.25
    """
    inputs, weight, product = (jax.lax.stop_gradient(replicated(x)) for x in (inputs, weight, product))
    rows, columns = (_some_rows(x.reshape(-1, x.shape[-1])) for x in (inputs, product))
    plain = rows @ _first_columns(weight).astype(rows.dtype)
    sizes = [jnp.abs(x).astype(jnp.float32).sum() for x in (_first_columns(columns), plain)]
    counted: jax.Array = _sum_over_batch(jnp.stack([jnp.ones((), jnp.float32), *sizes]))
    return counted


def multiplier_of(sums: np.ndarray) -> float | None:
    """Returns the multiplier that sums of `product_sizes` tell; None where a product is zero.

    >>> multiplier_of(np.array([2.0, 1.0, 4.0])), multiplier_of(np.zeros(3))
    (0.25, None)
    """
    _, scaled, plain = map(float, sums)
    return scaled / plain if 0 < scaled < math.inf and 0 < plain < math.inf else None


@custom_vmap
def _sum_over_batch(x: jax.Array) -> jax.Array:
    """Returns an array as it is; under vmap, the sum over the batch, which Haiku's state can keep."""
    return x


@_sum_over_batch.def_vmap
def _(axis_size, in_batched, x):
    del axis_size, in_batched
    return _sum_over_batch(x.sum(0)), False


def _some_rows(x: jax.Array) -> jax.Array:
    """Returns rows from all over a matrix: the first ones may be zero, as at the border of an image."""
    stride = max(1, (len(x) - 1) // (ROWS - 1))
    return jax.lax.slice_in_dim(x, 0, min(len(x), (ROWS - 1) * stride + 1), stride)


def _first_columns(x: jax.Array) -> jax.Array:
    return jax.lax.slice_in_dim(x, 0, min(x.shape[1], COLUMNS), axis=1)
