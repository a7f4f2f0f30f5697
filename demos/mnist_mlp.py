"""Sweeps learning rates over widths: an MLP on MNIST digits, standard and in μP."""
import functools
import sys

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax

import haiku_mup
from demos.common import digits, flags, losses, runs, sweeps

PROG = "python -m demos.mnist_mlp"
BASE, BATCH, CLASSES = 64, 128, 10
OPTIMIZERS = {"adam": optax.adam, "sgd": optax.sgd}
SIZES = {"default": {"widths": "64,128,256,512", "seeds": "3", "epochs": "10"},
         "quick": {"widths": "64,512", "seeds": "1", "epochs": "4"},
         "full": {"widths": "64,128,256,512,1024", "seeds": "5"}}
GRIDS = {"default": {"adam": "-12:-6.5:0.5", "sgd": "-6:-0.5:0.5"}}
GRIDS |= {"quick": GRIDS["default"], "full": {"adam": "-13:-4:0.5", "sgd": "-7:0:0.5"}}
COLUMNS = ("parametrization", "width", "lr", "seed", "train_loss", "valid_loss")
CHUNK = 1                           # trials beside one another round otherwise than those of docs/evidence
FIGURES = {"train_loss": "lr_transfer.png", "valid_loss": "lr_transfer_valid.png"}


# --- the model ---

def network(x, width):
    """Maps images [batch, pixels] to logits [batch, CLASSES]."""
    with haiku_mup.apply_mup():
        for _ in range(3):
            x = jax.nn.relu(hk.Linear(width)(x))
        return haiku_mup.Readout(CLASSES)(x)


def make_model(width):
    return hk.transform(functools.partial(network, width=width))


def wrap(parametrization, base, target, x, *, optimizer, adam):
    """Wraps a model and its optimizer in a parametrization.

    Args:
      parametrization: a haiku_mup.Parametrization.
      base: the model that was tuned, transformed.
      target: the model to train, transformed.
      x: inputs, of which the shape matters.
      optimizer: for the target.
      adam: whether the optimizer is Adam-like.
    """
    mup, key = haiku_mup.Mup(parametrization=parametrization), jax.random.key(0)
    with mup.init_base():
        jax.eval_shape(base.init, key, x)
    with mup.init_target():
        jax.eval_shape(target.init, key, x)
    wrapped = optimizer if parametrization.plain else mup.wrap_optimizer(optimizer, adam=adam)
    return mup.wrap_model(target), wrapped


def standard(width, x, optimizer, adam):
    """Returns the model and the optimizer unchanged."""
    return make_model(width), optimizer


def parametrized(parametrization, width, x, optimizer, adam):
    """Returns the model and the optimizer in a parametrization, relative to the base."""
    return wrap(parametrization, make_model(BASE), make_model(width), x, optimizer=optimizer, adam=adam)


PARAMETRIZATIONS = {"sp": standard, "mup": functools.partial(parametrized, haiku_mup.maximal_update())}


# --- the training ---

def make_trainer(make, width, x, optimizer, loss_fn=losses.cross_entropy):
    """Compiles a program from (arrays, lr, key, batches) to the losses on all of both sets.

    The learning rate is an argument, so one program serves all trials of a width.

    Args:
      make: (width, x, optimizer) -> (model, optimizer).
      width: of the model.
      x: images, of which the shape matters.
      optimizer: "adam" or "sgd".
      loss_fn: as `haiku_mup.coord_check` takes it.
    """
    model, opt = make(width, x, optax.inject_hyperparams(OPTIMIZERS[optimizer])(learning_rate=0.1))

    def loss(params, x, y):
        return loss_fn(model.apply, params, None, (x, y))

    def train(arrays, lr, key, batches):                # batches [steps, batch] of row numbers
        x, y, valid_x, valid_y = arrays

        def step(carry, rows):
            params, state = carry
            gradients = jax.grad(loss)(params, x[rows], y[rows])
            updates, state = opt.update(gradients, state, params)
            return (optax.apply_updates(params, updates), state), None

        params = model.init(key, x[:1])
        state = opt.init(params)
        state.hyperparams["learning_rate"] = lr
        (params, _), _ = jax.lax.scan(step, (params, state), batches)
        return loss(params, x, y), loss(params, valid_x, valid_y)

    return jax.jit(train)


def batch_order(seed, images, epochs):
    """Returns row numbers [steps, batch]; each epoch shuffles anew, and drops the rows that fill no batch."""
    rng, batches = np.random.default_rng(seed), images // BATCH
    order = [rng.permutation(images)[:batches * BATCH] for _ in range(epochs)]
    return np.concatenate(order).reshape(-1, BATCH).astype(np.int32)


def make_trials(args, data):
    """Returns {parametrization: make_trial}. A seed is one init and one order of batches."""
    arrays, seeds = jax.device_put(data[:4]), range(args.seeds)
    orders = jnp.stack([batch_order(seed, len(data.train_x), args.epochs) for seed in seeds])

    def make_trial(name, width):
        make = functools.partial(PARAMETRIZATIONS[name], adam=args.optimizer == "adam")
        train = make_trainer(make, width, data.train_x[:1], args.optimizer)

        def trial(lr, key):
            order = orders[jax.random.key_data(key)[-1]]        # the key is jax.random.key(seed)
            return dict(zip(FIGURES, train(arrays, lr, key, order)))

        return trial

    return {name: functools.partial(make_trial, name) for name in args.parametrization}


def train_grid(train, log2_lrs, arrays, orders):
    """Trains at each rate in each order of batches; yields (lr, seed, losses …)."""
    for log2_lr in log2_lrs:
        for seed, order in enumerate(orders):
            found = train(arrays, arrays[0].dtype.type(2**log2_lr), jax.random.key(seed), order)
            yield 2**log2_lr, seed, *map(runs.finite_or_inf, found)


def work(width, pixels):
    """Estimates the time of a step, in some unit."""
    return pixels * width + 2 * width**2


# --- the command line ---

def add_flags(parser):
    """Adds the flags that only this demo has."""
    parser.add_argument("--epochs", type=flags.positive_int, help=f"default: {SIZES['default']['epochs']}")
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default="adam", help="default: adam")


def title(optimizer, epochs, data):
    """Returns the title of the figures."""
    return f"MLP with 3 hidden layers, {optimizer}, {epochs} epochs, {len(data.train_x):,} of {data.source}"


DEMO = sweeps.SweepDemo(
    prog=PROG, description=__doc__, sizes=SIZES, grids=GRIDS, figures=FIGURES, chunk=CHUNK,
    durations={"quick": "less than a minute", "full": "some 20 minutes, the README's figure"},
    add_flags=add_flags, load=lambda args: digits.load_and_print_source(), make_trials=make_trials,
    title=lambda args, data: title(args.optimizer, args.epochs, data),
    settings={"base_width": BASE, "batch": BATCH})


def parse(argv=None):
    """Parses the command line."""
    return sweeps.parse(DEMO, argv)


def main(argv=None):
    """Runs the demo; returns its exit code."""
    return sweeps.main(DEMO, argv)


if __name__ == "__main__":
    sys.exit(main())
