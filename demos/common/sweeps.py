"""Runs demos that are sweeps of learning rates: flags, haiku_mup.lr_sweep, figures and tables."""
import argparse
import dataclasses
import pathlib
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import haiku_mup
from demos.common import flags
from demos.common import report as reports


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepDemo:
    """A sweep in the standard parametrization and in μP.

    Attributes:
      prog: the command that runs it.
      description: what it shows.
      sizes: {size: defaults of widths, log2_lrs, seeds and more}: "default", and others, each with a flag.
      durations: {size: how long it takes}, for `--help`.
      figures: {loss: file}, of each loss that is shown.
      add_flags: adds the demo's own flags to a parser.
      load: loads the data for the flags, and prints its source. Raises OSError or ValueError.
      make_trials: (args, data) -> {parametrization: make_trial}, as haiku_mup.lr_sweep takes them.
      title: (args, data) -> the figures' title.
      settings: constants, for summary.json.
      grids: {size: {optimizer: log2_lrs}}, if there is a choice of optimizers.
    """

    prog: str
    description: str
    sizes: Mapping[str, Mapping[str, str]]
    durations: Mapping[str, str]
    figures: Mapping[str, str]
    add_flags: Callable[[argparse.ArgumentParser], None]
    load: Callable[[argparse.Namespace], Any]
    make_trials: Callable[[argparse.Namespace, Any], Mapping[str, Any]]
    title: Callable[[argparse.Namespace, Any], str]
    settings: Mapping[str, Any]
    grids: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.prog.rpartition(".")[2].replace(" ", "-")


def main(demo: SweepDemo, argv: Sequence[str] | None = None) -> int:
    """Runs the demo; returns its exit code."""
    parser, args, start = make_parser(demo), parse(demo, argv), time.perf_counter()
    try:
        data = demo.load(args)
        flags.clear_folder(parser, args.out, ("summary.json", *demo.figures.values()))
        result = haiku_mup.lr_sweep(
            demo.make_trials(args, data), args.widths, [2.0**x for x in args.log2_lrs], args.seeds,
            out=args.out, executor=cluster(args.scheduler), search=args.search)
    except KeyboardInterrupt as interrupted:
        print(f"\n{interrupted}".rstrip(), file=sys.stderr)    # what has finished, and how to continue
        return 130
    except (OSError, ValueError) as error:          # haiku_mup.MupError is a ValueError
        parser.error(str(error))
    report(demo, args, data, result, time.perf_counter() - start)
    return 0


def cluster(address: str | None) -> Any:
    """Returns the executor of a dask.distributed cluster; None without an address."""
    if address is None:
        return None
    try:
        import distributed
    except ImportError:
        raise ValueError("argument --scheduler: distributed is missing; pip install distributed") from None
    return distributed.Client(address).get_executor()


# --- results ---

def report(demo: SweepDemo, args: argparse.Namespace, data: Any, result: haiku_mup.Sweep,
           seconds: float) -> None:
    """Writes summary.json and the figures, and prints the tables."""
    from haiku_mup import plot  # here, since workers import this module, and draw nothing

    records = result.rows()
    summaries = {loss: reports.summarize(records, loss) for loss in demo.figures}
    reports.write_summary(args, data, seconds, demo.settings, {"best": summaries})
    for loss, name in demo.figures.items():
        plot.lr_transfer(records, args.out / name, loss=loss, title=demo.title(args, data),
                         caption=args.command)
    print(f"\n{reports.optimum_table(summaries, args.widths)}\n{reports.EXPLANATION}\n\n"
          f"{reports.lowest_loss_table(summaries, args.widths)}\n\n"
          f"{recommendation(result)}results.csv, summary.json, {' and '.join(demo.figures.values())} are in "
          f"{args.out}")


def recommendation(result: haiku_mup.Sweep) -> str:
    """Returns the learning rate for a larger model, with warnings about it; "" for a sweep without μP."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", haiku_mup.MupWarning)       # its text is in the recommendation, too
        return f"{result.recommend('mup')}\n\n" if "mup" in result.curves() else ""


# --- the command line ---

def make_parser(demo: SweepDemo) -> flags.Parser:
    """Returns the parser; flags without a default get it from `parse`."""
    default = demo.sizes["default"]
    parser = flags.Parser(prog=demo.prog, description=demo.description)
    parser.add_argument("--parametrization", type=flags.parametrizations, default="sp,mup",
                        help="sp, mup or sp,mup; default: sp,mup")
    parser.add_argument("--widths", type=flags.positive_ints,
                        help=f"as in 64,128; default: {default['widths']}")
    flags.add_log2_lrs(parser, _describe_grid(demo, "default"))
    parser.add_argument("--seeds", type=flags.positive_int, help=f"default: {default['seeds']}")
    demo.add_flags(parser)
    group = parser.add_mutually_exclusive_group()
    for size, values in demo.sizes.items():
        if size != "default":
            described = flags.describe({flag: value for flag, value in values.items() if flag != "log2_lrs"})
            group.add_argument(
                f"--{size}", action="store_true", help=f"{demo.durations[size]}: other defaults, {described}, "
                f"log2-lrs {_describe_grid(demo, size)}")
    parser.add_argument("--out", type=pathlib.Path,
                        help="folder for the results; a sweep that was interrupted goes on where it was; "
                             f"default: results/{demo.name}, or with a dash and the size behind it")
    parser.add_argument("--search", choices=("grid", "adaptive"), default="grid",
                        help="all trials, or with three seeds a quarter of the work, around each width's best "
                             "rate; default: grid")
    parser.add_argument("--scheduler", metavar="ADDRESS",
                        help="of a cluster of dask.distributed, as tcp://host:8786, whose workers have this "
                             "repository; default: all cores of this machine")
    return parser


def _describe_grid(demo: SweepDemo, size: str) -> str:
    """Formats '-12:-4:0.5', or '-12:-4:0.5, for sgd -6:0:0.5'."""
    if not demo.grids:
        return demo.sizes[size]["log2_lrs"]
    (_, first), *others = demo.grids[size].items()
    return "".join([first, *(f", for {name} {grid}" for name, grid in others)])


def parse(demo: SweepDemo, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line; defaults depend on the size."""
    def defaults(given: argparse.Namespace) -> dict[str, Any]:
        size = next((name for name in demo.sizes if getattr(given, name, False)), "default")
        folder = demo.name if size == "default" else f"{demo.name}-{size}"
        grid = {"log2_lrs": demo.grids[size][given.optimizer]} if demo.grids else {}
        return {"out": pathlib.Path("results", folder), **demo.sizes["default"], **demo.sizes[size], **grid}

    return flags.parse(make_parser(demo), argv, defaults)
