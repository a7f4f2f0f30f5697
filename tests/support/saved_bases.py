"""Models whose bases version 0.2.0 saved: `python tests/support/saved_bases.py FOLDER`, with that version.

For each it writes NAME.json, by Mup.save, and NAME.rows.json, the rows of its target's table.
"""
import dataclasses
import functools
import json
import pathlib
import sys

import haiku as hk
import jax
import jax.numpy as jnp

import haiku_mup

WIDTHS = {"base": 8, "delta": 16, "target": 32}
NORMAL = hk.initializers.RandomNormal(0.1)
X = jnp.zeros((2, 4, 6))        # [batch, time, features]


def plain(x, width):
    """Every role, in the default parametrization."""
    x = jax.nn.relu(hk.Linear(width)(x))
    return haiku_mup.Readout(3)(jax.nn.relu(hk.Linear(width)(x)))


def structures(x, width, blocks):
    """Rows of [x, h], key sizes, stacks, a tied embedding, and all that a user declares."""
    def block(x):
        attention = haiku_mup.MultiHeadAttention(2, width // 2, w_init=NORMAL)
        return haiku_mup.residual(x, lambda x: attention(x, x, x))

    core = hk.LSTM(width)
    x, _ = hk.dynamic_unroll(core, x, core.initial_state(x.shape[1]))
    x = hk.layer_stack(blocks)(block)(x)
    experts = hk.get_parameter("experts", (width // 4, width, 2 * width), init=NORMAL)
    with haiku_mup.fans(1, 0):
        x = x @ hk.get_parameter("transposed", (width, width), init=NORMAL).T
    x = jnp.einsum("...i,eio->...o", x, experts)
    embed = haiku_mup.SharedEmbed(5, 2 * width, w_init=NORMAL)
    return hk.Linear(3, name="logits", w_init=jnp.zeros)(x), haiku_mup.SharedReadout()(embed, x)


def captured(name, side):
    """Returns a function that initialises a model by its shapes."""
    settings = {"width": WIDTHS[side]} | (
        {"blocks": 3 if side == "target" else 2} if name == "structures" else {})

    def fn(x):
        with haiku_mup.apply_mup():
            return MODELS[name](x, **settings)
    return functools.partial(jax.eval_shape, hk.transform(fn).init, jax.random.PRNGKey(0), X)


def declared(name):
    """Returns a Mup with a model's declarations."""
    return haiku_mup.Mup() if name == "plain" else haiku_mup.Mup(
        parametrization=haiku_mup.maximal_update("table9", depth_alpha=0.5), readouts="logits",
        fans={"*/experts": (-2, -1, 0)}, init_mults={"lstm/*/w": 2.0}, lr_mults={"shared_embed/*": 0.5})


def base(name):
    """Returns a Mup that has captured a model's base and delta."""
    mup = declared(name)
    with mup.init_base():
        captured(name, "base")()
    with mup.init_delta():
        captured(name, "delta")()
    return mup


def rows(name, mup):
    """Returns the rows of the target's table as plain values."""
    with mup.init_target():
        captured(name, "target")()
    return json.loads(json.dumps([dataclasses.asdict(row) for row in mup.table()]))


MODELS = {"plain": plain, "structures": structures}


def main(folder):
    """Writes both files of each model."""
    for name in MODELS:
        mup = base(name)
        mup.save(pathlib.Path(folder, f"{name}.json"))
        pathlib.Path(folder, f"{name}.rows.json").write_text(json.dumps(rows(name, mup), indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
