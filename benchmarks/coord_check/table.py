"""Starts a process for each side, and prints the table."""
import argparse
import importlib
import json
import os
import pathlib
import statistics
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
    parser.add_argument("--beside", type=pathlib.Path, metavar="TREE", help="another version of haiku_mup")
    parser.add_argument("--rounds", type=int, default=3, help="of both versions")
    parser.add_argument("--side", choices=[*SIDES, "check"], help=argparse.SUPPRESS)
    parser.add_argument("--tree", type=pathlib.Path, default=ROOT, help=argparse.SUPPRESS)
    return parser.parse_args()


def measure_in(python, side, model, args, tree=ROOT):
    """Returns what a fresh process of a Python measures; None if it fails."""
    widths = args.widths or MODELS[model]
    command = [python, "-m", "benchmarks.coord_check", "--side", side, "--model", model, "--tree", str(tree),
               "--seeds", str(args.seeds), "--layers", str(args.layers), "--widths", ",".join(map(str, widths))]
    cold = {"PYTHONPATH": str(ROOT), "JAX_ENABLE_COMPILATION_CACHE": "false"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **cold})
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None


def print_rows(model, found):
    """Prints two rows for a model: seconds of each side, and the ratio of ours to mup's."""
    for what in ("cold", "executed"):
        cells = ["skipped" if seconds is None else "{:.2f} ({:.2f})".format(*seconds[what])
                 for seconds in found.values()]
        ratio = "" if None in found.values() else f"{found['ours'][what][0] / found['theirs'][what][0]:.2f}"
        print(f"{model:<13}{what:<10}{''.join(f'{cell:>16}' for cell in cells)}{ratio:>10}", flush=True)


def compare(model, args):
    """Prints the CPU seconds of two versions, and their ratio, for each round; then the medians."""
    seconds = {ROOT: [], args.beside.resolve(): []}
    for number in range(args.rounds):
        for tree in list(seconds) if number % 2 == 0 else list(seconds)[::-1]:
            found = measure_in(sys.executable, "check", model, args, tree)
            if found is None or not pathlib.Path(found["package"]).is_relative_to(tree):
                raise SystemExit(f"no check of the haiku_mup in {tree}")
            seconds[tree].append(found["cold"][1])
        print_ratio(f"{model:<13}{'round ' + str(number):<10}", *(found[-1] for found in seconds.values()))
    print_ratio(f"{model:<13}{'median':<10}", *map(statistics.median, seconds.values()))


def print_ratio(start, here, beside):
    """Prints the seconds of two versions, and their ratio."""
    print(f"{start}{here:>16.2f}{beside:>16.2f}{here / beside:>10.2f}", flush=True)


def main():
    """Prints seconds on the clock (and of the process), and ratios."""
    args = parse()
    if args.side:
        sys.path.insert(0, str(args.tree))          # before haiku_mup is imported
        side = importlib.import_module(f"benchmarks.coord_check.{args.side}")
        print(json.dumps(side.measure(args.model, args.widths, args.seeds, args.layers)))
        return
    if args.beside:
        print(f"{'model':<13}{'':<10}{'here':>16}{'beside':>16}{'ratio':>10}     seconds of CPU, from cold")
        for model in [args.model] if args.model else MODELS:
            compare(model, args)
        return
    print(f"{'model':<13}{'':<10}{''.join(f'{title:>16}' for title in SIDES.values())}{'ours/mup':>10}"
          "     seconds on the clock (of CPU)")
    for model in [args.model] if args.model else MODELS:
        pythons = {side: args.torch if side == "theirs" else sys.executable for side in SIDES}
        print_rows(model, {side: measure_in(python, side, model, args) for side, python in pythons.items()})
