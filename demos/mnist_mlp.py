"""Sweeps learning rates over widths: an MLP on MNIST digits, standard and in μP."""
import functools
import sys

import haiku as hk
import jax
import optax

import haiku_mup
from demos.common import digits, flags, losses, sweeps

PROG = "python -m demos.mnist_mlp"
BASE, BATCH, CLASSES = 64, 128, 10
OPTIMIZERS = {"adam": optax.adam, "sgd": optax.sgd}
SIZES = {"default": {"base_width": "32", "widths": "32,64,128,256", "seeds": "5", "epochs": "8"},
         "quick": {"base_width": str(BASE), "widths": "64,512", "seeds": "1", "epochs": "4"},
         "full": {"base_width": str(BASE), "widths": "64,128,256,512,1024", "epochs": "10"}}
GRIDS = {"default": {"adam": "-11:-6:1", "sgd": "-6:-1:1"},
         "quick": {"adam": "-12:-6.5:0.5", "sgd": "-6:-0.5:0.5"},
         "full": {"adam": "-13:-4:0.5", "sgd": "-7:0:0.5"}}
FIGURES = {"train_loss": "lr_transfer.png", "valid_loss": "lr_transfer_valid.png"}


# --- the experiment ---

def network(x, width):
    """Maps images [batch, pixels] to logits [batch, CLASSES]."""
    with haiku_mup.apply_mup():
        for _ in range(3):
            x = jax.nn.relu(hk.Linear(width)(x))
        return haiku_mup.Readout(CLASSES)(x)


def make_model(width):
    return hk.transform(functools.partial(network, width=width))


def make_trials(args, data):
    """Returns {parametrization: make_trial}, for `haiku_mup.lr_sweep`.

    With a constant learning rate the loss jumps from step to step. So the training loss is that of the batches,
    of which a sweep takes the mean over the last tenth of the steps.
    """
    train, valid = (data.train_x, data.train_y), (data.valid_x, data.valid_y)
    steps = args.epochs * (len(data.train_x) // BATCH)
    return {name: haiku_mup.training(
        make_model, train, losses.cross_entropy, OPTIMIZERS[args.optimizer], steps=steps, batch_size=BATCH,
        base_width=args.base_width, parametrization=name, evaluate={"train_loss": None, "valid_loss": valid})
        for name in args.parametrization}


# --- the command line ---

def add_flags(parser):
    """Adds the flags that only this demo has."""
    parser.add_argument("--epochs", type=flags.positive_int, help=f"default: {SIZES['default']['epochs']}")
    parser.add_argument("--base-width", type=flags.positive_int,
                        help=f"where both parametrizations are one; default: {SIZES['default']['base_width']}")
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default="adam", help="default: adam")


def title(optimizer, epochs, data):
    """Returns the title of the figures."""
    return f"MLP with 3 hidden layers, {optimizer}, {epochs} epochs, {len(data.train_x):,} of {data.source}"


DEMO = sweeps.SweepDemo(
    prog=PROG, description=__doc__, sizes=SIZES, grids=GRIDS, figures=FIGURES,
    durations={"quick": "about a minute", "full": "about an hour, the README's figure"},
    add_flags=add_flags, load=lambda args: digits.load_and_print_source(), make_trials=make_trials,
    title=lambda args, data: title(args.optimizer, args.epochs, data),
    settings={"batch": BATCH})


def parse(argv=None):
    """Parses the command line."""
    return sweeps.parse(DEMO, argv)


def main(argv=None):
    """Runs the demo; returns its exit code."""
    return sweeps.main(DEMO, argv)


if __name__ == "__main__":
    sys.exit(main())
