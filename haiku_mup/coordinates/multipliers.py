"""Measures the factor between a linear layer's product and that of its inputs with its stored weight."""
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap

from haiku_mup.coordinates.array_stats import replicated
from haiku_mup.optimizers.numpy_evaluation import numpy_function

ROWS, COLUMNS = 16, 16      # of the product, which are enough: the factor is the same in all


def measured_sizes(inputs: jax.Array, weight: jax.Array, product: jax.Array) -> jax.Array:
    """Returns [1, size of some entries of a product, size of what the stored weight makes of the inputs].

    The ratio of the sizes is the multiplier of μP, and of whatever else stands between the parameter and what
    the layer returns. It has no scatter, and so tells a wrong exponent of the width exactly. The three numbers
    can be added up over calls, and are added up under vmap.

    Args:
      inputs: [..., n_in].
      weight: [n_in, n_out], as it is stored.
      product: [..., n_out], what the layer returns, without its bias.

    >>> x, w = jnp.arange(6.0).reshape(2, 3), jnp.ones((3, 5))
    >>> multiplier_of(measured_sizes(x, w, 0.25 * x @ w))
    0.25
    """
    inputs, weight, product = (jax.lax.stop_gradient(replicated(x)) for x in (inputs, weight, product))
    rows, columns = (_some_rows(x.reshape(-1, x.shape[-1])) for x in (inputs, product))
    plain = rows @ _first_columns(weight).astype(rows.dtype)
    sizes = [jnp.abs(x).astype(jnp.float32).sum() for x in (_first_columns(columns), plain)]
    counted: jax.Array = _sum_over_batch(jnp.stack([jnp.ones((), jnp.float32), *sizes]))
    return counted


def traced_sizes(layer: Callable[[jax.Array, jax.Array], jax.Array], inputs: jax.Array,
                 weight: jax.Array) -> jax.Array | None:
    """Returns the same three numbers for inputs and a weight of ones, found by tracing the layer by itself.

    They take no part in a program that is to be compiled, where `measured_sizes` would take as long as
    the rest of a small model.

    Args:
      layer: from inputs and a weight to their product, times whatever the layer multiplies it by.
      inputs: [..., n_in]; their type is what counts.
      weight: [n_in, n_out]; its type is what counts.

    Returns:
      The numbers; None where the product depends on other arrays, or is not proportional to the weight.

    >>> x, w = jnp.ones((8, 2)), jnp.ones((2, 5))
    >>> multiplier_of(traced_sizes(lambda x, w: 0.25 * x @ w, x, w)), traced_sizes(lambda x, w: x @ w**2, x, w)
    (0.25, None)
    """
    types = [jax.ShapeDtypeStruct((1,) * (inputs.ndim - 1) + inputs.shape[-1:], inputs.dtype),
             jax.ShapeDtypeStruct(weight.shape, weight.dtype)]
    x, w = (np.broadcast_to(np.ones((), each.dtype), each.shape) for each in types)
    try:
        evaluate = numpy_function(jax.make_jaxpr(layer)(*types))
        (once,), (twice,) = evaluate(x, w), evaluate(x, 2 * w)
    except Exception:       # user's getters of parameters may do anything
        return None
    size = float(np.abs(once).mean())
    if not 0 < size < math.inf or not np.allclose(twice, 2 * once, rtol=1e-3):
        return None
    return jnp.array([1.0, size, inputs.shape[-1]], jnp.float32)


def multiplier_of(sums: np.ndarray) -> float | None:
    """Returns the multiplier that sums of `measured_sizes` tell; None where a product is zero.

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
