"""Losses in the form that haiku_mup.coord_check takes: (apply, params, rng, batch) -> a scalar."""
import jax
import optax


def cross_entropy(apply, params, rng, batch):
    x, y = batch
    return optax.softmax_cross_entropy_with_integer_labels(apply(params, rng, x), y).mean()


def mean_squared_error(apply, params, rng, batch):
    """Computes the mean squared error of outputs from one-hot labels."""
    x, y = batch
    outputs = apply(params, rng, x)
    return ((outputs - jax.nn.one_hot(y, outputs.shape[-1], dtype=outputs.dtype))**2).mean()


LOSSES = {"ce": cross_entropy, "mse": mean_squared_error}
