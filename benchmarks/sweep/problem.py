"""The model in Haiku, and its loss."""
import haiku as hk
import jax
import optax

import haiku_mup
from benchmarks.sweep.settings import CLASSES, HIDDEN


def make_model(width):
    """Returns an MLP."""
    def fn(x):
        with haiku_mup.apply_mup():
            for _ in range(HIDDEN):
                x = jax.nn.relu(hk.Linear(width)(x))
            return haiku_mup.Readout(CLASSES)(x)
    return hk.transform(fn)


def loss_fn(apply, params, rng, batch):
    x, y = batch
    return optax.softmax_cross_entropy_with_integer_labels(apply(params, rng, x), y).mean()
