"""Small models by width, models of one layer, and a Mup that has captured them."""
import functools

import haiku as hk
import jax
import jax.numpy as jnp

import haiku_mup

KEY = jax.random.PRNGKey(17)
MODELS = {}


def model(inputs):
    """Registers fn(inputs, width) in `MODELS` under its name; returns make(width), which transforms it."""
    def register(fn):
        def make(width):
            return hk.without_apply_rng(hk.transform(functools.partial(fn, width=width)))
        MODELS[fn.__name__] = make, inputs
        return make
    return register


@model(jnp.linspace(-1, 1, 12).reshape(2, 6))
def mlp(x, width):
    with haiku_mup.apply_mup():
        x = jax.nn.relu(hk.Linear(width)(x))
        x = jax.nn.relu(hk.Linear(width, w_init=hk.initializers.RandomNormal(0.3))(x))
        return haiku_mup.Readout(3, b_init=hk.initializers.RandomNormal())(x)


@model(jnp.linspace(-1, 1, 2 * 6 * 6 * 3).reshape(2, 6, 6, 3))
def cnn(x, width):
    with haiku_mup.apply_mup():
        x = jax.nn.relu(hk.Conv2D(width, 3)(x))
        x = hk.LayerNorm((-3, -2, -1), True, True, param_axis=(-1,))(x)
        x = hk.Conv2DTranspose(2 * width, 3)(x)
        x = hk.DepthwiseConv2D(1, 3)(x)
        return haiku_mup.Readout(3)(x.mean((1, 2)))


@model(jnp.linspace(-1, 1, 2 * 5 * 4).reshape(2, 5, 4))
def attention(x, width):
    init = hk.initializers.VarianceScaling(2.0)
    with haiku_mup.apply_mup():
        x = hk.Linear(width)(x)
        x = x + haiku_mup.MultiHeadAttention(2, width // 2, w_init=init)(x, x, x)
        return haiku_mup.Readout(3)(x)


@model(jnp.arange(6).reshape(2, 3))
def tied(ids, width):
    with haiku_mup.apply_mup():
        embed = haiku_mup.SharedEmbed(11, width)
        x = hk.LayerNorm(-1, True, True)(embed(ids))
        x = x + hk.Linear(width, with_bias=False)(x)
        return haiku_mup.SharedReadout(use_bias=True)(embed, x)


@model(jnp.linspace(-1, 1, 12).reshape(2, 6))
def stack(x, width):
    def block(x):
        return x + hk.Linear(width)(jax.nn.relu(hk.Linear(2 * width)(x)))

    with haiku_mup.apply_mup():
        x = hk.Linear(width)(x)
        x = hk.experimental.layer_stack(3)(hk.remat(block))(x)
        return haiku_mup.Readout(3)(x)


def captured(make, inputs, base=8, target=32, mup=None):
    """Returns a Mup that has captured the shapes of make(base) and make(target)."""
    mup = mup or haiku_mup.Mup()
    with mup.init_base():
        jax.eval_shape(make(base).init, KEY, inputs)
    with mup.init_target():
        jax.eval_shape(make(target).init, KEY, inputs)
    return mup


def one(layer, shape=(2, 6)):
    """Returns make(width) of a model that is layer(x, width) inside apply_mup(), and its inputs."""
    def fn(x, width):
        with haiku_mup.apply_mup():
            return layer(x, width)
    return (lambda width: hk.transform(functools.partial(fn, width=width))), jnp.ones(shape)


def entry(name, shape, init, module=None, dtype=jnp.float32):
    """Returns layer(x, width), which is one parameter of shape(width)."""
    def layer(x, width):
        return hk.get_parameter(name, shape(width), dtype, init=init)
    return layer




def both(function, *args):
    """Returns the parameters that a function makes, and its output with them."""
    model = hk.without_apply_rng(hk.transform(function))
    params = model.init(KEY, *args)
    return params, model.apply(params, *args)
