"""Starts a process for each side, and prints the table."""
import argparse
import importlib
import json
import os
import pathlib
import subprocess
import sys

import benchmarks.coord_check
from benchmarks.coord_check.settings import MODELS

ROOT = pathlib.Path(__file__).parents[2]
SIDES = {"ours": "ours", "bare": "bare JAX", "theirs": "mup, torch"}        # module: title of its column


def parse():
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.coord_check", description=benchmarks.coord_check.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch", default=sys.executable, help="a Python that has torch and mup")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--layers", type=int, default=2, help="of the transformer")
    parser.add_argument("--widths", type=lambda text: [int(width) for width in text.split(",")])
    parser.add_argument("--model", choices=MODELS, help="default: both")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    return parser.parse_args()


def measure_in(python, side, model, args):
    """Returns what a fresh process of a Python measures; None if it fails."""
    widths = args.widths or MODELS[model]
    command = [python, "-m", "benchmarks.coord_check", "--side", side, "--model", model,
               "--seeds", str(args.seeds), "--layers", str(args.layers), "--widths", ",".join(map(str, widths))]
    done = subprocess.run(command, capture_output=True, text=True, check=False,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None


def print_rows(model, found):
    """Prints two rows for a model: seconds of each side, and the ratio of ours to mup's."""
    for what in ("cold", "executed"):
        cells = ["skipped" if seconds is None else "{:.2f} ({:.2f})".format(*seconds[what])
                 for seconds in found.values()]
        ratio = "" if None in found.values() else f"{found['ours'][what][0] / found['theirs'][what][0]:.2f}"
        print(f"{model:<13}{what:<10}{''.join(f'{cell:>16}' for cell in cells)}{ratio:>10}", flush=True)


def main():
    """Prints seconds on the clock (and of the process), and ratios."""
    args = parse()
    if args.side:
        side = importlib.import_module(f"benchmarks.coord_check.{args.side}")
        print(json.dumps(side.measure(args.model, args.widths, args.seeds, args.layers)))
        return
    print(f"{'model':<13}{'':<10}{''.join(f'{title:>16}' for title in SIDES.values())}{'ours/mup':>10}"
          "     seconds on the clock (of CPU)")
    for model in [args.model] if args.model else MODELS:
        pythons = {side: args.torch if side == "theirs" else sys.executable for side in SIDES}
        print_rows(model, {side: measure_in(python, side, model, args) for side, python in pythons.items()})
