"""Sweeps learning rates over widths: an MLP with SGD, standard, neural tangent, in μP and in μP's forms."""
import argparse
import functools
import math
import sys
from typing import NamedTuple

import jax
import numpy as np
from matplotlib.legend import Legend
from matplotlib.lines import Line2D

import haiku_mup
from demos import mnist_mlp
from demos.common import flags, losses, runs, trainer
from demos.common import report as reports
from haiku_mup import plot, sweep

PROG = "python -m demos.parametrizations"
PARAMETRIZATIONS = {
    "sp": haiku_mup.standard(), "ntp": haiku_mup.neural_tangent(), "mup": haiku_mup.maximal_update()}
FORMS = {form: haiku_mup.maximal_update(form) for form in ("table8", "table3", "table9", "mean_field")}
FORMS["abcd"] = haiku_mup.maximal_update("abcd", optimizer="sgd")
FIRST_FORM, *OTHER_FORMS = FORMS
NOT_MUP = "sp", "ntp"                                   # compared, too: these must differ from μP's forms
DTYPES = "float32", "float64"
COLUMNS = ("parametrization", "width", "lr", "seed", "train_loss", "valid_loss", "dtype")
LOSS, FIGURE = "train_loss", "parametrizations.png"
TITLES = {"ntp": "NTP"}
NOTE = "NTP: the neural tangent parametrization"
DIVERGED = "where the next higher rate diverged, the optimum is known to a step of the rates, which is its ±"
MARKERS = {"table3": ("o", 5), "table9": ("s", 9), "mean_field": ("D", 11), "abcd": ("o", 18)}
DEFAULTS = {"widths": "64,256,1024", "seeds": "3", "epochs": "3"}
QUICK = {"widths": "64,512", "seeds": "1", "epochs": "2"}
GRIDS = {"mse": "-3:1.5:0.5", "ce": "-4.5:1:0.5"}
QUICK_GRIDS = {"mse": "-2:1:1", "ce": "-4:1:1"}
FORMS_WIDTH = 192                   # 3 times the base; at 4 times no factor rounds: forms are equal bit for bit


# --- the experiment ---

class Cell(NamedTuple):
    """The trials of one compiled program."""

    parametrization: str
    width: int
    dtype: str = "float32"

    def seeds(self, args):
        """Returns the number of seeds: one in float64, where only rounding is compared."""
        return args.seeds if self.dtype == "float32" else 1

    def work(self, pixels):
        """Estimates the time of a step, in some unit."""
        return (pixels * self.width + 2 * self.width**2) * (1 if self.dtype == "float32" else 2)


def cells(args):
    """Returns each parametrization at each width; and at one width the forms of μP, and what is none."""
    wide = [Cell(name, width) for name in PARAMETRIZATIONS for width in args.widths]
    forms = [Cell(name, args.forms_at) for name in (*NOT_MUP, *FORMS)]
    return list(dict.fromkeys(wide + forms + [Cell(name, args.forms_at, "float64") for name in FORMS]))


def trials(args, data):
    """Trains one trial after the other; yields their records."""
    orders = [trainer.batch_order(seed, len(data.train_x), args.epochs) for seed in range(args.seeds)]
    for cell in cells(args):
        train, arrays = make_program(cell, args, data)
        for found in trainer.train_grid(train, args.log2_lrs, arrays, orders[:cell.seeds(args)]):
            yield dict(zip(COLUMNS, (cell.parametrization, cell.width, *found, cell.dtype)))


def parametrized(parametrization, width, x, optimizer):
    """Returns the model and the optimizer in a parametrization, relative to the base."""
    base, target = mnist_mlp.make_model(mnist_mlp.BASE), mnist_mlp.make_model(width)
    return trainer.wrap(parametrization, base, target, x, optimizer=optimizer, adam=False)


def make_program(cell, args, data):
    """Compiles a cell's program; returns it and its arrays."""
    def in_dtype(function):
        def call(*args):
            with jax.enable_x64(cell.dtype == "float64"):
                return function(*args)
        return call

    x, y, valid_x, valid_y = data[:4]
    arrays = x.astype(cell.dtype), y, valid_x.astype(cell.dtype), valid_y
    parametrization = (PARAMETRIZATIONS | FORMS)[cell.parametrization]
    make = functools.partial(parametrized, parametrization)
    train = in_dtype(trainer.make_trainer)(make, cell.width, arrays[0][:1], "sgd", losses.LOSSES[args.loss])
    return in_dtype(train), in_dtype(jax.device_put)(arrays)


def run(args, data, file):
    """Runs the trials; writes each record to the file as it comes, and shows the time left."""
    def record_work(record):
        return Cell(record["parametrization"], record["width"], record["dtype"]).work(pixels)

    pixels = data.train_x.shape[1]
    total = len(args.log2_lrs) * sum(cell.seeds(args) * cell.work(pixels) for cell in cells(args))
    return runs.write_records(trials(args, data), COLUMNS, record_work, total, file)


# --- results ---

def differences(records, dtype):
    """Compares other parametrizations with μP's first form, at its width, rates and seeds.

    Forms differ in rounding. Where that takes a ReLU's input across 0, it changes an entry of a gradient by
    all it is, and training goes on from there: with squares float32 agrees to 1e-2, with tanh for ReLU to 3e-7.

    Args:
      records: the first form's are at one width; other widths are left out.
      dtype: of the records to take.

    Returns:
      log2 of the largest rate that is compared: the first form's best, above which training is unstable; and
      {parametrization: the largest relative difference of a trial's training loss}, inf where one diverged.
    """
    curves = sweep.curves((record for record in records if record["dtype"] == dtype), LOSS)
    (width, first), = curves[FIRST_FORM].items()
    stable = first.log2_lr <= first.best
    log_losses = {name: curves[name][width].log_loss for name in (*OTHER_FORMS, *NOT_MUP) if name in curves}
    with np.errstate(invalid="ignore"):                 # inf - inf
        gaps = {name: abs(log_loss - first.log_loss)[stable] for name, log_loss in log_losses.items()}
    largest = {name: float(np.expm1(gap.max())) if gap.size else math.nan for name, gap in gaps.items()}
    return first.best, {"all forms": max(largest[name] for name in OTHER_FORMS)} | largest


def difference_table(width, found):
    """Formats what `differences` returns for each dtype, a line for each parametrization."""
    best = ", ".join(f"2^{at:g} in {dtype}" for dtype, (at, _) in found.items())
    lines = [f"largest relative difference of a trial's training loss from {FIRST_FORM}'s, at width {width} "
             "and", f"rates up to its best ({best}); that of forms is rounding, magnified",
             " " * 20 + "".join(f"{dtype:>10}" for dtype in found)]
    for name in (*OTHER_FORMS, "all forms", *NOT_MUP):
        numbers = [f"{gaps[name]:.1e}" if name in gaps else "-" for _, gaps in found.values()]
        label = f"{name}, not of μP" if name in NOT_MUP else name
        lines.append(f"{label:<20}" + "".join(f"{number:>10}" for number in numbers))
    return "\n".join(lines)


def report(args, data, records, seconds):
    """Writes summary.json and the figure, and prints the tables."""
    wide = [record for record in records
            if record["parametrization"] in PARAMETRIZATIONS and record["width"] in args.widths]
    summaries = {LOSS: reports.summarize(wide, LOSS)}
    found = {dtype: differences(records, dtype) for dtype in DTYPES}
    forms = {dtype: {"best log2_lr": reports.finite_or_none(at)}
             | {name: reports.finite_or_none(gap) for name, gap in gaps.items()}
             for dtype, (at, gaps) in found.items()}
    reports.write_summary(args, data, seconds, {"base_width": mnist_mlp.BASE, "batch": trainer.BATCH},
                          {"best": summaries, "forms": forms})
    single = [record for record in records
              if record["parametrization"] in FORMS and record["dtype"] == DTYPES[0]]
    title = mnist_mlp.title(f"SGD, {args.loss}", args.epochs, data)
    draw(args, wide, single, title).savefig(args.out / FIGURE, dpi=200)
    print(f"\n{reports.optimum_table(summaries, args.widths)}\n{reports.EXPLANATION}\n{DIVERGED}\n\n"
          f"{difference_table(args.forms_at, found)}\n\n"
          f"results.csv, summary.json and {FIGURE} are in {args.out}")


def draw(args, wide, forms, title):
    """Draws a panel for each parametrization, and one for μP's forms: the first a line, the others rings."""
    panel = f"μP's forms, width {args.forms_at}"
    titled = [renamed(record, TITLES.get(record["parametrization"], record["parametrization"]))
              for record in wide]
    titled += [renamed(record, panel) for record in forms if record["parametrization"] == FIRST_FORM]
    figure = plot.lr_transfer(titled, loss=LOSS, title=title, caption=f"{NOTE}\n{args.command}")
    axes, curves = figure.axes[-1], sweep.curves(forms, LOSS)
    handles = [Line2D([], [], color=axes.get_lines()[0].get_color(), linewidth=2, label=FIRST_FORM)]
    for i, (name, (marker, size)) in enumerate(MARKERS.items()):
        curve = curves[name][args.forms_at]
        handles += axes.plot(curve.log2_lr, np.where(np.isfinite(curve.mean), curve.mean, np.nan), marker,
                             markersize=size, fillstyle="none", color=f"C{i}", label=name)
    labels = [FIRST_FORM, *MARKERS]
    axes.add_artist(Legend(axes, handles, labels, loc="upper right", frameon=False, fontsize=11))
    return figure


def renamed(record, parametrization):
    return record | {"parametrization": parametrization}


# --- the command line ---

def width_of_forms(text):
    """Parses '192' to 192."""
    width = flags.positive_int(text)
    if width == mnist_mlp.BASE:
        raise argparse.ArgumentTypeError(f"{text!r}: at the base's width all are equal; give another")
    return width


def make_parser():
    """Returns the parser; flags without a default get it from `parse`."""
    parser = flags.Parser(prog=PROG, description=__doc__)
    parser.add_argument("--widths", type=flags.positive_ints,
                        help=f"as in 64,128; default: {DEFAULTS['widths']}")
    parser.add_argument("--forms-at", type=width_of_forms, metavar="WIDTH", default=FORMS_WIDTH,
                        help=f"at which μP's forms are compared; default: {FORMS_WIDTH}")
    flags.add_log2_lrs(parser, f"{GRIDS['mse']}, for ce {GRIDS['ce']}", example="-4:1:0.5")
    parser.add_argument("--seeds", type=flags.positive_int, help=f"default: {DEFAULTS['seeds']}")
    parser.add_argument("--epochs", type=flags.positive_int, help=f"default: {DEFAULTS['epochs']}")
    parser.add_argument("--loss", choices=losses.LOSSES, default="mse",
                        help="mean squared error, or cross-entropy, with which the best rate of the standard "
                             "parametrization does not fall up to width 1024; default: mse")
    parser.add_argument("--quick", action="store_true",
                        help=f"less than a minute: other defaults, {flags.describe(QUICK)}, log2-lrs "
                             f"{QUICK_GRIDS['mse']}, for ce {QUICK_GRIDS['ce']}")
    flags.add_out(parser, "results/parametrizations")
    return parser


def parse(argv=None):
    """Parses the command line."""
    def defaults(given):
        changed, grids = (QUICK, QUICK_GRIDS) if given.quick else ({}, GRIDS)
        return {**DEFAULTS, **changed, "log2_lrs": grids[given.loss]}

    return flags.parse(make_parser(), argv, defaults)


def main(argv=None):
    """Runs the demo; returns its exit code."""
    return runs.run_demo(make_parser(), parse(argv), ("summary.json", FIGURE), run, report)


if __name__ == "__main__":
    sys.exit(main())
