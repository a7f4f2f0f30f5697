"""Sweeps learning rates over depths: a residual MLP on MNIST digits, with and without an α."""
import argparse
import functools
import sys
from typing import NamedTuple

import haiku as hk
import jax

import haiku_mup
from demos import mnist_mlp
from demos.common import flags, runs, trainer
from demos.common import report as reports
from haiku_mup import plot

PROG = "python -m demos.depth"
ALPHAS = {"unscaled": 0.0, "depth-mup": 0.5, "completep": 1.0, "both": 1.0}
TITLES = {"unscaled": "μP without α", "depth-mup": "α = ½ (Depth-μP)", "completep": "α = 1 (CompleteP)",
          "both": "α = 1, wider, too"}
COLUMNS = ("parametrization", "blocks", "width", "lr", "seed", "train_loss", "valid_loss")
LOSS, FIGURE = "train_loss", "depth.png"
GRIDS = {"adam": "-12:-4:0.5", "sgd": "-7:1:0.5"}
DEFAULTS = {"blocks": "2,8,32", "width": "64", "seeds": "5", "epochs": "3"}
QUICK = {"blocks": "2,16", "seeds": "1", "epochs": "1"}
INIT = hk.initializers.VarianceScaling(2.0)             # He's: each branch starts as large as the stream


# --- the experiment ---

class Size(NamedTuple):
    """A number of blocks, and their width."""

    blocks: int
    width: int


def network(x, size):
    """Maps images [batch, pixels] to logits [batch, CLASSES]: pre-LN blocks between two linear layers."""
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
    """Returns the sizes in a panel. In "both" the width grows by the root of the depth, from half on."""
    if name != "both":
        return [Size(blocks, args.width) for blocks in args.blocks]
    fewest = args.blocks[0]
    return [Size(blocks, round(args.width / 2 * (blocks / fewest)**0.5)) for blocks in args.blocks]


def parametrized(parametrization, base, size, x, optimizer, *, adam):
    """Returns the model and the optimizer in μP, relative to the base."""
    base, target = (hk.transform(functools.partial(network, size=each)) for each in (base, size))
    return trainer.wrap(parametrization, base, target, x, optimizer=optimizer, adam=adam)


def trials(args, data):
    """Trains one trial after the other; yields their records."""
    arrays, images = jax.device_put(data[:4]), len(data.train_x)
    orders = [trainer.batch_order(seed, images, args.epochs) for seed in range(args.seeds)]
    for name in args.parametrization:
        base, *_ = sizes(name, args)
        make = functools.partial(parametrized, haiku_mup.maximal_update(depth_alpha=ALPHAS[name]), base,
                                 adam=args.optimizer == "adam")
        for size in sizes(name, args):
            train = trainer.make_trainer(make, size, data.train_x[:1], args.optimizer)
            for found in trainer.train_grid(train, args.log2_lrs, arrays, orders):
                yield dict(zip(COLUMNS, (name, *size, *found)))


def work(size, pixels):
    """Estimates the time of a step, in some unit; a narrow block takes longer than its products do."""
    return pixels * size.width + size.blocks * (2 * size.width**2 + 2**13)


def run(args, data, file):
    """Runs the trials; writes each record to the file as it comes, and shows the time left."""
    def record_work(record):
        return work(Size(record["blocks"], record["width"]), pixels)

    pixels = data.train_x.shape[1]
    total = len(args.log2_lrs) * args.seeds * sum(
        work(size, pixels) for name in args.parametrization for size in sizes(name, args))
    return runs.write_records(trials(args, data), COLUMNS, record_work, total, file)


# --- results ---

def report(args, data, records, seconds):
    """Writes summary.json and the figure, and prints the table; its columns are numbers of blocks."""
    by_depth = [record | {"width": record["blocks"]} for record in records]
    summaries = {LOSS: reports.summarize(by_depth, LOSS)}
    widths = {name: [size.width for size in sizes(name, args)] for name in args.parametrization}
    reports.write_summary(args, data, seconds, {"widths": widths, "batch": trainer.BATCH},
                          {"best": summaries})
    title = f"Residual MLP, {args.optimizer}, {args.epochs} epochs, {len(data.train_x):,} of {data.source}"
    titled = [record | {"parametrization": TITLES[record["parametrization"]]} for record in by_depth]
    plot.lr_transfer(titled, args.out / FIGURE, loss=LOSS, title=title, caption=args.command, size="blocks")
    print(f"\n{reports.optimum_table(summaries, args.blocks, 'blocks')}\n{reports.EXPLANATION}\n\n"
          f"results.csv, summary.json and {FIGURE} are in {args.out}")


# --- the command line ---

def panels(text):
    """Parses 'completep,both' to ['completep', 'both']."""
    names = list(dict.fromkeys(text.split(",")))
    if not set(names) <= ALPHAS.keys():
        raise argparse.ArgumentTypeError(f"{text!r}: give some of {','.join(ALPHAS)}")
    return names


def make_parser():
    """Returns the parser; flags without a default get it from `parse`."""
    parser = flags.Parser(prog=PROG, description=__doc__)
    parser.add_argument("--parametrization", type=panels, default=",".join(ALPHAS),
                        help=f"some of {','.join(ALPHAS)}; default: all")
    parser.add_argument("--blocks", type=flags.positive_ints,
                        help=f"as in 2,8; default: {DEFAULTS['blocks']}")
    parser.add_argument("--width", type=flags.positive_int,
                        help=f"of the stream; default: {DEFAULTS['width']}; where it grows with the depth, "
                             "half of that and more")
    flags.add_log2_lrs(parser, f"{GRIDS['adam']}, for sgd {GRIDS['sgd']}")
    parser.add_argument("--seeds", type=flags.positive_int, help=f"default: {DEFAULTS['seeds']}")
    parser.add_argument("--epochs", type=flags.positive_int, help=f"default: {DEFAULTS['epochs']}")
    parser.add_argument("--optimizer", choices=trainer.OPTIMIZERS, default="adam", help="default: adam")
    parser.add_argument("--quick", action="store_true",
                        help=f"less than a minute: other defaults, {flags.describe(QUICK)}")
    flags.add_out(parser, "results/depth")
    return parser


def parse(argv=None):
    """Parses the command line."""
    return flags.parse(make_parser(), argv, lambda given: {
        **DEFAULTS, **(QUICK if given.quick else {}), "log2_lrs": GRIDS[given.optimizer]})


def main(argv=None):
    """Runs the demo; returns its exit code."""
    return runs.run_demo(make_parser(), parse(argv), ("summary.json", FIGURE), run, report)


if __name__ == "__main__":
    sys.exit(main())
