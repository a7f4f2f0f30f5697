"""Sweeps learning rates of the guides' models in Flax NNX, Flax Linen and Equinox, standard and in μP."""
import functools
import sys

import jax
import jax.numpy as jnp
import optax

import haiku_mup
from demos.common import digits, flags, losses, sweeps

PROG = "python -m demos.frameworks"
BASE, BATCH, CLASSES = 64, 64, 10
SIZES = {"default": {"widths": "64,128,256,512", "log2_lrs": "-11:-4:1", "seeds": "3", "steps": "200"},
         "quick": {"widths": "64,128", "log2_lrs": "-9:-5:1", "seeds": "1", "steps": "60"}}


# --- the models: (pixels) -> make_model(width), and the function that makes their plan ---

def nnx(pixels):
    """Returns the model of docs/guides/flax_nnx.rst, with batch norm, and its plan."""
    from flax import nnx

    class Network(nnx.Module):
        def __init__(self, width, rngs):
            self.first = nnx.Linear(pixels, width, rngs=rngs)
            self.second = nnx.Linear(width, width, rngs=rngs)
            self.norm = nnx.BatchNorm(width, rngs=rngs)
            self.out = nnx.Linear(width, CLASSES, rngs=rngs)

        def __call__(self, x):
            x = jax.nn.relu(self.first(x))
            return self.out(jax.nn.relu(self.norm(self.second(x))))

    def make_model(width):
        return lambda key: Network(width, nnx.Rngs(key)), lambda model, rng, x: model(x)

    return make_model, functools.partial(haiku_mup.plan, fans=haiku_mup.flax_nnx, readouts="out.kernel")


def linen(pixels):
    """Returns the model of docs/guides/flax_linen.rst, and its plan."""
    from flax import linen

    class Network(linen.Module):
        width: int

        @linen.compact
        def __call__(self, x):
            x = linen.relu(linen.Dense(self.width)(x))
            x = linen.relu(linen.Dense(self.width)(x))
            return linen.Dense(CLASSES, name="out")(x)

    x = jnp.zeros((1, pixels))

    def make_model(width):
        model = Network(width)
        return (lambda key: model.init(key, x)["params"],
                lambda params, rng, x: model.apply({"params": params}, x))

    adapter = haiku_mup.flax_linen(Network(BASE), x)
    return make_model, functools.partial(haiku_mup.plan, fans=adapter, readouts="out.kernel")


def equinox(pixels):
    """Returns the model of docs/guides/equinox.rst, and its plan."""
    from demos.common.equinox_network import Network

    def make_model(width):
        return (lambda key: Network(width, key, pixels=pixels, classes=CLASSES),
                lambda model, rng, x: jax.vmap(model)(x))

    return make_model, functools.partial(haiku_mup.plan, fans=haiku_mup.equinox, readouts="out.weight")


FRAMEWORKS = {"nnx": (nnx, "Flax NNX"), "linen": (linen, "Flax Linen"), "equinox": (equinox, "Equinox")}


# --- the experiment ---

def make_trials(framework, args, data):
    """Returns {parametrization: make_trial}."""
    train, valid = (data.train_x, data.train_y), (data.valid_x, data.valid_y)
    make_model, plan = framework(data.train_x.shape[1])

    def optimizer(lr):
        return optax.adam(optax.linear_schedule(lr, 0, args.steps) if args.decay else lr)

    return {name: haiku_mup.training(
        make_model, train, losses.cross_entropy, optimizer, steps=args.steps, batch_size=BATCH, base_width=BASE,
        plan=plan, parametrization=name, evaluate={"train_loss": train, "valid_loss": valid})
        for name in args.parametrization}


# --- the command line ---

def add_flags(parser):
    """Adds the flags that only this demo has."""
    parser.add_argument("--steps", type=flags.positive_int,
                        help=f"of {BATCH} images; default: {SIZES['default']['steps']}")
    parser.add_argument("--decay", action="store_true", help="let the rate fall to zero, linearly")


def make_demo(name):
    """Returns the demo of a framework, by its name on the command line."""
    framework, title = FRAMEWORKS[name]
    return sweeps.SweepDemo(
        prog=f"{PROG} {name}", description=__doc__, sizes=SIZES, durations={"quick": "half a minute"},
        figures={"train_loss": f"{name}.png", "valid_loss": f"{name}_valid.png"}, add_flags=add_flags,
        load=lambda args: digits.load_and_print_source(), make_trials=functools.partial(make_trials, framework),
        title=lambda args, data: f"{title}, Adam, {args.steps} steps of {BATCH} of {data.source}",
        settings={"base_width": BASE, "batch": BATCH})


def main(argv=None):
    """Runs the demo of the framework that comes first; returns its exit code."""
    first, *rest = (sys.argv[1:] if argv is None else list(argv)) or [""]
    if first not in FRAMEWORKS:
        parser = flags.Parser(prog=PROG, description=__doc__, usage=f"{PROG} FRAMEWORK [flags]",
                              epilog=f"{PROG} FRAMEWORK --help shows the flags of its sweep")
        parser.add_argument("framework", choices=FRAMEWORKS)
        parser.parse_args([first] if first else [])
    return sweeps.main(make_demo(first), rest)


if __name__ == "__main__":
    sys.exit(main())
