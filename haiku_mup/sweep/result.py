"""Sweep: the trials that were run, and what they say: the best rate of each width, and whether it is one."""
import csv
import dataclasses
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from haiku_mup.errors import MupError, MupWarning
from haiku_mup.sweep import loss_curves as sweep
from haiku_mup.sweep.recommendation import Advice, advice
from haiku_mup.sweep.trial import Missing, Trial

TAIL = 10       # the loss of a run is the mean over the last TAIL-th of its steps


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
        """Which loss is judged where none is named, the first that the trials returned.

        >>> haiku_mup.Sweep({}).loss
        'train_loss'
        """
        return next((name for losses in self.losses.values() for name in losses), "train_loss")

    def rows(self) -> list[dict[str, Any]]:
        """A dict for each trial: parametrization, width, lr and other hyperparameters, seed, and its losses.

        A loss that was recorded at each step is the mean over the last tenth of them.

        >>> haiku_mup.Sweep({Trial("mup", 64, (("lr", 0.5),), 0): {"train_loss": np.array([9., 2.])}}).rows()
        [{'parametrization': 'mup', 'width': 64, 'lr': 0.5, 'seed': 0, 'train_loss': 2.0}]
        """
        return [trial.row() | {name: final(x) for name, x in losses.items()}
                for trial, losses in self.losses.items()]

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Writes `rows`.

        Args:
          path: of the file.

        >>> haiku_mup.Sweep({}).to_csv(os.devnull)
        """
        rows = self.rows()
        with open(path, "w", newline="", encoding="utf-8") as file:
            columns = list(dict.fromkeys(key for row in rows for key in row))
            writer = csv.DictWriter(file, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)

    @classmethod
    def load(cls, out: str | os.PathLike[str]) -> "Sweep":
        """What is in the folder of a sweep, which may still be running.

        Args:
          out: the folder, as `lr_sweep` was given it.

        Raises:
          MupError: it is none.

        >>> from concurrent.futures import ThreadPoolExecutor
        >>> import tempfile
        >>> with ThreadPoolExecutor(1) as here, tempfile.TemporaryDirectory() as out:
        ...     sweep = haiku_mup.lr_sweep(lambda width: lambda lr, key: lr, [64], [0.5, 1], seeds=1, out=out,
        ...                                executor=here, progress=False)
        ...     haiku_mup.Sweep.load(out).rows() == sweep.rows()
        True
        """
        from haiku_mup.sweep.runner import ledger

        losses, left = ledger.read(out)
        return cls(losses, [Missing(trial, "it has not finished") for trial in left])

    def curves(self, loss: str | None = None) -> sweep.Curves:
        """Loss against learning rate, by parametrization and width: see `sweep.curves`.

        Of other hyperparameters each rate has the setting that is best at it, on the mean of its seeds.

        Args:
          loss: its name.

        Raises:
          MupError: a loss that no trial returned.

        >>> sweep = haiku_mup.Sweep({Trial("mup", 64, (("lr", 0.5),), 0): {"train_loss": np.array(2.)}})
        >>> sweep.curves()["mup"][64].best
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
        from haiku_mup.sweep import figures

        return figures.lr_transfer(self._profile(loss or self.loss), None if path is None else os.fspath(path),
                                   loss=loss or self.loss, title=title, caption=caption)

    def plot_curves(self, path: str | os.PathLike[str] | None = None, *, loss: str | None = None,
                    lr: float | None = None, title: str = "", caption: str = "") -> Any:
        """Draws the loss over the steps of training, a curve for each width, at one rate; needs matplotlib.

        In μP a wider model is better throughout.

        Args:
          path: where to save the figure, if anywhere.
          loss: the name of one that was recorded at each step; by default the first that was.
          lr: of the rates that were tried, the nearest to this one; by default, to the narrowest model's best.
          title: a line above.
          caption: a line below.

        Returns:
          The figure, of matplotlib.

        Raises:
          MupError: no such loss.

        >>> trials = [Trial("mup", width, (("lr", 2.0**-k),), 0) for width in (64, 128) for k in (1, 2, 3)]
        >>> sweep = haiku_mup.Sweep({t: {"train_loss": np.linspace(2, t.point[0][1], 9)} for t in trials})
        >>> [axes.get_title(loc="right") for axes in sweep.plot_curves(lr=0.3).axes]
        ['learning rate 0.25']
        """
        from haiku_mup.sweep import figures

        stepwise = [name for losses in self.losses.values() for name, x in losses.items() if x.ndim]
        name = loss or next(iter(stepwise), "")
        if name not in stepwise:
            raise MupError(f"plot_curves: loss={loss!r}: none of that name was recorded at each step")
        panels = {}
        for parametrization, widths in self.curves(name).items():
            at = _nearest(widths[min(widths)], lr)
            panels[parametrization] = 2**at, {
                width: figures.stacked(found) for width in widths
                if (found := self._learning(parametrization, width, at, name))}
        return figures.draw(panels, name, path, title, caption)

    def _learning(self, parametrization: str, width: int, log2_lr: float, loss: str) -> list[np.ndarray]:
        """The losses of each seed at a rate, at the best setting of what else there is."""
        rows = [row for row in self._profile(loss)
                if row["parametrization"] == parametrization and row["width"] == width
                and math.isclose(math.log2(row["lr"]), log2_lr, abs_tol=1e-9)]
        return [self.losses[row["trial"]][loss] for row in rows]

    def recommend(self, parametrization: str | None = None, *, loss: str | None = None) -> Advice:
        """The learning rate for the target: the best one of the widest model, and what speaks against it.

        Args:
          parametrization: whose; by default the only one, or "mup".
          loss: its name.

        Returns:
          An `Advice`; printed, it is a paragraph.

        Raises:
          MupError: several parametrizations, and none of them is "mup".

        Warns:
          MupWarning: the curves say that it doesn't transfer: the best rate is at the end of those that were
            tried, or moves by more than an octave; a wider model is worse; seeds disagree; and such.

        >>> trials = [Trial("mup", width, (("lr", 2.0**-k),), seed)
        ...           for width in (64, 128) for k in range(7) for seed in (0, 1)]
        >>> sweep = haiku_mup.Sweep({t: {"train_loss": (np.log2(t.point[0][1]) + 2.8)**2 + t.seed / 9
        ...                                            + 64 / t.width} for t in trials})
        >>> f"{sweep.recommend().lr:.3f}", sweep.recommend().transfers
        ('0.137', True)
        """
        found = self.curves(loss)
        name = parametrization or (next(iter(found)) if len(found) == 1 else "mup")
        if name not in found:
            raise MupError(f"recommend: {parametrization or 'several parametrizations'}: there are "
                           f"{', '.join(map(repr, found)) or 'none'}; name one of them")
        lost = sum(missing.trial.parametrization == name for missing in self.missing)
        said = advice(name, found[name], lost)
        if said.doubts:
            warnings.warn(str(said), MupWarning, stacklevel=2)
        return said

    def __str__(self) -> str:
        """The best rates as a table, a line for each parametrization."""
        lines = []
        for name, widths in self.curves().items():
            cells = ", ".join(f"{width}: {_shown(curve.optimum)}" for width, curve in sorted(widths.items()))
            drift = f"{sweep.drift(widths):.2f} octaves"
            lines.append(f"{name}: log2 of the best lr at width {cells}; drift {drift}")
        return "\n".join([*lines, *[f"{len(self.missing)} trials are missing"] * bool(self.missing)])

    def _profile(self, loss: str) -> list[dict[str, Any]]:
        """The rows; of trials that differ in other hyperparameters than lr, those of the best setting."""
        if self.losses and not any(loss in losses for losses in self.losses.values()):
            there = dict.fromkeys(name for losses in self.losses.values() for name in losses)
            raise MupError(f"loss={loss!r}: no trial returned it; there are {', '.join(map(repr, there))}")
        groups: dict[Any, dict[Any, list[dict[str, Any]]]] = {}
        for trial, losses in self.losses.items():
            at = groups.setdefault((trial.parametrization, trial.width, trial.point[0]), {})
            at.setdefault(trial.point, []).append(trial.row() | {loss: final(losses[loss]), "trial": trial})
        return [row for at in groups.values() for row in min(at.values(), key=lambda rows: _mean(rows, loss))]


def _shown(found: sweep.Optimum) -> str:
    """-8.38 ±0.19"""
    half = f" ±{found.half:.2f}" * (not math.isnan(found.half))
    return f"{found.log2_lr:.2f}{half}{' (edge)' * found.at_edge}"


def _nearest(curve: sweep.Curve, lr: float | None) -> float:
    """log2 of the rate that is nearest to this one, or to the best."""
    wanted = math.log2(lr) if lr else curve.optimum.log2_lr
    return float(curve.log2_lr[abs(curve.log2_lr - np.nan_to_num(wanted)).argmin()])


def final(x: np.ndarray) -> float:
    """The loss of a run: the number, or the mean over the last tenth of its steps.

    >>> final(np.array([5.0] * 18 + [1.0, 3.0])), final(np.array(4.0))
    (2.0, 4.0)
    """
    flat = np.asarray(x, np.float64).reshape(-1)
    return float(flat[-max(1, flat.size // TAIL):].mean())


def _mean(rows: Sequence[Mapping[str, Any]], loss: str) -> float:
    return float(np.mean([math.log(max(row[loss], sweep.FLOOR)) for row in rows]))
