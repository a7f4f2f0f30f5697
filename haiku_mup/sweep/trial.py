"""What a sweep tries: points of hyperparameters, and trials at them."""
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from haiku_mup.errors import MupError

Point = tuple[tuple[str, float], ...]       # (("lr", 0.125), ("output_mult", 2.0)): lr first
RESERVED = {"parametrization", "width", "seed", "key", "crc", "dtype"}


class Trial(NamedTuple):
    """One training run: what it was given.

    Attributes:
      parametrization: the name of what made it.
      width: of the model.
      point: its hyperparameters.
      seed: of its key.

    >>> haiku_mup.Trial("mup", 64, (("lr", 0.125), ("momentum", 0.9)), seed=0).width
    64
    """

    parametrization: str
    width: int
    point: Point
    seed: int

    def row(self) -> dict[str, Any]:
        """The columns that name it in a table.

        >>> Trial("mup", 64, (("lr", 0.125),), 0).row()
        {'parametrization': 'mup', 'width': 64, 'lr': 0.125, 'seed': 0}
        """
        return {"parametrization": self.parametrization, "width": self.width, **dict(self.point),
                "seed": self.seed}


def draws(number: int, *, seed: int = 0, **ranges: tuple[float, float]) -> list[dict[str, float]]:
    """Random points of hyperparameters, each on a logarithmic scale: a random search's.

    Args:
      number: how many.
      seed: of the draws.
      **ranges: by name, the smallest and the largest value, above zero.

    Returns:
      A list of dicts, for `lr_sweep(..., hyperparameters=...)`. The first of a longer list are those of a
      shorter one.

    Raises:
      MupError: a range that is none, or not above zero.

    >>> points = haiku_mup.draws(20, lr=(2**-12, 2**-4), output_mult=(0.25, 4))
    >>> len(points), sorted(points[0]), all(2**-12 <= point["lr"] <= 2**-4 for point in points)
    (20, ['lr', 'output_mult'], True)
    """
    for name, (low, high) in ranges.items():
        if not 0 < low <= high < math.inf:
            raise MupError(f"draws: {name}={(low, high)}: give the smallest and the largest value, above 0")
    unit = np.random.default_rng(seed).random((number, len(ranges)))
    return [{name: float(low * (high / low)**u) for u, (name, (low, high)) in zip(row, ranges.items())}
            for row in unit]


def points(lrs: Iterable[float] | None,
           others: Mapping[str, Iterable[float]] | Iterable[Mapping[str, float]] | None) -> list[Point]:
    """Every learning rate with every setting of the other hyperparameters, without doubles.

    Args:
      lrs: the learning rates; None where each setting of `others` has its own.
      others: {name: values} for all their combinations; or a list of {name: value}.

    Raises:
      MupError: nothing to try; a name or a value that can't be; settings of different names.

    >>> points([0.1], {"momentum": [0.0, 0.9]})
    [(('lr', 0.1), ('momentum', 0.0)), (('lr', 0.1), ('momentum', 0.9))]
    """
    if isinstance(others, Mapping):
        others = [dict(zip(others, values)) for values in itertools.product(*others.values())]
    settings = [dict(setting) for setting in others] if others is not None else [{}]
    rates = [{}] if lrs is None else [{"lr": lr} for lr in lrs]
    found = [_point(setting, rate) for setting in settings for rate in rates]
    if not found:
        raise MupError("lr_sweep: no learning rates and no hyperparameters: there is nothing to try")
    if len({tuple(name for name, _ in point) for point in found}) > 1:
        raise MupError("lr_sweep: hyperparameters: every setting must have the same names")
    return list(dict.fromkeys(found))


def _point(setting: Mapping[str, Any], rate: Mapping[str, Any]) -> Point:
    values = {**setting, **rate}
    if rate and "lr" in setting:
        raise MupError("lr_sweep: lrs and hyperparameters both say what lr is; pass lrs=None")
    if "lr" not in values:
        raise MupError("lr_sweep: lrs=None, and hyperparameters has no 'lr'; give one of them")
    for name, x in values.items():
        if name in RESERVED or not name.isidentifier():
            raise MupError(f"lr_sweep: {name!r} is no name for a hyperparameter; give another")
        if not math.isfinite(float(x)):
            raise MupError(f"lr_sweep: {name}={x!r}: give a finite number")
    if float(values["lr"]) <= 0:
        raise MupError(f"lr_sweep: lr={values['lr']!r}: learning rates must be above 0")
    ordered = {"lr": values["lr"]} | dict(values)
    return tuple((name, float(x)) for name, x in ordered.items())


def seeds_of(seeds: int | Iterable[int]) -> list[int]:
    """3 -> [0, 1, 2]; or those that were given.

    Raises:
      MupError: none, or one that is no seed.

    >>> seeds_of(2), seeds_of([7, 5, 7])
    ([0, 1], [7, 5])
    """
    found = list(range(seeds)) if isinstance(seeds, (int, np.integer)) else list(dict.fromkeys(map(int, seeds)))
    if not found or not all(0 <= seed < 2**32 for seed in found):
        raise MupError(f"lr_sweep: seeds={seeds!r}: give how many, or which, from 0 to 2**32 - 1")
    return found


def blocks(trials: Sequence[Trial], size: int) -> list[tuple[Trial, ...]]:
    """The trials in cells of one size; the last may be smaller.

    >>> blocks("abcde", 2)
    [('a', 'b'), ('c', 'd'), ('e',)]
    """
    return [tuple(trials[i:i + size]) for i in range(0, len(trials), size)]
