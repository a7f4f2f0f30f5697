"""Does the best learning rate move with the width? An MLP on MNIST digits, standard and in μP."""
import argparse
import functools
import pathlib
import sys

import haiku as hk
import jax
import numpy as np
import optax

import haiku_mup
from demos import flags, losses, runs
from demos import report as reports
from haiku_mup import plot

PROG = "python -m demos.mnist_mlp"
BASE, BATCH, CLASSES = 64, 128, 10
OPTIMIZERS = {"adam": optax.adam, "sgd": optax.sgd}
GRIDS = {"adam": "-12:-6.5:0.5", "sgd": "-6:-0.5:0.5"}
DEFAULTS = {"widths": "64,128,256,512", "seeds": "3", "epochs": "10"}
QUICK = {"widths": "64,512", "seeds": "1", "epochs": "4"}
FULL = {"widths": "64,128,256,512,1024", "seeds": "5"}
FULL_GRIDS = {"adam": "-13:-4:0.5", "sgd": "-7:0:0.5"}
COLUMNS = ("parametrization", "width", "lr", "seed", "train_loss", "valid_loss")
FIGURES = {"train_loss": "lr_transfer.png", "valid_loss": "lr_transfer_valid.png"}
KEY = ("optimum: of a parabola around the lowest point, ± its 95% interval over seeds; drift in octaves;\n"
       "setback: how far a wider model is ever above a narrower one, in standard deviations of seeds, at\n"
       "rates an octave or more below the optimum")


# --- the experiment ---

def network(x, width):
    """Logits [batch, CLASSES] of images x [batch, pixels]."""
    with haiku_mup.apply_mup():
        for _ in range(3):
            x = jax.nn.relu(hk.Linear(width)(x))
        return haiku_mup.Readout(CLASSES)(x)


def standard(width, x, optimizer, adam):
    """The model and the optimizer as they are."""
    return hk.transform(functools.partial(network, width=width)), optimizer


def parametrized(rule, width, x, optimizer, adam):
    """The model and the optimizer in a parametrization, relative to the base."""
    base, target = (hk.transform(functools.partial(network, width=w)) for w in (BASE, width))
    mup, key = haiku_mup.Mup(parametrization=rule), jax.random.key(0)
    with mup.init_base():
        jax.eval_shape(base.init, key, x)
    with mup.init_target():
        jax.eval_shape(target.init, key, x)
    return mup.wrap_model(target), optimizer if rule.plain else mup.wrap_optimizer(optimizer, adam=adam)


PARAMETRIZATIONS = {"sp": standard, "mup": functools.partial(parametrized, haiku_mup.maximal_update())}


def trainer(make, width, x, optimizer, loss_fn=losses.cross_entropy):
    """A compiled program from (arrays, lr, key, batches) to the losses on all of both sets.

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
    """Row numbers [steps, batch]: an epoch shuffles anew, and drops the rows that fill no batch."""
    rng, batches = np.random.default_rng(seed), images // BATCH
    order = [rng.permutation(images)[:batches * BATCH] for _ in range(epochs)]
    return np.concatenate(order).reshape(-1, BATCH).astype(np.int32)


def trials(args, data):
    """Trains one trial after the other; yields their records."""
    arrays, images = jax.device_put(data[:4]), len(data.train_x)
    orders = [batch_order(seed, images, args.epochs) for seed in range(args.seeds)]
    for name in args.parametrization:
        make = functools.partial(PARAMETRIZATIONS[name], adam=args.optimizer == "adam")
        for width in args.widths:
            train = trainer(make, width, data.train_x[:1], args.optimizer)
            for found in tried(train, args.log2_lrs, arrays, orders):
                yield dict(zip(COLUMNS, (name, width, *found)))


def tried(train, log2_lrs, arrays, orders):
    """Trains at each rate in each order; yields (lr, seed, losses …). A seed is one init and one order."""
    for log2_lr in log2_lrs:
        for seed, order in enumerate(orders):
            found = train(arrays, arrays[0].dtype.type(2**log2_lr), jax.random.key(seed), order)
            yield 2**log2_lr, seed, *map(runs.finite, found)


def work(width, pixels):
    """How long a step takes, in some unit."""
    return pixels * width + 2 * width**2


def run(args, data, file):
    """Runs the trials; writes each record to the file as it comes, and shows the time left."""
    cost = {width: work(width, data.train_x.shape[1]) for width in args.widths}
    total = len(args.parametrization) * len(args.log2_lrs) * args.seeds * sum(cost.values())
    return runs.kept(trials(args, data), COLUMNS, lambda row: cost[row["width"]], total, file)


# --- what is shown and kept ---

def report(args, data, rows, seconds):
    """Writes summary.json and the figures, and prints the table."""
    best = {loss: reports.results(rows, loss) for loss in FIGURES}
    reports.write(args, data, seconds, {"base_width": BASE, "batch": BATCH}, {"best": best})
    for loss, name in FIGURES.items():
        plot.lr_transfer(rows, args.out / name, loss=loss, title=title(args.optimizer, args.epochs, data),
                         caption=args.command)
    print(f"\n{reports.table(best, args.widths)}\n{KEY}\n\n"
          f"results.csv, summary.json, {' and '.join(FIGURES.values())} are in {args.out}")


def title(optimizer, epochs, data):
    """What the figures say that they are of."""
    return f"MLP with 3 hidden layers, {optimizer}, {epochs} epochs, {len(data.train_x):,} of {data.source}"


# --- the command line ---

def kinds(text):
    """'sp,mup' -> ['sp', 'mup']"""
    found = list(dict.fromkeys(text.split(",")))
    if not set(found) <= PARAMETRIZATIONS.keys():
        raise argparse.ArgumentTypeError(f"{text!r}: give sp, mup or sp,mup")
    return found


def parser():
    """The flags. Those without a default get it from `parse`."""
    it = flags.Parser(prog=PROG, description=__doc__)
    it.add_argument("--parametrization", type=kinds, default="sp,mup",
                    help="sp, mup or sp,mup; default: sp,mup")
    it.add_argument("--widths", type=flags.counts, help=f"as in 64,128; default: {DEFAULTS['widths']}")
    it.add_argument("--log2-lrs", type=flags.grid, metavar="FIRST:LAST:STEP",
                    help="both ends are in; write it with =, as in --log2-lrs=-12:-4:0.5; "
                         f"default: {GRIDS['adam']}, for sgd {GRIDS['sgd']}")
    it.add_argument("--seeds", type=flags.count, help=f"default: {DEFAULTS['seeds']}")
    it.add_argument("--epochs", type=flags.count, help=f"default: {DEFAULTS['epochs']}")
    it.add_argument("--optimizer", choices=OPTIMIZERS, default="adam", help="default: adam")
    size = it.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="less than a minute: other defaults, "
                      + flags.listed(QUICK))
    size.add_argument("--full", action="store_true", help="some 20 minutes, the README's figure: other "
                      f"defaults, {flags.listed(FULL)}, log2-lrs {FULL_GRIDS['adam']}, "
                      f"for sgd {FULL_GRIDS['sgd']}")
    it.add_argument("--out", type=pathlib.Path, default="results/mnist_mlp",
                    help="folder for the results, where it overwrites those of an earlier run; "
                         "default: results/mnist_mlp")
    return it


def parse(argv=None):
    """The arguments, with the defaults that depend on other flags, and the command that gave them."""
    it = parser()
    given = it.parse_args(argv)
    changed = QUICK if given.quick else FULL if given.full else {}
    grids = FULL_GRIDS if given.full else GRIDS
    it.set_defaults(**DEFAULTS | changed | {"log2_lrs": grids[given.optimizer]})
    args = it.parse_args(argv)
    args.command = flags.command(PROG, argv)
    return args


def main(argv=None):
    """Runs the demo; returns its exit code."""
    return runs.conduct(parser(), parse(argv), ("summary.json", *FIGURES.values()), run, report)


if __name__ == "__main__":
    sys.exit(main())
