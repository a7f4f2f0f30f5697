"""The trials of a sweep: their hyperparameters, seeds and names."""
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from haiku_mup.errors import MupError

# Names and values, the learning rate first: (("lr", 0.125), ("output_mult", 2.0)).
Hyperparameters = tuple[tuple[str, float], ...]
RESERVED_NAMES = {"parametrization", "width", "seed", "key", "crc", "dtype"}    # keys of a trial's JSON record


class Trial(NamedTuple):
    """One training run of a sweep.

    Attributes:
      parametrization: the name of the parametrization.
      width: the width of the model.
      point: the hyperparameters, as ``((name, value), ...)``, the learning rate first.
      seed: the seed of the run's key.

    >>> haiku_mup.Trial("mup", 64, (("lr", 0.125), ("momentum", 0.9)), seed=0).width
    64
    """

    parametrization: str
    width: int
    point: Hyperparameters
    seed: int

    def row(self) -> dict[str, Any]:
        """Returns the columns that identify the trial in a table.

        >>> Trial("mup", 64, (("lr", 0.125),), 0).row()
        {'parametrization': 'mup', 'width': 64, 'lr': 0.125, 'seed': 0}
        """
        return {"parametrization": self.parametrization, "width": self.width, **dict(self.point),
                "seed": self.seed}


class Missing(NamedTuple):
    """A trial without losses.

    Attributes:
      trial: the trial.
      reason: the error of the last attempt.

    >>> sweep = haiku_mup.Sweep({}, [haiku_mup.Missing(Trial("mup", 64, (("lr", 0.5),), 0), "MemoryError")])
    >>> sweep.missing[0].reason
    'MemoryError'
    """

    trial: Trial
    reason: str


def draws(number: int, *, seed: int = 0, **ranges: tuple[float, float]) -> list[dict[str, float]]:
    """Draws random hyperparameters, each log-uniformly from its range, for a random search.

    A random search covers each hyperparameter more densely than a grid of as many trials does (Bergstra and
    Bengio, JMLR 13, 2012).

    Args:
      number: the number of draws.
      seed: the seed of the draws.
      **ranges: by hyperparameter, its smallest and its largest value, both above zero.

    Returns:
      A list of dicts, for ``lr_sweep(..., hyperparameters=...)``. With one seed and one set of ranges, a longer
      list begins with the draws of a shorter one.

    Raises:
      MupError: a range is empty or not above zero.

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


def grid_points(lrs: Iterable[float] | None,
                hyperparameters: Mapping[str, Iterable[float]] | Iterable[Mapping[str, float]] | None,
                ) -> list[Hyperparameters]:
    """Combines every learning rate with every setting of the other hyperparameters; drops duplicates.

    Args:
      lrs: the learning rates; None if each setting of `hyperparameters` has its own.
      hyperparameters: ``{name: values}`` for all combinations, or a list of settings ``{name: value}``.

    Raises:
      MupError: there is nothing to try, a name or a value is not allowed, or settings differ in their names.

    >>> grid_points([0.1], {"momentum": [0.0, 0.9]})
    [(('lr', 0.1), ('momentum', 0.0)), (('lr', 0.1), ('momentum', 0.9))]
    """
    if isinstance(hyperparameters, Mapping):
        hyperparameters = [dict(zip(hyperparameters, values))
                           for values in itertools.product(*hyperparameters.values())]
    settings = [{}] if hyperparameters is None else [dict(setting) for setting in hyperparameters]
    if lrs is not None and not _is_iterable(lrs):
        raise MupError(f"lr_sweep: lrs={lrs!r}: give a list of learning rates, such as [2**-9, 2**-8, 2**-7]")
    rates = [{}] if lrs is None else [{"lr": lr} for lr in lrs]
    points = [_point(setting, rate) for setting in settings for rate in rates]
    if not points:
        raise MupError("lr_sweep: no learning rates and no hyperparameters: there is nothing to try")
    if len({tuple(name for name, _ in point) for point in points}) > 1:
        raise MupError("lr_sweep: hyperparameters: every setting must have the same names")
    return list(dict.fromkeys(points))


def _is_iterable(x: Any) -> bool:
    """Returns whether something can be iterated over, which an array without axes can't."""
    try:
        iter(x)
    except TypeError:
        return False
    return True


def _point(setting: Mapping[str, Any], rate: Mapping[str, Any]) -> Hyperparameters:
    """Returns the point of a setting and of ``{"lr": rate}``, or of a setting that has its own rate."""
    values = {**setting, **rate}
    if rate and "lr" in setting:
        raise MupError("lr_sweep: both lrs and hyperparameters give lr; pass lrs=None")
    if "lr" not in values:
        raise MupError("lr_sweep: lrs=None, and hyperparameters has no 'lr'; give one of them")
    for name, value in values.items():
        if name in RESERVED_NAMES or not name.isidentifier():
            raise MupError(f"lr_sweep: {name!r} can't be the name of a hyperparameter; give another")
        if not math.isfinite(float(value)):
            raise MupError(f"lr_sweep: {name}={value!r}: give a finite number")
    if float(values["lr"]) <= 0:
        raise MupError(f"lr_sweep: lr={values['lr']!r}: learning rates must be above 0")
    lr_first = {"lr": values["lr"]} | values
    return tuple((name, float(value)) for name, value in lr_first.items())


def seed_list(seeds: int | Iterable[int]) -> list[int]:
    """Returns the seeds of a number of seeds, or the given seeds without duplicates.

    Raises:
      MupError: there is no seed, or one is not an unsigned 32-bit integer.

    >>> seed_list(2), seed_list([7, 5, 7])
    ([0, 1], [7, 5])
    """
    given = range(seeds) if isinstance(seeds, (int, np.integer)) else seeds
    found = list(dict.fromkeys(map(int, given))) if _is_iterable(given) else []
    if not found or not all(0 <= seed < 2**32 for seed in found):
        raise MupError(f"lr_sweep: seeds={seeds!r}: give the number of seeds, or a list of seeds from 0 to "
                       "2**32 - 1")
    return found


def split_into_cells(trials: Sequence[Trial], size: int) -> list[tuple[Trial, ...]]:
    """Splits trials into cells of one size; the last may be smaller.

    >>> split_into_cells("abcde", 2)
    [('a', 'b'), ('c', 'd'), ('e',)]
    """
    return [tuple(trials[i:i + size]) for i in range(0, len(trials), size)]
