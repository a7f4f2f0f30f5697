"""Models that grow in depth: one block, in every structure that repeats it; and what tests of depth share."""
import functools
import re

import haiku as hk
import jax
import jax.numpy as jnp
import pytest
from small_models import KEY
from transparent_stack import Map

import haiku_mup
from haiku_mup import maximal_update

X = jnp.linspace(-1, 1, 24).reshape(4, 6)
BASE, TARGET = (2, 8), (6, 16)          # blocks, width
draws = hk.initializers.VarianceScaling(1.0)
CASES = [("table8", None), ("table3", None), ("table9", None), ("mean_field", None), ("abcd", "adam"),
         ("abcd", "sgd")]


def form(name, optimizer=None, alpha=1.0):
    return maximal_update(name, optimizer=optimizer, depth_alpha=alpha)


def completep(alpha=1.0):
    return haiku_mup.Mup(parametrization=maximal_update(depth_alpha=alpha))


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


def raises(*parts):
    return pytest.raises(haiku_mup.MupError, match=".*".join(map(re.escape, parts)))


# --- models: one block, in every structure that repeats it ---

def norm(x):
    return hk.LayerNorm(-1, True, True)(x)


def mlp(x):
    width = x.shape[-1]
    y = jax.nn.relu(hk.Linear(2 * width, w_init=draws, b_init=draws, name="up")(norm(x)))
    return hk.Linear(width, w_init=draws, b_init=draws, name="down")(y)


def mix(x):
    return jnp.tanh(hk.Linear(x.shape[-1], w_init=draws, name="mix")(x))


def block(x):
    """Two branches."""
    return haiku_mup.residual(haiku_mup.residual(x, mlp), mix)


class Block(hk.Module):
    def __call__(self, x):
        return block(x)


def transparent(count):
    return hk.layer_stack(count, transparent=True, transparency_map=Map())


def scoped(x, blocks):
    for i in range(blocks):
        with hk.name_scope(f"block_{i}"):
            x = block(x)
    return x


def modules(x, blocks):
    for _ in range(blocks):
        x = Block()(x)                  # "block", "block_1", …
    return x


def made_first(x, blocks):
    class Net(hk.Module):
        def __init__(self):
            super().__init__()
            self.blocks = [Block(name=f"block_{i + 1}") for i in range(blocks)]     # from 1 on

        def __call__(self, x):
            return hk.Sequential(self.blocks)(x)

    return Net()(x)


STRUCTURES = {
    "layer_stack": lambda x, n: hk.layer_stack(n)(block)(x),
    "layer_stack of remat": lambda x, n: hk.layer_stack(n, unroll=2)(hk.remat(block))(x),
    "layer_stack nested": lambda x, n: hk.layer_stack(n // 2)(lambda x: hk.layer_stack(2)(block)(x))(x),
    "layer_stack transparent": lambda x, n: transparent(n)(block)(x),
    "transparent, of modules": lambda x, n: transparent(n)(lambda x: Block()(x))(x),
    "name_scope": scoped,
    "modules": modules,
    "modules made first": made_first,
    "modules in a stack": lambda x, n: hk.layer_stack(2)(lambda x: scoped(x, n // 2))(x),
    "a stack in modules": lambda x, n: functools.reduce(
        lambda x, i: hk.to_module(hk.layer_stack(n // 2)(block))(f"stage_{i}")(x), range(2), x),
}


def model(body, blocks, width):
    def fn(x):
        with haiku_mup.apply_mup():
            x = body(hk.Linear(width, w_init=draws, name="first")(x), blocks)
            return haiku_mup.Readout(3, w_init=draws)(norm(x))
    return hk.without_apply_rng(hk.transform(fn))


def capture(body, base=BASE, target=TARGET, mup=None, x=X):
    mup = completep() if mup is None else mup
    with mup.init_base():
        jax.eval_shape(model(body, *base).init, KEY, x)
    with mup.init_target():
        jax.eval_shape(model(body, *target).init, KEY, x)
    return mup
