"""What the tests share: seeds, small models, the capture of a base and a target, and a demo's run."""
import concurrent.futures
import contextlib
import csv
import functools
import importlib.util
import io

import haiku as hk
import jax
import jax.numpy as jnp
import pytest

import haiku_mup

KEY = jax.random.PRNGKey(17)
MODELS = {}


def model(inputs):
    """Registers fn(inputs, width) as a model to test, and gives hk.transform by width."""
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
    """A Mup that has seen make(base) and make(target), by their shapes."""
    mup = mup or haiku_mup.Mup()
    with mup.init_base():
        jax.eval_shape(make(base).init, KEY, inputs)
    with mup.init_target():
        jax.eval_shape(make(target).init, KEY, inputs)
    return mup


def one(layer, shape=(2, 6)):
    """make(width) of a model that is one function layer(x, width) inside apply_mup(), and inputs."""
    def fn(x, width):
        with haiku_mup.apply_mup():
            return layer(x, width)
    return (lambda width: hk.transform(functools.partial(fn, width=width))), jnp.ones(shape)


def entry(name, shape, init, module=None, dtype=jnp.float32):
    """A layer that is one parameter of the given shape(width)."""
    def layer(x, width):
        return hk.get_parameter(name, shape(width), dtype, init=init)
    return layer


def equal(a, b):
    """Whether two trees are equal, bit for bit."""
    return jax.tree.structure(a) == jax.tree.structure(b) and jax.tree.all(
        jax.tree.map(lambda x, y: bool((x == y).all()) and x.dtype == y.dtype, a, b))


def records(losses, name="sp", width=64):
    """A sweep's rows: one for each of {log2 lr: losses of the seeds}."""
    return [{"parametrization": name, "width": width, "lr": 2.0**k, "seed": seed, "train_loss": loss}
            for k, seeds in losses.items() for seed, loss in enumerate(seeds)]


def demo_run(main, argv, out, hidden="mlxtend"):
    """What a demo returns and says, with `--out`; in this process, and as if a package were not there."""
    from demos.common import sweeps  # imports matplotlib

    said, find = io.StringIO(), importlib.util.find_spec
    with (pytest.MonkeyPatch.context() as monkeypatch, jax.numpy_rank_promotion("raise"),
          concurrent.futures.ThreadPoolExecutor(1) as here, contextlib.redirect_stdout(said),
          contextlib.redirect_stderr(said)):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == hidden else find(name))
        monkeypatch.setattr(sweeps, "cluster", lambda address: here)
        code = main([*argv, "--out", str(out)])
    return code, said.getvalue()


def table(out):
    """The records in a demo's folder."""
    with open(out / "results.csv", encoding="utf-8") as file:
        return list(csv.DictReader(file))
