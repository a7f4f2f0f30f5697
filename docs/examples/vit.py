"""A vision transformer in μP: patches, a class token, positions and pre-norm blocks."""
import functools

import haiku as hk
import jax
import jax.numpy as jnp
import optax

import haiku_mup

HEAD = 8            # size of a head; the number of heads grows with the width
INIT = hk.initializers.TruncatedNormal(0.02)


def norm(x):
    return hk.LayerNorm(-1, True, True)(x)


def block(x, width):
    y = norm(x)
    x = x + haiku_mup.MultiHeadAttention(width // HEAD, HEAD, model_size=width, w_init=INIT)(y, y, y)
    y = jax.nn.gelu(hk.Linear(4 * width)(norm(x)))
    return x + hk.Linear(width)(y)


def network(images, width, blocks=2, classes=10):
    """Maps images [batch, height, width, channels] to logits [batch, classes]."""
    with haiku_mup.apply_mup():
        x = hk.Conv2D(width, kernel_shape=4, stride=4)(images)          # a patch is 4 × 4 pixels
        x = x.reshape(len(x), -1, width)
        token = hk.get_parameter("class_token", (1, 1, width), init=INIT)
        x = jnp.concatenate([jnp.tile(token, (len(x), 1, 1)), x], axis=1)
        x = x + hk.get_parameter("positions", (1, *x.shape[1:]), init=INIT)
        for _ in range(blocks):
            x = block(x, width)
        return haiku_mup.Readout(classes)(norm(x)[:, 0])


def make_model(width):
    return hk.transform(functools.partial(network, width=width))


def loss_fn(apply, params, rng, batch):
    images, labels = batch
    logits = apply(params, rng, images)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
