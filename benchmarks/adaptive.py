"""How many trials does search="adaptive" run, and how far from the grid's are the best rates that it finds?

python -m benchmarks.adaptive FOLDER…

FOLDER is one that a demo of a sweep has filled, as results/mnist_mlp: `python -m demos.mnist_mlp`,
`python -m demos.text_transformer`, `python -m demos.cnn`. What a trial loses doesn't depend on which others are
run, so that the search is sent what the grid found, and nothing is trained.
"""
import argparse
import math
import pathlib

from haiku_mup import Sweep
from haiku_mup.sweep.search import adaptive_search

AIM = 0.25          # octaves


def swept(folder):
    """The sweep in the folder, with the loss alone that the search goes by. It must be whole."""
    found = Sweep.load(folder)
    sides = zip(*((at(trial), trial.point, trial.seed) for trial in found.losses))
    if len(found.losses) < math.prod(len(set(side)) for side in sides):
        raise SystemExit(f"{folder}: trials are missing: let its demo come to an end, without --search")
    return Sweep({trial: {found.loss: losses[found.loss]} for trial, losses in found.losses.items()})


def searched(grid):
    """The trials that the search asks for, with the losses that they have in the grid."""
    found, courses = {}, {}
    for trial in grid.losses:
        courses.setdefault(at(trial), []).append(trial)
    best = {}                                               # by parametrization, of the width before
    for (name, _), trials in sorted(courses.items()):       # from width to width, as lr_sweep goes
        search, known = adaptive_search(trials, best.get(name)), None
        while True:
            try:
                some = search.send(known)
            except StopIteration as end:
                best[name] = end.value
                break
            known = {trial: grid.losses[trial] for trial in some}
            found |= known
    return Sweep({trial: found[trial] for trial in grid.losses if trial in found})


def report(grid, found):
    """A line for each parametrization and width, the grid's with its interval over seeds; and one for all."""
    lines = [f"{'':<5}{'width':>6}{'grid':>15}{'adaptive':>10}{'octaves':>9}{'trials':>8}"]
    far = []
    for name, widths in grid.best().items():
        for width, best in widths.items():
            got = found.best()[name][width]
            far.append(abs(got.log2_lr - best.log2_lr))
            count = [sum(at(trial) == (name, width) for trial in each.losses) for each in (found, grid)]
            edge = " (edge)" * best.at_edge
            grids = f"{best.log2_lr:.2f}" + f" ±{best.half:.2f}" * (not math.isnan(best.half))
            lines.append(f"{name:<5}{width:>6}{grids:>15}{got.log2_lr:>10.2f}{far[-1]:>9.2f}"
                         f"{f'{count[0]}/{count[1]}':>8}{edge}")
    near = sum(x <= AIM for x in far if not math.isnan(x))
    share = len(found.losses) / len(grid.losses)
    lines.append(f"{share:.0%} of the trials; {near} of {len(far)} best rates within {AIM} octaves of "
                 f"the grid's, all within {max(far):.2f}")
    return "\n".join(lines)


def at(trial):
    """Of which curve it is."""
    return trial.parametrization, trial.width


def main(argv=None):
    """Prints a table for each folder."""
    it = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    it.add_argument("folders", metavar="FOLDER", type=pathlib.Path, nargs="+")
    for folder in it.parse_args(argv).folders:
        grid = swept(folder)
        print(f"{folder.name}, {grid.loss}\n{report(grid, searched(grid))}\n")


if __name__ == "__main__":
    main()
