"""Compares search="adaptive" with the grid: how near its best rates come, and for which share of the work.

python -m benchmarks.adaptive FOLDER…             a row for each folder and loss, and their sum
python -m benchmarks.adaptive FOLDER… --curves    a row for each width, too

FOLDER is one that a complete sweep has filled, as results/mnist_mlp by `python -m demos.mnist_mlp`. A trial's
loss doesn't depend on which other trials run, so the search is sent the losses of the grid, and nothing is
trained. Every parametrization is a case, on all seeds and, where there are five or more, on three sets of
three.

A best rate counts as found if it is within a quarter octave of the grid's, or within the grid's own 95%
interval. Work is counted as if a trial's cost grew like the width to the power of 1.5, between that of
embeddings and of hidden weights.

The last rows say what fewer trials can tell at all: the grid's own trials at its best rate and an octave to
each side, which no search knows beforehand, with one, two or all seeds.
"""
import argparse
import contextlib
import math
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

from haiku_mup import Sweep
from haiku_mup.sweep.search import search_width_by_width

AIM = 0.25          # octaves
COST_EXPONENT = 1.5
SETS_OF_SEEDS = (slice(0, 3), slice(1, 4), slice(2, 5))     # where there are five
NEAR_OPTIMUM = (-1, 0, 1)       # octaves


class Case(NamedTuple):
    """A complete grid of one parametrization, with one loss.

    Attributes:
      label: its folder and its loss.
      grid: all trials.
    """

    label: str
    grid: Sweep


class Score(NamedTuple):
    """A comparison of some trials with their whole grid.

    Attributes:
      found: the number of best rates that are near the grid's.
      curves: the number of best rates.
      work: the share of the grid's work.
      lines: a row for each width.
    """

    found: int
    curves: int
    work: float
    lines: list[str]


def cases(folder: pathlib.Path) -> Iterator[Case]:
    """Yields the cases of a sweep's folder."""
    sweep = Sweep.load(folder)
    if not sweep.losses:
        raise SystemExit(f"{folder}: there are no trials: let its sweep come to an end")
    losses = [name for name in next(iter(sweep.losses.values())) if name.endswith(("train_loss", "valid_loss"))]
    for loss in losses or [sweep.loss]:
        for name in dict.fromkeys(trial.parametrization for trial in sweep.losses):
            trials = {trial: {loss: x[loss]} for trial, x in sweep.losses.items()
                      if trial.parametrization == name}
            axes = [list(dict.fromkeys(axis)) for axis in zip(*((t.width, t.point, t.seed) for t in trials))]
            if len(trials) < len(axes[0]) * len(axes[1]) * len(axes[2]):
                raise SystemExit(f"{folder}: trials are missing: let its sweep come to an end, as a grid")
            seeds = sorted(axes[2])
            for chosen in [seeds, *(seeds[s] for s in SETS_OF_SEEDS if len(seeds) >= 5)]:
                yield Case(f"{folder.name}, {loss}",
                           Sweep({trial: x for trial, x in trials.items() if trial.seed in chosen}))


def search(grid: Sweep) -> Sweep:
    """Returns the sweep of the trials that the search asks for, with their losses in the grid."""
    by_width: dict[int, list] = {}
    for trial in grid.losses:
        by_width.setdefault(trial.width, []).append(trial)
    rounds, losses, found = search_width_by_width([by_width[width] for width in sorted(by_width)]), None, {}
    with contextlib.suppress(StopIteration):
        while True:
            losses = {trial: grid.losses[trial] for trial in rounds.send(losses)}
            found |= losses
    return Sweep({trial: grid.losses[trial] for trial in grid.losses if trial in found})


def near_optimum(grid: Sweep, seeds: int | None) -> Sweep:
    """Returns the trials of some seeds at each width's best rate of the grid, and an octave to each side."""
    chosen = sorted({trial.seed for trial in grid.losses})[:seeds]
    (best,) = grid.best().values()
    rates = sorted({log2_lr(trial) for trial in grid.losses})
    nearest = {(width, min(rates, key=lambda x, at=it.log2_lr + octaves: abs(x - at)))
               for width, it in best.items() for octaves in NEAR_OPTIMUM}
    return Sweep({trial: x for trial, x in grid.losses.items()
                  if trial.seed in chosen and (trial.width, log2_lr(trial)) in nearest})


def log2_lr(trial) -> float:
    """Returns log2 of a trial's learning rate."""
    return math.log2(trial.point[0][1])


def score(grid: Sweep, some: Sweep) -> Score:
    """Compares some trials of a grid with all of them."""
    (of_grid,), (of_some,) = grid.best().values(), some.best().values()
    found, lines = 0, []
    for width, a in of_grid.items():
        b, count, total = of_some[width], *(sum(t.width == width for t in it.losses) for it in (some, grid))
        near = abs(b.log2_lr - a.log2_lr) <= AIM or a.low <= b.log2_lr <= a.high
        found += near
        interval = f"{a.log2_lr:.2f}" + (f" ±{a.half:.2f}" if not math.isnan(a.half) else " (edge)" * a.at_edge)
        lines.append(f"{width:>8}{interval:>16}{b.log2_lr:>9.2f}{f'{count}/{total}':>9}"
                     f"{'' if near else '  missed'}")
    work = [sum(float(trial.width)**COST_EXPONENT for trial in it.losses) for it in (some, grid)]
    return Score(found, len(of_grid), work[0] / work[1], lines)


def total(scores: list[Score]) -> str:
    """Returns the sum of scores in words."""
    found, curves = sum(s.found for s in scores), sum(s.curves for s in scores)
    work = sum(s.work for s in scores) / len(scores)
    return f"{work:>6.0%}{f'{found}/{curves}':>12}{found / curves:>8.1%}"


def main(argv=None):
    """Prints a row for each folder and loss, and what few trials can tell at all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.adaptive", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", metavar="FOLDER", type=pathlib.Path, nargs="+")
    parser.add_argument("--curves", action="store_true", help="a row for each width")
    args = parser.parse_args(argv)
    found = [case for folder in args.folders for case in cases(folder)]
    scores: dict[str, list[Score]] = {}
    print(f"{'':44}{'work':>6}{'best rates':>12}{'found':>8}")
    for case in found:
        scores.setdefault(case.label, []).append(score(case.grid, search(case.grid)))
    for label, of_label in scores.items():
        print(f"{label[:43]:44}{total(of_label)}")
        for each in of_label if args.curves else ():
            print("\n".join(each.lines))
    print(f"{'all':44}{total([s for of_label in scores.values() for s in of_label])}\n")
    for seeds, words in ((1, "one seed"), (2, "two seeds"), (None, "all seeds")):
        print(f"{f'around the known optimum, {words}':44}"
              f"{total([score(case.grid, near_optimum(case.grid, seeds)) for case in found])}")


if __name__ == "__main__":
    main()
