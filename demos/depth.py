"""Does the best learning rate move with the depth? A residual MLP on MNIST digits, with and without an α."""
import argparse
import functools
import pathlib
import sys
from typing import NamedTuple

import haiku as hk
import jax

import haiku_mup
from demos import mnist_mlp
from demos.common import flags, runs, sweeps
from demos.common import report as reports
from haiku_mup import plot

PROG = "python -m demos.depth"
ALPHAS = {"unscaled": 0.0, "depth-mup": 0.5, "completep": 1.0, "both": 1.0}
TITLES = {"unscaled": "μP without α", "depth-mup": "α = ½ (Depth-μP)", "completep": "α = 1 (CompleteP)",
          "both": "α = 1, wider, too"}
COLUMNS = ("parametrization", "blocks", *mnist_mlp.COLUMNS[1:])
LOSS, FIGURE = "train_loss", "depth.png"
GRIDS = {"adam": "-12:-4:0.5", "sgd": "-7:1:0.5"}
DEFAULTS = {"blocks": "2,8,32", "width": "64", "seeds": "5", "epochs": "3"}
QUICK = {"blocks": "2,16", "seeds": "1", "epochs": "1"}
INIT = hk.initializers.VarianceScaling(2.0)             # He: of each branch as large as the stream


# --- the experiment ---

class Size(NamedTuple):
    """How many blocks, and how wide."""

    blocks: int
    width: int


def network(x, size):
    """Logits [batch, CLASSES] of images x [batch, pixels]: pre-LN blocks between two linear layers."""
    def branch(x):
        y = hk.Linear(size.width, w_init=INIT, name="up")(norm(x))
        return hk.Linear(size.width, w_init=INIT, name="down")(jax.nn.relu(y))

    with haiku_mup.apply_mup():
        x = hk.Linear(size.width)(x)
        x = hk.layer_stack(size.blocks)(lambda x: haiku_mup.residual(x, branch))(x)
        return haiku_mup.Readout(mnist_mlp.CLASSES)(norm(x))


def norm(x):
    return hk.LayerNorm(-1, create_scale=True, create_offset=True)(x)


def sizes(name, args):
    """The sizes of a panel: where the width grows, too, it does so by the root of the depth, from half on."""
    if name != "both":
        return [Size(blocks, args.width) for blocks in args.blocks]
    few = args.blocks[0]
    return [Size(blocks, round(args.width / 2 * (blocks / few)**0.5)) for blocks in args.blocks]


def parametrized(rule, base, size, x, optimizer, adam):
    """The model and the optimizer in μP, relative to the base."""
    few, many = (hk.transform(functools.partial(network, size=size)) for size in (base, size))
    mup, key = haiku_mup.Mup(parametrization=rule), jax.random.key(0)
    with mup.init_base():
        jax.eval_shape(few.init, key, x)
    with mup.init_target():
        jax.eval_shape(many.init, key, x)
    return mup.wrap_model(many), mup.wrap_optimizer(optimizer, adam=adam)


def trials(args, data):
    """Trains one trial after the other; yields their records."""
    arrays, images = jax.device_put(data[:4]), len(data.train_x)
    orders = [mnist_mlp.batch_order(seed, images, args.epochs) for seed in range(args.seeds)]
    for name in args.parametrization:
        base, *_ = sizes(name, args)
        make = functools.partial(parametrized, haiku_mup.maximal_update(depth_alpha=ALPHAS[name]), base,
                                 adam=args.optimizer == "adam")
        for size in sizes(name, args):
            train = mnist_mlp.trainer(make, size, data.train_x[:1], args.optimizer)
            for found in mnist_mlp.tried(train, args.log2_lrs, arrays, orders):
                yield dict(zip(COLUMNS, (name, *size, *found)))


def work(size, pixels):
    """How long a step takes, in some unit: a block of narrow layers takes longer than its products do."""
    return pixels * size.width + size.blocks * (2 * size.width**2 + 2**13)


def run(args, data, file):
    """Runs the trials; writes each record to the file as it comes, and shows the time left."""
    def cost(row):
        return work(Size(row["blocks"], row["width"]), pixels)

    pixels = data.train_x.shape[1]
    total = len(args.log2_lrs) * args.seeds * sum(work(size, pixels) for name in args.parametrization
                                                  for size in sizes(name, args))
    return runs.kept(trials(args, data), COLUMNS, cost, total, file)


# --- what is shown and kept ---

def report(args, data, rows, seconds):
    """Writes summary.json and the figure, and prints the table: of numbers of blocks in place of widths."""
    deep = [row | {"width": row["blocks"]} for row in rows]
    best = {LOSS: reports.results(deep, LOSS)}
    widths = {name: [size.width for size in sizes(name, args)] for name in args.parametrization}
    reports.write(args, data, seconds, {"widths": widths, "batch": mnist_mlp.BATCH}, {"best": best})
    title = f"Residual MLP, {args.optimizer}, {args.epochs} epochs, {len(data.train_x):,} of {data.source}"
    shown = [row | {"parametrization": TITLES[row["parametrization"]]} for row in deep]
    plot.lr_transfer(shown, args.out / FIGURE, loss=LOSS, title=title, caption=args.command, size="blocks")
    print(f"\n{reports.table(best, args.blocks, 'blocks')}\n{sweeps.KEY}\n\n"
          f"results.csv, summary.json and {FIGURE} are in {args.out}")


# --- the command line ---

def kinds(text):
    """'completep,both' -> ['completep', 'both']"""
    found = list(dict.fromkeys(text.split(",")))
    if not set(found) <= ALPHAS.keys():
        raise argparse.ArgumentTypeError(f"{text!r}: give some of {','.join(ALPHAS)}")
    return found


def parser():
    """The flags. Those without a default get it from `parse`."""
    it = flags.Parser(prog=PROG, description=__doc__)
    it.add_argument("--parametrization", type=kinds, default=",".join(ALPHAS),
                    help=f"some of {','.join(ALPHAS)}; default: all")
    it.add_argument("--blocks", type=flags.counts, help=f"as in 2,8; default: {DEFAULTS['blocks']}")
    it.add_argument("--width", type=flags.count, help=f"of the stream; default: {DEFAULTS['width']}; where it "
                    "grows with the depth, half of that and more")
    it.add_argument("--log2-lrs", type=flags.grid, metavar="FIRST:LAST:STEP",
                    help="both ends are in; write it with =, as in --log2-lrs=-12:-4:0.5; "
                         f"default: {GRIDS['adam']}, for sgd {GRIDS['sgd']}")
    it.add_argument("--seeds", type=flags.count, help=f"default: {DEFAULTS['seeds']}")
    it.add_argument("--epochs", type=flags.count, help=f"default: {DEFAULTS['epochs']}")
    it.add_argument("--optimizer", choices=mnist_mlp.OPTIMIZERS, default="adam", help="default: adam")
    it.add_argument("--quick", action="store_true",
                    help=f"less than a minute: other defaults, {flags.listed(QUICK)}")
    it.add_argument("--out", type=pathlib.Path, default="results/depth",
                    help="folder for the results, where it overwrites those of an earlier run; "
                         "default: results/depth")
    return it


def parse(argv=None):
    """The arguments, with the defaults that depend on other flags, and the command that gave them."""
    it = parser()
    given = it.parse_args(argv)
    it.set_defaults(**DEFAULTS | (QUICK if given.quick else {}), log2_lrs=GRIDS[given.optimizer])
    args = it.parse_args(argv)
    args.command = flags.command(PROG, argv)
    return args


def main(argv=None):
    """Runs the demo; returns its exit code."""
    return runs.conduct(parser(), parse(argv), ("summary.json", FIGURE), run, report)


if __name__ == "__main__":
    sys.exit(main())
