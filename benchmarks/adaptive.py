"""Counts the trials of search="adaptive", and measures how near its best rates come to the grid's.

python -m benchmarks.adaptive FOLDER…

FOLDER is one that a demo of a sweep has filled, as results/mnist_mlp: `python -m demos.mnist_mlp`,
`python -m demos.text_transformer`, `python -m demos.cnn`. A trial's loss doesn't depend on which other trials
run, so the search is sent the losses of the grid, and nothing is trained.
"""
import argparse
import contextlib
import math
import pathlib

from haiku_mup import Sweep
from haiku_mup.sweep.search import search_width_by_width

AIM = 0.25          # octaves


def load_grid(folder):
    """Loads a complete sweep from a folder, with only the loss that the search minimises."""
    sweep = Sweep.load(folder)
    axes = zip(*((curve_key(trial), trial.point, trial.seed) for trial in sweep.losses))
    if len(sweep.losses) < math.prod(len(set(axis)) for axis in axes):
        raise SystemExit(f"{folder}: trials are missing: let its demo come to an end, without --search")
    return Sweep({trial: {sweep.loss: losses[sweep.loss]} for trial, losses in sweep.losses.items()})


def search(grid):
    """Returns the sweep of the trials that the search asks for, with their losses in the grid."""
    found, by_parametrization = {}, {}
    for trial in grid.losses:
        by_parametrization.setdefault(trial.parametrization, {}).setdefault(trial.width, []).append(trial)
    for widths in by_parametrization.values():
        rounds, losses = search_width_by_width([widths[width] for width in sorted(widths)]), None
        with contextlib.suppress(StopIteration):
            while True:
                losses = {trial: grid.losses[trial] for trial in rounds.send(losses)}
                found |= losses
    return Sweep({trial: found[trial] for trial in grid.losses if trial in found})


def report(grid, found):
    """Formats a line for each parametrization and width, with the interval over seeds; and a summary."""
    lines = [f"{'':<5}{'width':>6}{'grid':>15}{'adaptive':>10}{'octaves':>9}{'trials':>8}"]
    distances = []
    for name, widths in grid.best().items():
        for width, of_grid in widths.items():
            of_search = found.best()[name][width]
            distances.append(abs(of_search.log2_lr - of_grid.log2_lr))
            count, total = (sum(curve_key(trial) == (name, width) for trial in sweep.losses)
                            for sweep in (found, grid))
            optimum = f"{of_grid.log2_lr:.2f}" + f" ±{of_grid.half:.2f}" * (not math.isnan(of_grid.half))
            lines.append(f"{name:<5}{width:>6}{optimum:>15}{of_search.log2_lr:>10.2f}{distances[-1]:>9.2f}"
                         f"{f'{count}/{total}':>8}" + " (edge)" * of_grid.at_edge)
    near = sum(x <= AIM for x in distances if not math.isnan(x))
    share = len(found.losses) / len(grid.losses)
    lines.append(f"{share:.0%} of the trials; {near} of {len(distances)} best rates within {AIM} octaves of "
                 f"the grid's, all within {max(distances):.2f}")
    return "\n".join(lines)


def curve_key(trial):
    """Returns which curve the trial is a point of."""
    return trial.parametrization, trial.width


def main(argv=None):
    """Prints a table for each folder."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.adaptive", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", metavar="FOLDER", type=pathlib.Path, nargs="+")
    for folder in parser.parse_args(argv).folders:
        grid = load_grid(folder)
        print(f"{folder.name}, {grid.loss}\n{report(grid, search(grid))}\n")


if __name__ == "__main__":
    main()
