"""Sweep: the trials that were run, and what they say: the best rate of each width, and whether it is one."""
import csv
import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from haiku_mup import sweep
from haiku_mup.errors import MupError
from haiku_mup.trials import Trial

TAIL = 10       # the loss of a run is the mean over the last TAIL-th of its steps


class Missing(NamedTuple):
    """A trial that has no losses.

    Attributes:
      trial: which.
      reason: what went wrong, in the last try.

    >>> sweep = haiku_mup.Sweep({}, [haiku_mup.Missing(Trial("mup", 64, (("lr", 0.5),), 0), "MemoryError")])
    >>> sweep.missing[0].reason
    'MemoryError'
    """

    trial: Trial
    reason: str


@dataclasses.dataclass(frozen=True)
class Sweep:
    """What `lr_sweep` found.

    Attributes:
      losses: of each trial, in the order in which they were asked for: by name, arrays [steps] or [].
      missing: the trials that have none, and why.

    >>> trials = [Trial("mup", 64, (("lr", 2.0**k),), 0) for k in (-3, -2, -1)]
    >>> sweep = haiku_mup.Sweep({t: {"train_loss": np.array((k - 1)**2)} for k, t in enumerate(trials)})
    >>> sweep.best()["mup"][64].log2_lr
    -2.0
    """

    losses: Mapping[Trial, Mapping[str, np.ndarray]]
    missing: Sequence[Missing] = ()

    @property
    def loss(self) -> str:
        """The name of the loss that is judged where none is given: the first that the trials returned.

        >>> haiku_mup.Sweep({}).loss
        'train_loss'
        """
        return next((name for losses in self.losses.values() for name in losses), "train_loss")

    def rows(self) -> list[dict[str, Any]]:
        """A dict for each trial: parametrization, width, lr and the other hyperparameters, seed, and its losses.

        A loss that was recorded at each step is the mean over the last tenth of them.

        >>> haiku_mup.Sweep({Trial("mup", 64, (("lr", 0.5),), 0): {"train_loss": np.array([9., 2.])}}).rows()
        [{'parametrization': 'mup', 'width': 64, 'lr': 0.5, 'seed': 0, 'train_loss': 2.0}]
        """
        return [trial.row() | {name: final(x) for name, x in losses.items()} for trial, losses in self.losses.items()]

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Writes `rows`.

        Args:
          path: of the file.

        >>> haiku_mup.Sweep({}).to_csv(os.devnull)
        """
        rows = self.rows()
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)

    def curves(self, loss: str | None = None) -> sweep.Curves:
        """Loss against learning rate, by parametrization and width: see `sweep.curves`.

        Of other hyperparameters each rate has the setting that is best at it, on the mean of its seeds.

        Args:
          loss: its name.

        Raises:
          MupError: a loss that no trial returned.

        >>> haiku_mup.Sweep({Trial("mup", 64, (("lr", 0.5),), 0): {"train_loss": np.array(2.)}}).curves()["mup"][64].best
        -1.0
        """
        return sweep.curves(self._profile(loss or self.loss), loss or self.loss)

    def best(self, loss: str | None = None) -> dict[str, dict[int, sweep.Optimum]]:
        """The best learning rate of each parametrization and width, with its interval over seeds.

        Args:
          loss: its name.

        >>> haiku_mup.Sweep({}).best()
        {}
        """
        return {name: {width: curve.optimum for width, curve in widths.items()}
                for name, widths in self.curves(loss).items()}

    def drift(self, loss: str | None = None) -> dict[str, float]:
        """How far apart the widths' best rates are, in octaves, by parametrization: see `sweep.drift`.

        Args:
          loss: its name.

        >>> haiku_mup.Sweep({}).drift()
        {}
        """
        return {name: sweep.drift(widths) for name, widths in self.curves(loss).items()}

    def setback(self, loss: str | None = None) -> dict[str, float]:
        """Whether a wider model is ever worse, by parametrization: see `sweep.setback`.

        Args:
          loss: its name.

        >>> haiku_mup.Sweep({}).setback()
        {}
        """
        return {name: sweep.setback(widths) for name, widths in self.curves(loss).items()}

    def plot(self, path: str | os.PathLike[str] | None = None, *, loss: str | None = None, title: str = "",
             caption: str = "") -> Any:
        """Draws loss against learning rate; needs matplotlib. See `plot.lr_transfer`.

        Args:
          path: where to save the figure, if anywhere.
          loss: its name.
          title: a line above.
          caption: a line below.

        Returns:
          The figure, of matplotlib.

        >>> trials = [Trial("mup", 64, (("lr", 2.0**k),), 0) for k in (-3, -2, -1)]
        >>> len(haiku_mup.Sweep({trial: {"train_loss": np.array(2.)} for trial in trials}).plot().axes)
        1
        """
        from haiku_mup import plot

        return plot.lr_transfer(self._profile(loss or self.loss), path, loss=loss or self.loss, title=title,
                                caption=caption)

    def _profile(self, loss: str) -> list[dict[str, Any]]:
        """The rows; of trials that differ in other hyperparameters than lr, those of the best setting."""
        if self.losses and not any(loss in losses for losses in self.losses.values()):
            there = dict.fromkeys(name for losses in self.losses.values() for name in losses)
            raise MupError(f"loss={loss!r}: no trial returned it; there are {', '.join(map(repr, there))}")
        groups: dict[Any, dict[Any, list[dict[str, Any]]]] = {}
        for trial, losses in self.losses.items():
            at = groups.setdefault((trial.parametrization, trial.width, trial.point[0]), {})
            at.setdefault(trial.point, []).append(trial.row() | {loss: final(losses[loss])})
        return [row for at in groups.values() for row in min(at.values(), key=lambda rows: _mean(rows, loss))]


def final(x: np.ndarray) -> float:
    """The loss of a run: the number, or the mean over the last tenth of its steps.

    >>> final(np.array([5.0] * 18 + [1.0, 3.0])), final(np.array(4.0))
    (2.0, 4.0)
    """
    flat = np.asarray(x, np.float64).reshape(-1)
    return float(flat[-max(1, flat.size // TAIL):].mean())


def _mean(rows: Sequence[Mapping[str, Any]], loss: str) -> float:
    return float(np.mean([math.log(max(row[loss], sweep.FLOOR)) for row in rows]))
