"""Starts a process for each side, and prints the table."""
import argparse
import importlib
import json
import os
import pathlib
import subprocess
import sys

import benchmarks.sweep
from benchmarks.sweep.settings import STEPS, TRIALS, WIDTHS, work

ROOT = pathlib.Path(__file__).parents[2]
NAMES = {"ours": "lr_sweep", "loop": "jitted loop", "theirs": "mup, torch"}     # module: title of its column
SIDES = (*NAMES, "peak", "growth")


# --- processes ---

def start_process(side, args, core=None):
    """Starts a fresh process that measures a side, on one core with one thread, or on all."""
    command = [args.torch if side == "theirs" else sys.executable, "-m", "benchmarks.sweep", "--side", side,
               "--trials", str(args.trials), "--widths", ",".join(map(str, args.widths))]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    if core is not None:
        environment["XLA_FLAGS"] = environment.get("XLA_FLAGS", "") + " --xla_cpu_multi_thread_eigen=false"
        command = [sys.executable, "-c", f"import os, sys; os.sched_setaffinity(0, [{core}]); "
                   "os.execv(sys.argv[1], sys.argv[1:])", *command]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def result(process):
    """Returns what the process printed, with widths as numbers; None if it failed."""
    out, err = process.communicate()
    if process.returncode:
        print(f"left out: {(err.strip().splitlines() or ['no reason given'])[-1]}", file=sys.stderr)
        return None
    return {int(key) if key.isdecimal() else key: x for key, x in json.loads(out.splitlines()[-1]).items()}


def peaks(args):
    """Returns the peak of all cores, each busy with its own products."""
    processes = [start_process("peak", args, core) for core in os.sched_getaffinity(0)]
    by_core = [result(process) for process in processes]
    return {key: sum(rates[key] for rates in by_core) for key in by_core[0]}


# --- the table ---

def report(found, peak_rates, widths):
    """Formats a line for each width and for the whole: seconds, ratios, and shares of the peaks.

    Args:
      found: {side: {width or "whole": seconds}}; None for a side that failed.
      peak_rates: {width or "whole": FLOPs a second, "updates WIDTH": updates a second}.
      widths: of the models.
    """
    lines = ["width " + "".join(f"{NAMES[side]:>13}" for side in found) + f"{'torch/ours':>12}{'loop/ours':>11}"
             f"{'GFLOP/s':>9}{'of [128, width]':>17}{'of [1024, 1024]':>17}{'of the bound':>14}"]
    bounds = {width: TRIALS * STEPS * (work(width) / peak_rates[width] + 1 / peak_rates[f"updates {width}"])
              for width in widths}
    bounds["whole"] = sum(bounds.values())
    for width in [*widths, "whole"]:
        flops = sum(map(work, widths if width == "whole" else [width])) * TRIALS * STEPS
        rate = flops / found["ours"][width]
        cells = "".join(f"{x[width]:>11.1f} s" if x else f"{'-':>13}" for x in found.values())
        ratios = [f"{found[side][width] / found['ours'][width]:.2f}" if found[side] else "-"
                  for side in ("theirs", "loop")]
        share = "" if width == "whole" else f"{rate / peak_rates[width]:.0%}"
        lines.append(f"{width!s:<6}{cells}{ratios[0]:>12}{ratios[1]:>11}{rate / 1e9:>9.1f}{share:>17}"
                     f"{rate / peak_rates['whole']:>17.0%}{bounds[width] / found['ours'][width]:>14.0%}")
    return "\n".join(lines)


def parse(argv=None):
    """Parses the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sweep", description=benchmarks.sweep.__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch", metavar="PYTHON", default=sys.executable,
                        help="a Python that has torch and mup")
    parser.add_argument("--widths", type=lambda text: [int(x) for x in text.split(",")], default=list(WIDTHS))
    parser.add_argument("--trials", type=int, default=2, help="of a loop, timed at each width; default: 2")
    parser.add_argument("--growth", action="store_true", help="60 and 600 trials of the smallest width")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def print_growth(args):
    """Prints what a trial's step costs with 60 trials, and with 600."""
    seconds = result(start_process("growth", args))
    few, many = (1e3 * x / trials / STEPS for trials, x in seconds.items())
    for (trials, x), each in zip(seconds.items(), (few, many)):
        print(f"{trials} trials: {x:.1f} s, {each:.3f} ms a trial-step")
    print(f"ratio {many / few:.3f}")


def print_table(args):
    """Prints the table of all sides."""
    peak_rates = peaks(args)
    found = {side: result(start_process(side, args)) for side in NAMES}
    if found["ours"] is None:
        sys.exit("lr_sweep failed")
    print(f"{TRIALS} trials of {STEPS} steps at each width; of loops {args.trials} are timed, and "
          "stand for all")
    print(report(found, peak_rates, args.widths))
    print(f"peak, in GFLOP/s: {peak_rates['whole'] / 1e9:.0f} of [1024, 1024]; of [128, width] "
          + ", ".join(f"{peak_rates[width] / 1e9:.0f}" for width in args.widths))


def main(argv=None):
    """Measures one side, in a process of its own, or starts all and prints the table."""
    args = parse(argv)
    if args.side:
        side = importlib.import_module(f"benchmarks.sweep.{args.side}")
        print(json.dumps(side.measure(args.widths, args.trials)))
    else:
        (print_growth if args.growth else print_table)(args)
