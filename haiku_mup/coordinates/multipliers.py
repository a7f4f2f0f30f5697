"""Measures the factor between a linear layer's product and that of its inputs with its stored weight."""
import jax
import jax.numpy as jnp
import numpy as np

from haiku_mup.coordinates.array_stats import replicated

ROWS, COLUMNS = 16, 16      # of the product, which are enough: the factor is the same in all


def multiplier_between(inputs: jax.Array, weight: jax.Array, product: jax.Array) -> jax.Array:
    """Returns the size of some entries of a product beside what the stored weight makes of the inputs; 0 for 0.

    It is the multiplier of μP, and of whatever else stands between the parameter and what the layer returns.
    It has no scatter, and so tells a wrong exponent of the width exactly.

    Args:
      inputs: [..., n_in].
      weight: [n_in, n_out], as it is stored.
      product: [..., n_out], what the layer returns, without its bias.

    >>> x, w = jnp.arange(6.0).reshape(2, 3), jnp.ones((3, 5))
    >>> float(multiplier_between(x, w, 0.25 * x @ w))
    0.25
    """
    inputs, weight, product = map(replicated, (inputs, weight, product))
    rows, columns = (_some_rows(x.reshape(-1, x.shape[-1])) for x in (inputs, product))
    rows, weight, columns = map(jax.lax.stop_gradient, (rows, weight[:, :COLUMNS], columns[:, :COLUMNS]))
    plain = jnp.abs(rows @ weight.astype(rows.dtype)).astype(jnp.float32).sum()
    scaled = jnp.abs(columns).astype(jnp.float32).sum()
    return jnp.where(plain > 0, scaled / jnp.where(plain > 0, plain, 1.0), 0.0)


def _some_rows(x: jax.Array) -> jax.Array:
    """Returns rows from all over a matrix: the first ones may be zero, as at the border of an image."""
    return x[np.unique(np.linspace(0, len(x) - 1, min(ROWS, len(x))).round().astype(np.int32))]
