"""The forms of μP, and models of many layers that train alike in each."""
import functools

import haiku as hk
import jax
import jax.numpy as jnp

import haiku_mup
from haiku_mup import maximal_update

FORMS = {form: maximal_update(form) for form in ("table8", "table3", "table9", "mean_field")}
FORMS |= {f"abcd {o}": maximal_update("abcd", optimizer=o) for o in ("adam", "sgd")}
X = jnp.linspace(-1, 1, 2 * 5 * 4).reshape(2, 5, 4)
IDS = jnp.arange(6).reshape(2, 3)


def rectangular(x, width):
    """Widths that grow by 4, by 9 and by 2; the norm's gain and the biases are no zeros."""
    bias = hk.initializers.RandomNormal(0.1)
    with haiku_mup.apply_mup():
        x = jax.nn.relu(hk.Linear(width, b_init=bias)(x))
        x = jnp.tanh(hk.Linear({8: 5, 32: 45}[width], b_init=bias, w_init=hk.initializers.RandomNormal(0.3))(x))
        x = hk.LayerNorm(-1, True, True)(hk.Linear({8: 12, 32: 24}[width])(x))
        return haiku_mup.Readout(3, b_init=bias)(x)


def block(x, width):
    y = hk.LayerNorm(-1, True, True)(x)
    init = hk.initializers.VarianceScaling()
    bias = hk.initializers.RandomNormal(0.1)
    x = x + haiku_mup.MultiHeadAttention(2, width // 2, w_init=init, b_init=bias)(y, y, y)
    y = hk.LayerNorm(-1, True, True)(x)
    return x + hk.Linear(width)(jax.nn.gelu(hk.Linear({8: 20, 32: 180}[width])(y)))


def transformer(x, width):
    """Pre-LN, its blocks stacked under remat; one width grows by 4, the other by 9."""
    with haiku_mup.apply_mup():
        x = hk.Linear(width)(x) + hk.get_parameter(
            "places", (5, width), x.dtype, init=hk.initializers.RandomNormal(0.3))[None]
        x = hk.experimental.layer_stack(2)(hk.remat(functools.partial(block, width=width)))(x)
        return haiku_mup.Readout(3)(hk.LayerNorm(-1, True, True)(x))


def convolutions(x, width):
    """Channels that grow by 4 and by 2."""
    with haiku_mup.apply_mup():
        x = hk.BatchNorm(True, True, 0.9)(hk.Conv2D(width, 3)(x), is_training=True)
        x = hk.Conv2DTranspose({8: 12, 32: 24}[width], 3)(jax.nn.relu(x))
        x = hk.DepthwiseConv2D(1, 3)(x)
        x = hk.GroupNorm(2)(hk.Conv2D(width, 3, feature_group_count=2)(x))
        return haiku_mup.ConvReadout(2, 3, 1)(x).mean((1, 2))


def recurrent(x, width):
    """An LSTM, whose rows differ; a GRU and an hk.scan, whose weights are read as parameters."""
    with haiku_mup.apply_mup():
        lstm, gru = hk.LSTM(width), hk.GRU(width)
        zeros = jnp.zeros((2, width), x.dtype)
        x, _ = hk.dynamic_unroll(lstm, x.swapaxes(0, 1), hk.LSTMState(zeros, zeros))
        x, _ = hk.dynamic_unroll(gru, x, zeros)
        linear = hk.Linear(width)
        _, x = hk.scan(lambda c, x: (jnp.tanh(linear(c) + x),) * 2, jnp.zeros_like(x[0]), x)
        x = hk.vmap(hk.Linear(width, name="mapped"), split_rng=False)(x)
        return haiku_mup.Readout(3)(x)


def double(next_creator, shape, dtype, init, context):
    """hk.Embed makes float32 whatever the mode."""
    return next_creator(shape, jnp.float64, init)


def own(x, width):
    """Parameters of one's own, on several axes, an embedding, a bias; an einsum makes the outputs."""
    init = hk.initializers.RandomNormal(0.3)
    with hk.custom_creator(double), haiku_mup.apply_mup():
        codes = hk.Embed(7, width, lookup_style="ONE_HOT", w_init=init)(jnp.arange(10).reshape(2, 5) % 7)
        x = codes + hk.Linear(width)(x)
        with haiku_mup.fans(fan_in=0, fan_out=(1, 2)):
            w = hk.get_parameter("heads", (width, 2, width // 2), x.dtype, init=init)
        x = hk.Bias(bias_dims=[-1], b_init=init)(jnp.tanh(jnp.einsum("...d,dhk->...hk", x, w)))
        return jnp.einsum("...hk,hkc->...c", x, hk.get_parameter(
            "outputs", (2, width // 2, 3), x.dtype, init=init))


def with_tie(ids, width):
    with hk.custom_creator(double), haiku_mup.apply_mup():
        embed = haiku_mup.SharedEmbed(11, width, w_init=hk.initializers.RandomNormal(0.5))
        x = hk.LayerNorm(-1, True, True)(embed(ids))
        x = x + hk.Linear(width, with_bias=False)(jnp.tanh(hk.Linear({8: 12, 32: 24}[width])(x)))
        return haiku_mup.SharedReadout(use_bias=True)(embed, x)


MODELS = {
    "rectangular": (rectangular, X, {}), "transformer": (transformer, X, {}), "tied": (with_tie, IDS, {}),
    "convolutions": (convolutions, jnp.linspace(-1, 1, 2 * 6 * 6 * 3).reshape(2, 6, 6, 3), {}),
    "recurrent": (recurrent, X, {}),
    "own": (own, X, {"readouts": "*/outputs", "fans": {"*/outputs": ((0, 1), 2)}}),
}
