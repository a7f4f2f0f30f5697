"""The models in Haiku, their loss and their batch."""
import haiku as hk
import jax
import jax.numpy as jnp
import optax

import haiku_mup
from benchmarks.coord_check.settings import BATCH, CLASSES, HEADS, INPUTS, LENGTH


def mlp(x, width, layers):
    """Applies three hidden layers to the mean of the sequence."""
    x = x.mean(1)
    for _ in range(3):
        x = jax.nn.relu(hk.Linear(width)(x))
    return haiku_mup.Readout(CLASSES)(x)


def transformer(x, width, layers):
    """Applies a stack of pre-LN blocks."""
    def block(x):
        y = hk.LayerNorm(-1, True, True)(x)
        x = x + haiku_mup.MultiHeadAttention(HEADS, width // HEADS, w_init=init)(y, y, y)
        y = hk.LayerNorm(-1, True, True)(x)
        return x + hk.Linear(width)(jax.nn.relu(hk.Linear(4 * width)(y)))

    init = hk.initializers.VarianceScaling()
    x = hk.experimental.layer_stack(layers)(block)(hk.Linear(width)(x))
    return haiku_mup.Readout(CLASSES)(x.mean(1))


def make_problem(model, layers):
    """Returns make_model, loss_fn and batch of a model."""
    def make_model(width):
        def fn(x):
            with haiku_mup.apply_mup():
                return {"mlp": mlp, "transformer": transformer}[model](x, width, layers)
        return hk.transform(fn)

    def loss_fn(apply, params, rng, batch):
        x, y = batch
        return optax.softmax_cross_entropy_with_integer_labels(apply(params, rng, x), y).mean()

    x = jax.random.normal(jax.random.PRNGKey(0), (BATCH, LENGTH if model == "transformer" else 1, INPUTS))
    return make_model, loss_fn, (x, jnp.arange(BATCH) % CLASSES)
