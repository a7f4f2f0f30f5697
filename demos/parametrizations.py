"""Whose best learning rate stays: standard, neural tangent or μP? And are μP's forms one? An MLP with SGD."""
import argparse
import functools
import math
import pathlib
import sys
from typing import NamedTuple

import jax
import numpy as np
from matplotlib.legend import Legend
from matplotlib.lines import Line2D

import haiku_mup
from demos import mnist_mlp
from demos.common import flags, losses, runs, sweeps
from demos.common import report as reports
from haiku_mup import plot, sweep

PROG = "python -m demos.parametrizations"
RULES = {"sp": haiku_mup.standard(), "ntp": haiku_mup.neural_tangent(), "mup": haiku_mup.maximal_update()}
FORMS = {form: haiku_mup.maximal_update(form) for form in ("table8", "table3", "table9", "mean_field")}
FORMS["abcd"] = haiku_mup.maximal_update("abcd", optimizer="sgd")
FIRST, *OTHERS = FORMS
TWINS = "sp", "ntp"                                     # no forms of μP, and so not on its curve
DTYPES = "float32", "float64"
COLUMNS = (*mnist_mlp.COLUMNS, "dtype")
LOSS, FIGURE = "train_loss", "parametrizations.png"
TITLES = {"ntp": "NTP"}
NOTE = "NTP: the neural tangent parametrization"
CLIFF = "where the next higher rate diverged, the optimum is known to a step of the rates, which is its ±"
MARKERS = {"table3": ("o", 5), "table9": ("s", 9), "mean_field": ("D", 11), "abcd": ("o", 18)}
DEFAULTS = {"widths": "64,256,1024", "seeds": "3", "epochs": "3"}
QUICK = {"widths": "64,512", "seeds": "1", "epochs": "2"}
GRIDS = {"mse": "-3:1.5:0.5", "ce": "-4.5:1:0.5"}
QUICK_GRIDS = {"mse": "-2:1:1", "ce": "-4:1:1"}
FORMS_AT = 192                      # 3 times as wide; at 4 times, no factor rounds: forms are equal bit for bit


# --- the experiment ---

class Cell(NamedTuple):
    """What one program trains."""

    parametrization: str
    width: int
    dtype: str = "float32"

    def seeds(self, args):
        """In float64 one is enough: there is only rounding to compare."""
        return args.seeds if self.dtype == "float32" else 1

    def work(self, pixels):
        return mnist_mlp.work(self.width, pixels) * (1 if self.dtype == "float32" else 2)


def cells(args):
    """Each parametrization at each width; at one width each form of μP, and what is none."""
    wide = [Cell(name, width) for name in RULES for width in args.widths]
    forms = [Cell(name, args.forms_at) for name in (*TWINS, *FORMS)]
    return list(dict.fromkeys(wide + forms + [Cell(name, args.forms_at, "float64") for name in FORMS]))


def trials(args, data):
    """Trains one trial after the other; yields their records."""
    orders = [mnist_mlp.batch_order(seed, len(data.train_x), args.epochs) for seed in range(args.seeds)]
    for cell in cells(args):
        train, arrays = program(cell, args, data)
        for found in mnist_mlp.tried(train, args.log2_lrs, arrays, orders[:cell.seeds(args)]):
            yield dict(zip(COLUMNS, (cell.parametrization, cell.width, *found, cell.dtype)))


def program(cell, args, data):
    """The compiled program of a cell, and its arrays."""
    def precise(function):
        def call(*args):
            with jax.enable_x64(cell.dtype == "float64"):
                return function(*args)
        return call

    x, y, valid_x, valid_y = data[:4]
    arrays = x.astype(cell.dtype), y, valid_x.astype(cell.dtype), valid_y
    make = functools.partial(mnist_mlp.parametrized, (RULES | FORMS)[cell.parametrization], adam=False)
    train = precise(mnist_mlp.trainer)(make, cell.width, arrays[0][:1], "sgd", losses.LOSSES[args.loss])
    return precise(train), precise(jax.device_put)(arrays)


def run(args, data, file):
    """Runs the trials; writes each record to the file as it comes, and shows the time left."""
    def work(row):
        return Cell(row["parametrization"], row["width"], row["dtype"]).work(pixels)

    pixels = data.train_x.shape[1]
    total = len(args.log2_lrs) * sum(cell.seeds(args) * cell.work(pixels) for cell in cells(args))
    return runs.kept(trials(args, data), COLUMNS, work, total, file)


# --- what is found ---

def differences(rows, dtype):
    """How far other parametrizations are from μP's first form, at its width, rates and seeds.

    Forms differ in rounding. Where that takes a ReLU's input across 0, it changes an entry of a gradient by
    all it is, and training goes on from there: with squares float32 agrees to 1e-2, with tanh for ReLU to 3e-7.

    Args:
      rows: records; the first form is at one width, and other widths don't count.
      dtype: of the records to take.

    Returns:
      log2 of the largest rate that is compared: the first form's best, above which training is unstable; and
      {parametrization: the largest relative difference of a trial's training loss}, inf where one diverged.
    """
    found = sweep.curves((row for row in rows if row["dtype"] == dtype), LOSS)
    (width, first), = found[FIRST].items()
    stable = first.log2_lr <= first.best
    others = {name: found[name][width].log_loss for name in (*OTHERS, *TWINS) if name in found}
    with np.errstate(invalid="ignore"):                 # inf - inf
        gaps = {name: abs(logs - first.log_loss)[stable] for name, logs in others.items()}
    largest = {name: float(np.expm1(gap.max())) if gap.size else math.nan for name, gap in gaps.items()}
    return first.best, {"all forms": max(largest[name] for name in OTHERS)} | largest


def table(width, found):
    """The differences as text, a line for each parametrization."""
    best = ", ".join(f"2^{at:g} in {dtype}" for dtype, (at, _) in found.items())
    lines = [f"largest relative difference of a trial's training loss from {FIRST}'s, at width {width} and",
             f"rates up to its best ({best}); that of forms is rounding, magnified",
             " " * 20 + "".join(f"{dtype:>10}" for dtype in found)]
    for name in (*OTHERS, "all forms", *TWINS):
        cells = [f"{gaps[name]:.1e}" if name in gaps else "-" for _, gaps in found.values()]
        label = f"{name}, not of μP" if name in TWINS else name
        lines.append(f"{label:<20}" + "".join(f"{cell:>10}" for cell in cells))
    return "\n".join(lines)


# --- what is shown and kept ---

def report(args, data, rows, seconds):
    """Writes summary.json and the figure, and prints the tables."""
    wide = [row for row in rows if row["parametrization"] in RULES and row["width"] in args.widths]
    best = {LOSS: reports.results(wide, LOSS)}
    found = {dtype: differences(rows, dtype) for dtype in DTYPES}
    forms = {dtype: {"best log2_lr": reports.known(at)} | {name: reports.known(x) for name, x in gaps.items()}
             for dtype, (at, gaps) in found.items()}
    reports.write(args, data, seconds, {"base_width": mnist_mlp.BASE, "batch": mnist_mlp.BATCH},
                  {"best": best, "forms": forms})
    single = [row for row in rows if row["parametrization"] in FORMS and row["dtype"] == DTYPES[0]]
    title = mnist_mlp.title(f"SGD, {args.loss}", args.epochs, data)
    draw(args, wide, single, title).savefig(args.out / FIGURE, dpi=200)
    print(f"\n{reports.table(best, args.widths)}\n{sweeps.KEY}\n{CLIFF}\n\n{table(args.forms_at, found)}\n\n"
          f"results.csv, summary.json and {FIGURE} are in {args.out}")


def draw(args, wide, forms, title):
    """A panel for each parametrization, and one for μP's forms: a line for the first, and rings for others."""
    panel = f"μP's forms, width {args.forms_at}"
    shown = [named(row, TITLES.get(row["parametrization"], row["parametrization"])) for row in wide]
    shown += [named(row, panel) for row in forms if row["parametrization"] == FIRST]
    figure = plot.lr_transfer(shown, loss=LOSS, title=title, caption=f"{NOTE}\n{args.command}")
    axes, curves = figure.axes[-1], sweep.curves(forms, LOSS)
    handles = [Line2D([], [], color=axes.get_lines()[0].get_color(), linewidth=2, label=FIRST)]
    for i, (name, (marker, size)) in enumerate(MARKERS.items()):
        curve = curves[name][args.forms_at]
        handles += axes.plot(curve.log2_lr, np.where(np.isfinite(curve.mean), curve.mean, np.nan), marker,
                             markersize=size, fillstyle="none", color=f"C{i}", label=name)
    axes.add_artist(Legend(axes, handles, [FIRST, *MARKERS], loc="upper right", frameon=False, fontsize=11))
    return figure


def named(row, name):
    return row | {"parametrization": name}


# --- the command line ---

def ratio(text):
    """'192' -> 192"""
    width = flags.count(text)
    if width == mnist_mlp.BASE:
        raise argparse.ArgumentTypeError(f"{text!r}: at the base's width all are equal; give another")
    return width


def parser():
    """The flags. Those without a default get it from `parse`."""
    it = flags.Parser(prog=PROG, description=__doc__)
    it.add_argument("--widths", type=flags.counts, help=f"as in 64,128; default: {DEFAULTS['widths']}")
    it.add_argument("--forms-at", type=ratio, metavar="WIDTH", default=FORMS_AT,
                    help=f"at which μP's forms are compared; default: {FORMS_AT}")
    it.add_argument("--log2-lrs", type=flags.grid, metavar="FIRST:LAST:STEP",
                    help="both ends are in; write it with =, as in --log2-lrs=-4:1:0.5; "
                         f"default: {GRIDS['mse']}, for ce {GRIDS['ce']}")
    it.add_argument("--seeds", type=flags.count, help=f"default: {DEFAULTS['seeds']}")
    it.add_argument("--epochs", type=flags.count, help=f"default: {DEFAULTS['epochs']}")
    it.add_argument("--loss", choices=losses.LOSSES, default="mse",
                    help="mean squared error, or cross-entropy, with which the best rate of the standard "
                         "parametrization does not fall up to width 1024; default: mse")
    it.add_argument("--quick", action="store_true",
                    help=f"less than a minute: other defaults, {flags.listed(QUICK)}, log2-lrs "
                         f"{QUICK_GRIDS['mse']}, for ce {QUICK_GRIDS['ce']}")
    it.add_argument("--out", type=pathlib.Path, default="results/parametrizations",
                    help="folder for the results, where it overwrites those of an earlier run; "
                         "default: results/parametrizations")
    return it


def parse(argv=None):
    """The arguments, with the defaults that depend on other flags, and the command that gave them."""
    it = parser()
    given = it.parse_args(argv)
    changed, grids = (QUICK, QUICK_GRIDS) if given.quick else ({}, GRIDS)
    it.set_defaults(**DEFAULTS | changed, log2_lrs=grids[given.loss])
    args = it.parse_args(argv)
    args.command = flags.command(PROG, argv)
    return args


def main(argv=None):
    """Runs the demo; returns its exit code."""
    return runs.conduct(parser(), parse(argv), ("summary.json", FIGURE), run, report)


if __name__ == "__main__":
    sys.exit(main())
