"""What the demos of sweeps have in common: flags, the sweep, Ctrl-C, and what is kept, drawn and printed."""
import argparse
import pathlib
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import haiku_mup
from demos.common import flags
from demos.common import report as reports
from haiku_mup import plot

KEY = ("optimum: of a parabola around the lowest point, ± its 95% interval over seeds; drift in octaves;\n"
       "setback: how far a wider model is ever above a narrower one, in standard deviations of seeds, at\n"
       "rates an octave or more below the optimum")


class Demo(NamedTuple):
    """A sweep in the standard parametrization and in μP.

    Attributes:
      prog: the command that runs it.
      about: what it shows.
      sizes: the defaults of widths, log2-lrs, seeds and more, by size: "default", and others that are flags.
      takes: how long each size takes, which `--help` says.
      figures: {loss: file}, of each loss that is shown.
      add: puts flags of its own on the parser.
      read: from the arguments to the data; says on screen whose they are. Raises OSError or ValueError.
      make_trials: (args, data) -> {parametrization: make_trial}, as haiku_mup.lr_sweep takes them.
      title: (args, data) -> what the figures say that they are of.
      settings: constants, for summary.json.
      chunk: how many trials run beside one another: see haiku_mup.lr_sweep.
      grids: the log2-lrs of each size by the optimizer, where there is a choice.
    """

    prog: str
    about: str
    sizes: Mapping[str, Mapping[str, str]]
    takes: Mapping[str, str]
    figures: Mapping[str, str]
    add: Callable[[argparse.ArgumentParser], None]
    read: Callable[[argparse.Namespace], Any]
    make_trials: Callable[[argparse.Namespace, Any], Mapping[str, Any]]
    title: Callable[[argparse.Namespace, Any], str]
    settings: Mapping[str, Any]
    chunk: int | Literal["auto"] = "auto"
    grids: Mapping[str, Mapping[str, str]] = {}

    @property
    def name(self) -> str:
        return self.prog.rpartition(".")[2]


def main(demo: Demo, argv: list[str] | None = None) -> int:
    """Runs the demo; returns its exit code."""
    it, args, start = parser(demo), parse(demo, argv), time.perf_counter()
    try:
        data = demo.read(args)
        flags.cleared(it, args.out, ("summary.json", *demo.figures.values()))
        found = haiku_mup.lr_sweep(demo.make_trials(args, data), args.widths, [2.0**x for x in args.log2_lrs],
                                   args.seeds, out=args.out, executor=cluster(args.scheduler),
                                   search=args.search, chunk=demo.chunk)
    except KeyboardInterrupt as interrupted:
        print(f"\n{interrupted}".rstrip(), file=sys.stderr)    # what has finished, and the command that goes on
        return 130
    except (OSError, ValueError) as error:          # haiku_mup.MupError is a ValueError
        it.error(str(error))
    report(demo, args, data, found, time.perf_counter() - start)
    return 0


def cluster(address: str | None) -> Any:
    """The executor of a cluster of dask.distributed; None where there is no address."""
    if address is None:
        return None
    try:
        import distributed
    except ImportError:
        raise ValueError("argument --scheduler: distributed is missing; pip install distributed") from None
    return distributed.Client(address).get_executor()


# --- what is shown and kept ---

def report(demo: Demo, args: argparse.Namespace, data: Any, found: haiku_mup.Sweep, seconds: float) -> None:
    """Writes summary.json and the figures, and prints the table."""
    rows = found.rows()
    best = {loss: reports.results(rows, loss) for loss in demo.figures}
    reports.write(args, data, seconds, demo.settings, {"best": best})
    for loss, name in demo.figures.items():
        plot.lr_transfer(rows, args.out / name, loss=loss, title=demo.title(args, data), caption=args.command)
    print(f"\n{reports.table(best, args.widths)}\n{KEY}\n\n{reports.lowest(best, args.widths)}\n\n"
          f"{advice(found)}results.csv, summary.json, {' and '.join(demo.figures.values())} are in {args.out}")


def advice(found: haiku_mup.Sweep) -> str:
    """What to take for a larger model, and what speaks against it; nothing without μP."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", haiku_mup.MupWarning)       # which says the same
        return f"{found.recommend('mup')}\n\n" if "mup" in found.curves() else ""


# --- the command line ---

def parser(demo: Demo) -> flags.Parser:
    """The flags. Those without a default get it from `parse`."""
    default = demo.sizes["default"]
    it = flags.Parser(prog=demo.prog, description=demo.about)
    it.add_argument("--parametrization", type=flags.kinds, default="sp,mup",
                    help="sp, mup or sp,mup; default: sp,mup")
    it.add_argument("--widths", type=flags.counts, help=f"as in 64,128; default: {default['widths']}")
    it.add_argument("--log2-lrs", type=flags.grid, metavar="FIRST:LAST:STEP",
                    help="both ends are in; write it with =, as in --log2-lrs=-12:-4:0.5; default: "
                         + _grid(demo, "default"))
    it.add_argument("--seeds", type=flags.count, help=f"default: {default['seeds']}")
    demo.add(it)
    group = it.add_mutually_exclusive_group()
    for size, values in demo.sizes.items():
        if size != "default":
            listed = flags.listed({flag: value for flag, value in values.items() if flag != "log2_lrs"})
            group.add_argument(
                f"--{size}", action="store_true",
                help=f"{demo.takes[size]}: other defaults, {listed}, log2-lrs {_grid(demo, size)}")
    it.add_argument("--out", type=pathlib.Path,
                    help="folder for the results; a sweep that was interrupted goes on where it was; default: "
                         f"results/{demo.name}, or with a dash and the size behind it")
    it.add_argument("--search", choices=("grid", "adaptive"), default="grid",
                    help="all trials, or a third of them at most, around each width's best rate; default: grid")
    it.add_argument("--scheduler", metavar="ADDRESS",
                    help="of a cluster of dask.distributed, as tcp://host:8786, whose workers have this "
                         "repository; default: all cores of this machine")
    return it


def _grid(demo: Demo, size: str) -> str:
    """'-12:-4:0.5', or '-12:-4:0.5, for sgd -6:0:0.5'"""
    if not demo.grids:
        return demo.sizes[size]["log2_lrs"]
    first, *others = demo.grids[size].items()
    return "".join([first[1], *(f", for {name} {grid}" for name, grid in others)])


def parse(demo: Demo, argv: list[str] | None = None) -> argparse.Namespace:
    """The arguments, with the defaults that depend on other flags, and the command that gave them."""
    it = parser(demo)
    given = it.parse_args(argv)
    size = next((name for name in demo.sizes if getattr(given, name, False)), "default")
    dash = "" if size == "default" else f"-{size}"
    defaults = {"out": pathlib.Path("results", demo.name + dash), **demo.sizes["default"], **demo.sizes[size]}
    if demo.grids:
        defaults["log2_lrs"] = demo.grids[size][given.optimizer]
    it.set_defaults(**defaults)
    args = it.parse_args(argv)
    args.command = flags.command(demo.prog, argv)
    return args
