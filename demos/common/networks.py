"""Small networks of several kinds, from images [batch, rows, columns] to logits [batch, CLASSES]."""
import functools

import haiku as hk
import jax
import jax.numpy as jnp

import haiku_mup

CLASSES, BLOCKS, HEADS = 10, 2, 4
POSITIONS = 7       # groups of rows that the transformer attends to


def mlp(x, width):
    """Applies three hidden layers."""
    x = x.reshape(x.shape[0], -1)
    for _ in range(3):
        x = jax.nn.relu(hk.Linear(width)(x))
    return haiku_mup.Readout(CLASSES)(x)


def cnn(x, width):
    """Applies two convolutions with pooling, and a hidden layer."""
    x = x[..., None]
    for _ in range(2):
        x = hk.avg_pool(jax.nn.relu(hk.Conv2D(width // 4, 3)(x)), (2, 2, 1), (2, 2, 1), "SAME")
    x = jax.nn.relu(hk.Linear(width)(hk.Flatten()(x)))
    return haiku_mup.Readout(CLASSES)(x)


def resnet(x, width):
    """Applies residual blocks of convolutions with batch norm, which keeps its averages in Haiku's state."""
    conv = functools.partial(hk.Conv2D, width // 4, 3, with_bias=False)
    norm = functools.partial(hk.BatchNorm, True, True, 0.9)
    x = conv(stride=2)(x[..., None])
    for _ in range(BLOCKS):
        y = conv()(jax.nn.relu(norm()(x, is_training=True)))
        x = x + conv()(jax.nn.relu(norm()(y, is_training=True)))
    x = jax.nn.relu(norm()(x, is_training=True))
    return haiku_mup.Readout(CLASSES)(x.mean((1, 2)))


def rnn(x, width):
    """Applies an LSTM that reads row after row."""
    core = hk.LSTM(width)
    x, _ = hk.dynamic_unroll(core, x.swapaxes(0, 1), core.initial_state(x.shape[0]))
    return haiku_mup.Readout(CLASSES)(x[-1])


def transformer(x, width):
    """Applies a stack of pre-LN blocks of attention and an MLP; positions are groups of rows."""
    init = hk.initializers.VarianceScaling()

    def block(x):
        y = hk.LayerNorm(-1, True, True)(x)
        x = x + haiku_mup.MultiHeadAttention(HEADS, width // HEADS, w_init=init)(y, y, y)
        y = hk.LayerNorm(-1, True, True)(x)
        return x + hk.Linear(width)(jax.nn.gelu(hk.Linear(4 * width)(y)))

    x = x.reshape(x.shape[0], POSITIONS, -1)
    places = hk.get_parameter("places", (POSITIONS, width), init=hk.initializers.RandomNormal(0.5))
    x = hk.Linear(width)(x) + jnp.broadcast_to(places, (x.shape[0], *places.shape))
    x = hk.experimental.layer_stack(BLOCKS)(block)(x)
    x = hk.LayerNorm(-1, True, True)(x)
    return haiku_mup.Readout(CLASSES)(x.mean(1))


NETWORKS = {function.__name__: function for function in (mlp, cnn, resnet, rnn, transformer)}


def make_model(name, width):
    """Transforms the network of a name."""
    def fn(x):
        with haiku_mup.apply_mup():
            return NETWORKS[name](x, width)

    return hk.transform_with_state(fn) if name == "resnet" else hk.transform(fn)
