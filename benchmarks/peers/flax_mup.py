"""Measurements of JesseFarebro/flax-mup."""
import functools
import pickle
from typing import Any

import jax
import optax
from flax import linen as nn

from benchmarks.peers.common import (
    DECAY,
    EVEN,
    LR,
    STD,
    UNEVEN,
    WIDE,
    fill,
    import_from,
    jax_inputs,
    step_size,
)

KEY, (X, IMAGE, IDS) = jax.random.key(0), jax_inputs()
INITIALIZERS = [nn.initializers.variance_scaling(1.0, "fan_in", "normal"), nn.initializers.normal(STD),
                nn.initializers.variance_scaling(1.0, "fan_out", "normal")]


def measures(folder):
    """Returns {row: function of nothing} of the package in the folder."""
    mup = import_from(folder, "flax_mup", "flax_mup")

    class Net(mup.Module):              # flax-mup scales by its models' field `width`, here 1 for the base
        body: Any
        widths: Any = EVEN

        @nn.compact
        def __call__(self):
            return self.body(*self.widths[self.width > 1])

    def init(body, widths=EVEN, width=7, times=1, **options):
        run = jax.jit(functools.partial(Net(body, widths, width=width).init, **options))
        return [run(KEY) for _ in range(times)][-1]

    def factor(params, decay=0.0):
        optimizer = optax.adamw(LR, weight_decay=decay)
        return step_size(params, decay, optax.chain(optimizer, mup.scale_adam_by_mup()))

    def std(name, *args, **options):
        return float(nn.unbox(init(*args, **options))["params"][name]["kernel"].std())

    def std_ratio(initializer):
        base, target = (std("h", functools.partial(mlp, init=initializer), WIDE, width) for width in (1, 8))
        return target / base * 8**0.5

    def output_factor(body):
        return f"found: drawn times {std('out', body) / std('out', body, allow_mup=False):.3f}"

    return {
        "init": lambda: [std_ratio(initializer) for initializer in INITIALIZERS],
        "adam": lambda: factor(init(mlp, UNEVEN)),
        "transposed": lambda: factor(init(transposed, UNEVEN)),
        "adamw": lambda: factor(init(mlp), DECAY),
        "tied": lambda: float(Net(tied, width=7).apply(fill(init(tied), 1.0)).mean()) / EVEN[1][0],
        "output": lambda: output_factor(mlp),
        "conv_output": lambda: output_factor(conv_output),
        "stacked": lambda: factor(init(stacked)),
        "traced": lambda: factor(init(mlp, times=2)),
        "file": lambda: f"{factor(pickle.loads(pickle.dumps(init(mlp)))):.3f}, of pickled parameters",
    }


def mlp(w1, w2, init=INITIALIZERS[0]):
    return nn.Dense(5, name="out")(nn.Dense(w2, kernel_init=init, name="h")(nn.Dense(w1)(X)))


def transposed(w1, w2):
    y = nn.ConvTranspose(w2, (3, 3), name="h")(nn.Conv(w1, (3, 3))(IMAGE))
    return nn.Dense(5)(y.mean((1, 2)))


def tied(w1, _):
    embed = nn.Embed(11, w1)
    return embed.attend(embed(IDS))


def conv_output(w1, _):
    return nn.Conv(5, (3, 3), name="out")(nn.Conv(w1, (3, 3))(IMAGE))


def stacked(w1, _):
    scan = nn.scan(lambda layer, y, _: (layer(y), None), variable_axes={"params": 0},
                   split_rngs={"params": True}, length=2)
    return nn.Dense(5)(scan(nn.Dense(w1, name="h"), nn.Dense(w1)(X), None)[0])
