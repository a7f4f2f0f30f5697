"""Groups losses into curves over the learning rate, and compares the curves of different widths."""
import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from haiku_mup.sweep.optimum import Optimum, argmin_rate, find_optimum, marginal_means
from haiku_mup.sweep.ties import Ties, find_ties

TAIL = 10           # the loss of a run is the mean over the last of so many parts of its steps
RESOLUTION = 1e-12  # relative to the losses; standard deviations below it are rounding errors


class _Losses(NamedTuple):
    """The fields of a `Curve`."""

    log2_lr: np.ndarray
    log_loss: np.ndarray
    loss: np.ndarray


class Curve(_Losses):
    """The losses of one parametrization at one width, over learning rates.

    As in 0.2.0 it is made of logarithms, ``Curve(log2_lr, log_loss)``; `of_losses` takes losses of any sign.

    Attributes:
      log2_lr: [lrs], log2 of the learning rates, ascending.
      log_loss: [lrs, seeds], natural logarithms of the losses; nan for those that are not above 0.
      loss: [lrs, seeds], of any sign; inf where a seed diverged, nan where it is missing.

    >>> Curve(np.array([-8.0]), np.array([[0.0]])).loss
    array([[1.]])
    """

    __slots__ = ()

    def __new__(cls, log2_lr: np.ndarray, log_loss: np.ndarray, loss: np.ndarray | None = None) -> "Curve":
        """Returns the curve; without losses, those that the logarithms give."""
        return super().__new__(cls, log2_lr, log_loss, np.exp(log_loss) if loss is None else loss)

    @classmethod
    def of_losses(cls, log2_lr: np.ndarray, loss: np.ndarray) -> "Curve":
        """Returns the curve of losses [lrs, seeds] of any sign, at rates [lrs].

        >>> Curve.of_losses(np.array([-8.0]), np.array([[-1.0, 1.0]])).log_loss
        array([[nan,  0.]])
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            return cls(log2_lr, np.where(loss > 0, np.log(loss), np.nan), loss)

    @property
    def log_mean(self) -> np.ndarray:
        """Returns the seeds' mean of `log_loss`, [lrs], adjusted for missing seeds; inf where one diverged."""
        return marginal_means(self.log_loss)

    @property
    def mean(self) -> np.ndarray:
        """Returns the seeds' mean loss, [lrs], adjusted for missing seeds; inf where a seed diverged."""
        return marginal_means(self.loss)

    @property
    def low(self) -> np.ndarray:
        """Returns the seeds' smallest loss, [lrs]."""
        return np.asarray(np.nanmin(self.loss, axis=1))

    @property
    def high(self) -> np.ndarray:
        """Returns the seeds' largest loss, [lrs]."""
        return np.asarray(np.nanmax(self.loss, axis=1))

    @property
    def best(self) -> float:
        """Returns log2 of the rate with the lowest mean, the first of equals; nan if all diverged."""
        return float(self.log2_lr[argmin_rate(self.loss)]) if np.isfinite(self.mean).any() else math.nan

    @property
    def lowest(self) -> float:
        """Returns the mean loss at the best rate; inf if all diverged."""
        return float(self.mean[argmin_rate(self.loss)])

    @property
    def optimum(self) -> Optimum:
        """Returns the minimum between the rates that were tried, and its interval over seeds.

        >>> at = np.array([-8.0, -7.0, -6.0])
        >>> round(Curve.of_losses(at, 0.1 * (at[:, None] + 6.8)**2).optimum.log2_lr, 3)
        -6.8
        """
        return find_optimum(self.log2_lr, self.loss)


CurveTable = dict[str, dict[int, Curve]]        # by parametrization, then by width


def ties_of(curve: Curve) -> Ties | None:
    """Returns the rates that tie for the lowest loss; None if there is one, or all diverged.

    >>> at = np.array([-9.0, -8.0, -7.0, -6.0, -5.0])
    >>> ties_of(Curve.of_losses(at, np.array([[1.0], [0.0], [0.0], [0.0], [1.0]]))).rates
    3
    """
    finite = np.isfinite(curve.mean).any()
    return find_ties(curve.log2_lr, curve.loss, argmin_rate(curve.loss)) if finite else None


def final_loss(losses: np.ndarray) -> float:
    """Returns the loss of a run: the mean over the last tenth of its steps, or the number if it is a scalar.

    >>> final_loss(np.array([5.0] * 18 + [1.0, 3.0])), final_loss(np.array(4.0))
    (2.0, 4.0)
    """
    flat = np.asarray(losses, np.float64).reshape(-1)
    return float(flat[-max(1, flat.size // TAIL):].mean())


def finite_or_inf(loss: float) -> float:
    """Returns a loss; inf, as for a run that diverged, if it is not finite.

    >>> finite_or_inf(-1.5), finite_or_inf(math.nan), finite_or_inf(-math.inf)
    (-1.5, inf, inf)
    """
    return loss if math.isfinite(loss) else math.inf


def curves(rows: Iterable[Mapping[str, Any]], loss: str = "train_loss") -> CurveTable:
    """Groups records by parametrization and width, in order of appearance.

    Args:
      rows: records with the keys `parametrization`, `width`, `lr` and `loss`, one for each seed. The key `seed`
        distinguishes them; without it their order does. Values may be strings, as csv.DictReader reads them.
      loss: the key of the loss.

    Returns:
      Curves by parametrization, then by width. A loss that is not finite counts as diverged.

    >>> row = {"parametrization": "mup", "width": 64, "lr": 0.125}
    >>> curves([row | {"train_loss": 2.0}, row | {"train_loss": 8.0}])["mup"][64].mean
    array([5.])
    """
    groups: dict[str, dict[int, dict[float, dict[Any, float]]]] = {}
    for row in rows:
        by_lr = groups.setdefault(row["parametrization"], {}).setdefault(int(row["width"]), {})
        by_seed, value = by_lr.setdefault(float(row["lr"]), {}), float(row[loss])
        by_seed[row.get("seed", len(by_seed))] = finite_or_inf(value)
    return {name: {width: _curve(by_lr) for width, by_lr in by_width.items()}
            for name, by_width in groups.items()}


def _curve(by_lr: Mapping[float, Mapping[Any, float]]) -> Curve:
    """Returns the curve of losses ``{lr: {seed: loss}}``."""
    lrs = sorted(by_lr)
    seeds = list(dict.fromkeys(seed for by_seed in by_lr.values() for seed in by_seed))
    losses = [[by_lr[lr].get(seed, math.nan) for seed in seeds] for lr in lrs]
    return Curve.of_losses(np.log2(lrs).round(10), np.array(losses, np.float64))


def drift(widths: Mapping[int, Curve]) -> float:
    """Returns how far apart the optima of the widths are, in octaves; nan if a width has none.

    Args:
      widths: curves by width.

    >>> at = np.array([-3.0, -2.0, -1.0])
    >>> bowl = {width: Curve.of_losses(at, (at[:, None] - best)**2) for width, best in ((64, -1.5), (128, -2))}
    >>> round(drift(bowl), 3)
    0.5
    """
    optima = [curve.optimum.log2_lr for curve in widths.values()]
    return math.nan if any(map(math.isnan, optima)) else max(optima) - min(optima)


def setback(widths: Mapping[int, Curve]) -> float:
    """Returns by how much a wider model is worse than a narrower one, at rates well below the optimum.

    In μP wider is better at every rate up to the optimum. The number is the largest difference between the mean
    losses of a wider and of a narrower model, over all pairs of widths and all rates an octave or more
    below both optima. The unit is the standard deviation of that difference over seeds: up to 1, it is within
    the seeds' spread; below 0, wider is always better.

    Args:
      widths: curves by width, of the same rates.

    Returns:
      The number; nan for a single width, a single seed, or no rates that low.

    >>> at, seeds = np.array([-4.0, -3.0, -2.0, -1.0, 0.0]), np.array([0.0, 0.1])
    >>> narrow, wide = (Curve.of_losses(at, (at[:, None] + 1.3)**2 + shift + seeds) for shift in (0, -0.2))
    >>> round(setback({64: narrow, 128: wide}), 3)
    -2.0
    """
    pairs = [(narrow, wide) for narrow in widths for wide in widths if narrow < wide]
    return max((difference for narrow, wide in pairs
                for difference in _differences_below_optimum(widths[narrow], widths[wide])), default=math.nan)


def _differences_below_optimum(narrow: Curve, wide: Curve) -> Iterator[float]:
    """Yields how far `wide` is above `narrow` at each shared rate an octave or more below both optima."""
    highest = min(narrow.optimum.log2_lr, wide.optimum.log2_lr) - 1
    narrow_at = dict(zip(narrow.log2_lr, narrow.loss))
    for lr, wide_loss in zip(wide.log2_lr, wide.loss):
        if lr <= highest and lr in narrow_at:
            a, b = (losses[~np.isnan(losses)] for losses in (narrow_at[lr], wide_loss))
            if min(len(a), len(b)) > 1:
                yield _standardized_difference(a, b)


def _standardized_difference(narrow: np.ndarray, wide: np.ndarray) -> float:
    """Returns mean(wide) - mean(narrow), in standard deviations of the difference of two seeds.

    Seeds that diverged have no mean: then the width with more of them is infinitely worse.
    """
    if not (np.isfinite(narrow).all() and np.isfinite(wide).all()):
        return math.inf if np.isinf(wide).sum() > np.isinf(narrow).sum() else -math.inf
    deviation = math.hypot(narrow.std(ddof=1), wide.std(ddof=1))
    resolution = RESOLUTION * float(np.abs(np.concatenate([narrow, wide])).max())
    return float((wide.mean() - narrow.mean()) / max(deviation, resolution, sys.float_info.min))
