"""Starts a worker for each side, lets them take turns, and prints the table."""
import argparse
import os
import pathlib
import statistics
import subprocess
import sys

import benchmarks.gpt2
from benchmarks.gpt2.settings import BATCH, LENGTH, STEPS

ROOT = pathlib.Path(__file__).parents[2]


def parse(argv):
    """Parses the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpt2", description=benchmarks.gpt2.__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch", help="a Python with torch and transformers")
    parser.add_argument("--model", choices=("gpt2", "llama"), default="gpt2", help="default: gpt2")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    for name, default in {"vocab": 50257, "blocks": 6, "width": 384, "heads": 6, "rounds": 5}.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default: {default}")
    parser.add_argument("--layer-stack", action="store_true", help="ours with its blocks in one layer_stack")
    return parser.parse_args(argv)


def start(name, args, argv):
    """Starts a worker."""
    python = args.torch if name == "torch" else sys.executable
    command = [python, "-W", "ignore", "-m", "benchmarks.gpt2", *argv, "--worker", name]
    return subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                            env={**os.environ, "PYTHONPATH": str(ROOT)})


def measure(args, argv):
    """Returns {name: (seconds of steps, MiB while stepping, MiB, first loss, last loss)}; they take turns."""
    names = ["plain", "wrapped", *(["torch"] if args.torch else [])]
    workers = {name: start(name, args, argv) for name in names}
    seconds = {name: [] for name in names}
    for name, process in workers.items():
        if process.stdout.readline() != "ready\n":
            raise SystemExit(f"{name}: it ended before its first step")
    for _ in range(args.rounds):
        for name, process in workers.items():
            print(STEPS, file=process.stdin, flush=True)
            seconds[name].append([float(x) for x in process.stdout.readline().split()])
    found = {}
    for name, process in workers.items():
        out, _ = process.communicate()
        found[name] = seconds[name], *map(float, out.split())
    return found


def print_table(args, found):
    """Prints a row for each side: milliseconds and memory, and their ratios to plain."""
    plain = [statistics.median(turn) for turn in found["plain"][0]]
    print(f"{args.model}, {args.blocks} blocks, width {args.width}, vocabulary {args.vocab}, {BATCH} x {LENGTH}"
          f"; {os.cpu_count()} cores")
    print(f"{'':8}{'step, ms':>10}{'/ plain':>9}{'(of turns)':>15}{'memory, MiB':>13}{'/ plain':>9}"
          f"{'with start':>12}{'losses':>16}")
    for name, (seconds, mib, with_start, first, last) in found.items():
        ratios = [statistics.median(turn) / reference for turn, reference in zip(seconds, plain)]
        step = 1e3 * statistics.median(sum(seconds, []))
        print(f"{name:8}{step:>10.1f}{statistics.median(ratios):>9.3f}{f'({min(ratios):.2f}-{max(ratios):.2f})':>15}"
              f"{mib:>13.0f}{mib / found['plain'][1]:>9.2f}{with_start:>12.0f}{first:>9.3f} {last:.3f}")


def main(argv=None):
    """Runs a worker, in a process of its own, or starts all and prints the table."""
    argv = sys.argv[1:] if argv is None else argv
    args = parse(argv)
    if args.worker:
        from benchmarks.gpt2.worker import work
        work(args)
    else:
        print_table(args, measure(args, argv))
