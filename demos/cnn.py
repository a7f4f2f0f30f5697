"""Sweeps learning rates over widths: a CNN with batch norm, standard and in μP."""
import functools
import math
import sys

import haiku as hk
import jax
import optax

import haiku_mup
from demos.common import digits, flags, losses, sweeps

PROG = "python -m demos.cnn"
BASE, BATCH, CLASSES, LAYERS, DECAY = 16, 64, 10, 3, 0.9
SIZES = {"default": {"widths": "16,32,64", "log2_lrs": "-6:-1.5:0.5", "seeds": "4", "steps": "100"},
         "quick": {"widths": "16,64", "log2_lrs": "-6:-2:1", "seeds": "1", "steps": "60"}}
FIGURES = {"train_loss": "cnn.png", "valid_loss": "cnn_valid.png"}


# --- the experiment ---

def network(x, width, is_training=True):
    """Maps images [batch, rows, columns] to logits [batch, CLASSES]; the width is the number of channels."""
    with haiku_mup.apply_mup():
        x = hk.avg_pool(x[..., None], 2, 2, "VALID")    # a quarter of the pixels, and of the time
        for _ in range(LAYERS):
            x = hk.Conv2D(width, 3, stride=2, with_bias=False)(x)
            x = jax.nn.relu(hk.BatchNorm(True, True, DECAY)(x, is_training))
        return haiku_mup.Readout(CLASSES)(x.mean((1, 2)))


def make_model(width):
    """Transforms the network; its batch norms keep averages in Haiku's state, for validation."""
    return hk.transform_with_state(functools.partial(network, width=width))


def make_trials(args, data):
    """Returns {parametrization: make_trial}."""
    side = math.isqrt(data.train_x.shape[1])
    train, valid = ((x.reshape(-1, side, side), y) for x, y in (data[:2], data[2:4]))

    def valid_loss(apply, params, rng):
        """Computes the loss with the averages that the batch norms have kept."""
        return losses.cross_entropy(functools.partial(apply, is_training=False), params, rng, valid)

    def optimizer(lr):
        """Decays the rate to zero, so that the batch norms average over weights that hardly move."""
        return optax.adam(optax.linear_schedule(lr, 0, args.steps))

    return {name: haiku_mup.training(
        make_model, train, losses.cross_entropy, optimizer, steps=args.steps, batch_size=BATCH, base_width=BASE,
        parametrization=name, evaluate={"valid_loss": valid_loss}) for name in args.parametrization}


# --- the command line ---

def add_flags(parser):
    """Adds the flags that only this demo has."""
    parser.add_argument("--steps", type=flags.positive_int,
                        help=f"of {BATCH} images; default: {SIZES['default']['steps']}")


def title(args, data):
    return f"CNN with {LAYERS} layers and batch norm, Adam, {args.steps} steps of {BATCH} of {data.source}"


DEMO = sweeps.SweepDemo(
    prog=PROG, description=__doc__, sizes=SIZES, durations={"quick": "less than a minute"}, figures=FIGURES,
    add_flags=add_flags, load=lambda args: digits.load_and_print_source(), make_trials=make_trials, title=title,
    settings={"base_width": BASE, "batch": BATCH, "layers": LAYERS})


def main(argv=None):
    """Runs the demo; returns its exit code."""
    return sweeps.main(DEMO, argv)


if __name__ == "__main__":
    sys.exit(main())
