"""`Sweep`: the losses of a sweep, and the curves, optima, figures and recommendation that follow from them."""
import dataclasses
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from haiku_mup.errors import MupError, MupWarning
from haiku_mup.sweep import loss_curves
from haiku_mup.sweep.loss_curves import Curve, CurveTable
from haiku_mup.sweep.optimum import Optimum
from haiku_mup.sweep.program import DEFAULT_LOSS
from haiku_mup.sweep.recommendation import Advice, advise
from haiku_mup.sweep.rows import best_setting_rows, csv_text, trial_rows
from haiku_mup.sweep.transfer import Transfer, transfer
from haiku_mup.sweep.trial import Missing, Trial


@dataclasses.dataclass(frozen=True)
class Sweep:
    """The result of `lr_sweep`.

    Attributes:
      losses: for each trial, in the order of the sweep, its losses by name: arrays [steps] or [].
      missing: the trials without losses, each with the reason.

    >>> trials = [Trial("mup", 64, (("lr", 2.0**k),), 0) for k in (-3, -2, -1)]
    >>> sweep = haiku_mup.Sweep({t: {"train_loss": np.array((k - 1)**2)} for k, t in enumerate(trials)})
    >>> sweep.best()["mup"][64].log2_lr
    -2.0
    """

    losses: Mapping[Trial, Mapping[str, np.ndarray]]
    missing: Sequence[Missing] = ()

    @property
    def loss(self) -> str:
        """Returns the name of the loss that the sweep is judged by unless another is named.

        It is the first that the trials returned: with `training`, the first of `evaluate`, or else the training
        loss.

        >>> haiku_mup.Sweep({}).loss
        'train_loss'
        """
        return next((name for losses in self.losses.values() for name in losses), DEFAULT_LOSS)

    # --- tables ---

    def rows(self) -> list[dict[str, Any]]:
        """Returns a dict for each trial: parametrization, width, lr, other hyperparameters, seed, losses.

        A loss that was recorded at each step is the mean over the last tenth of the steps.

        >>> haiku_mup.Sweep({Trial("mup", 64, (("lr", 0.5),), 0): {"train_loss": np.array([9., 2.])}}).rows()
        [{'parametrization': 'mup', 'width': 64, 'lr': 0.5, 'seed': 0, 'train_loss': 2.0}]
        """
        return trial_rows(self.losses)

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Writes `rows` as a csv file.

        Args:
          path: the file.

        >>> haiku_mup.Sweep({}).to_csv(os.devnull)
        """
        with open(path, "w", newline="", encoding="utf-8") as file:
            file.write(csv_text(self.rows()))

    @classmethod
    def load(cls, out: str | os.PathLike[str]) -> "Sweep":
        """Reads the folder of a sweep, which may still be running.

        Args:
          out: the folder, as it was given to `lr_sweep`.

        Raises:
          MupError: it is not the folder of a sweep.

        >>> from concurrent.futures import ThreadPoolExecutor
        >>> import tempfile
        >>> with ThreadPoolExecutor(1) as here, tempfile.TemporaryDirectory() as out:
        ...     sweep = haiku_mup.lr_sweep(lambda width: lambda lr, key: lr, [64], [0.5, 1], seeds=1, out=out,
        ...                                executor=here, progress=False)
        ...     haiku_mup.Sweep.load(out).rows() == sweep.rows()
        True
        """
        from haiku_mup.sweep.runner.folder import SweepFolder
        from haiku_mup.sweep.search import SearchMethod
        from haiku_mup.sweep.spec import grid_from_json

        folder = SweepFolder(out)
        grid = grid_from_json(folder.arguments)
        losses = {trial: folder.losses[trial] for trial in grid if trial in folder.losses}
        if folder.arguments["search"] == SearchMethod.ADAPTIVE:
            grid = []       # which of its trials an adaptive search would still run is unknown
        return cls(losses, [Missing(trial, "it has not finished") for trial in grid if trial not in losses])

    # --- what the losses say ---

    def curves(self, loss: str | None = None) -> CurveTable:
        """Returns the loss over the learning rate, by parametrization and width: see `sweep.curves`.

        If there are other hyperparameters, each rate has the setting that is best at it, by the mean of its
        seeds.

        Args:
          loss: the name of a loss.

        Raises:
          MupError: no trial returned that loss.

        >>> sweep = haiku_mup.Sweep({Trial("mup", 64, (("lr", 0.5),), 0): {"train_loss": np.array(2.)}})
        >>> sweep.curves()["mup"][64].best
        -1.0
        """
        loss = loss or self.loss
        return loss_curves.curves(best_setting_rows(self.losses, loss), loss)

    def best(self, loss: str | None = None) -> dict[str, dict[int, Optimum]]:
        """Returns the best learning rate of each parametrization and width, with its interval over seeds.

        Args:
          loss: the name of a loss.

        >>> haiku_mup.Sweep({}).best()
        {}
        """
        return {name: {width: curve.optimum for width, curve in widths.items()}
                for name, widths in self.curves(loss).items()}

    def drift(self, loss: str | None = None) -> dict[str, float]:
        """Returns how far apart the best rates of the widths are, in octaves, by parametrization.

        See `sweep.drift`.

        Args:
          loss: the name of a loss.

        >>> haiku_mup.Sweep({}).drift()
        {}
        """
        return {name: loss_curves.drift(widths) for name, widths in self.curves(loss).items()}

    def setback(self, loss: str | None = None) -> dict[str, float]:
        """Returns by how much a wider model is ever worse than a narrower one, by parametrization.

        See `sweep.setback`.

        Args:
          loss: the name of a loss.

        >>> haiku_mup.Sweep({}).setback()
        {}
        """
        return {name: loss_curves.setback(widths) for name, widths in self.curves(loss).items()}

    def transfer(self, loss: str | None = None, *, compute_exponent: float = 2.0) -> dict[str, Transfer]:
        """Returns how well the learning rate transfers, by parametrization, in numbers.

        They are the exponent of the width in the best rate, and the rate that this law predicts for a target;
        how well the law fits; what an error in the rate costs; and the loss, and the share of the computation,
        that the widest model loses by taking the narrowest one's best rate.

        Args:
          loss: the name of a loss.
          compute_exponent: exponent of the width in the computation of a step; 2, as of products with matrices.

        Returns:
          A `Transfer` for each, which prints as a paragraph.

        >>> trials = [Trial("sp", width, (("lr", 2.0**-k),), seed)
        ...           for width in (64, 128) for k in range(3, 13) for seed in (0, 1)]
        >>> sweep = haiku_mup.Sweep({t: {"train_loss": (np.log2(t.point[0][1] * t.width))**2 + t.seed / 9
        ...                                            + 64 / t.width} for t in trials})
        >>> f"{sweep.transfer()['sp'].exponent.value:.2f}"
        '-1.00'
        """
        return {name: transfer(widths, compute_exponent) for name, widths in self.curves(loss).items()}

    def recommend(self, parametrization: str | None = None, *, loss: str | None = None) -> Advice:
        """Recommends a learning rate for the target: the best rate of the widest model.

        Args:
          parametrization: the parametrization; by default the only one, or "mup".
          loss: the name of a loss.

        Returns:
          An `Advice`, which prints as a paragraph.

        Raises:
          MupError: there are several parametrizations, and none of them is "mup".

        Warns:
          MupWarning: the curves give a reason to doubt that the rate transfers. For example, the best rate is
            the highest or the lowest that was tried, it moves by more than an octave between widths, a wider
            model is worse than a narrower one, or the seeds disagree. The advice has the reasons.

        >>> trials = [Trial("mup", width, (("lr", 2.0**-k),), seed)
        ...           for width in (64, 128) for k in range(7) for seed in (0, 1)]
        >>> sweep = haiku_mup.Sweep({t: {"train_loss": (np.log2(t.point[0][1]) + 2.8)**2 + t.seed / 9
        ...                                            + 64 / t.width} for t in trials})
        >>> f"{sweep.recommend().lr:.3f}", sweep.recommend().transfers
        ('0.144', True)
        """
        curves = self.curves(loss)
        name = parametrization or (next(iter(curves)) if len(curves) == 1 else "mup")
        if name not in curves:
            raise MupError(f"recommend: {parametrization or 'several parametrizations'}: there are "
                           f"{', '.join(map(repr, curves)) or 'none'}; name one of them")
        missing = sum(missing.trial.parametrization == name for missing in self.missing)
        advice = advise(name, curves[name], missing, self._describe_loss(loss or self.loss))
        if advice.doubts:
            warnings.warn(_warning(advice), MupWarning, stacklevel=2)
        return advice

    def __str__(self) -> str:
        """Returns the loss's name, the best rates by parametrization, and the number of missing trials."""
        lines = [f"judged by {self._describe_loss(self.loss)}"] if self.losses else []
        for name, widths in self.curves().items():
            cells = ", ".join(f"{width}: {_format(curve.optimum)}" for width, curve in sorted(widths.items()))
            drift = f"{loss_curves.drift(widths):.2f} octaves"
            lines.append(f"{name}: log2 of the best lr at width {cells}; drift {drift}")
        if self.missing:
            lines.append(f"{len(self.missing)} trials are missing")
        return "\n".join(lines)

    def _describe_loss(self, loss: str) -> str:
        """Returns the name of a loss, and how a run's losses at each step become one number.

        >>> Sweep({Trial("mup", 64, (("lr", 0.5),), 0): {"l": np.ones(9)}})._describe_loss("l")
        "'l', the mean over the last tenth of a run's steps"
        """
        by_step = any(by_name[loss].ndim for by_name in self.losses.values() if loss in by_name)
        return f"{loss!r}" + ", the mean over the last tenth of a run's steps" * by_step

    # --- figures ---

    def plot(self, path: str | os.PathLike[str] | None = None, *, loss: str | None = None, title: str = "",
             caption: str = "") -> Any:
        """Draws the loss over the learning rate; needs matplotlib. See `plot.lr_transfer`.

        Args:
          path: the file to save the figure to, if any.
          loss: the name of a loss.
          title: a line above the panels.
          caption: a line below them.

        Returns:
          The matplotlib figure.

        >>> trials = [Trial("mup", 64, (("lr", 2.0**k),), 0) for k in (-3, -2, -1)]
        >>> len(haiku_mup.Sweep({trial: {"train_loss": np.array(2.)} for trial in trials}).plot().axes)
        1
        """
        from haiku_mup.sweep import figures

        rows = best_setting_rows(self.losses, loss or self.loss)
        return figures.lr_transfer(rows, None if path is None else os.fspath(path), loss=loss or self.loss,
                                   title=title, caption=caption)

    def plot_curves(self, path: str | os.PathLike[str] | None = None, *, loss: str | None = None,
                    lr: float | None = None, title: str = "", caption: str = "") -> Any:
        """Draws the loss over the steps of training at one rate, a curve for each width; needs matplotlib.

        In μP a wider model is better at every step.

        Args:
          path: the file to save the figure to, if any.
          loss: the name of a loss that was recorded at each step; by default the first of them.
          lr: the figure is at the rate nearest to this one that was tried; by default, nearest to the best rate
            of the narrowest model.
          title: a line above the panels.
          caption: a line below them.

        Returns:
          The matplotlib figure.

        Raises:
          MupError: no such loss was recorded at each step.

        >>> trials = [Trial("mup", width, (("lr", 2.0**-k),), 0) for width in (64, 128) for k in (1, 2, 3)]
        >>> sweep = haiku_mup.Sweep({t: {"train_loss": np.linspace(2, t.point[0][1], 9)} for t in trials})
        >>> [axes.get_title(loc="right") for axes in sweep.plot_curves(lr=0.3).axes]
        ['learning rate 0.25']
        """
        from haiku_mup.sweep import figures

        recorded = [name for losses in self.losses.values() for name, x in losses.items() if x.ndim]
        name = loss or next(iter(recorded), None)
        if name not in recorded:
            raise MupError(f"plot_curves: loss={loss!r}: none of that name was recorded at each step")
        panels = {}
        for parametrization, widths in self.curves(name).items():
            log2_lr = _nearest_rate(widths[min(widths)], lr)
            by_width = {width: self._losses_by_seed(parametrization, width, log2_lr, name) for width in widths}
            panels[parametrization] = figures.LearningCurves(2**log2_lr, {
                width: figures.stack_seeds(losses) for width, losses in by_width.items() if losses})
        return figures.learning_curves(panels, path, loss=name, title=title, caption=caption)

    def _losses_by_seed(self, parametrization: str, width: int, log2_lr: float, loss: str) -> list[np.ndarray]:
        """Returns the losses of each seed at one rate, with the best setting of the other hyperparameters."""
        return [self.losses[row["trial"]][loss] for row in best_setting_rows(self.losses, loss)
                if row["parametrization"] == parametrization and row["width"] == width
                and math.isclose(math.log2(row["lr"]), log2_lr, abs_tol=1e-9)]


def _warning(advice: Advice) -> str:
    """Returns the warning of an advice with doubts, which prints them itself.

    >>> _warning(Advice(0.1, "", ["Too few seeds."]))
    'Sweep.recommend: the rate may not transfer, for 1 reason: print what it returned, or see its doubts'
    """
    count = len(advice.doubts)
    reasons = f"{count} reason{'s' * (count > 1)}: print what it returned, or see its doubts"
    return f"Sweep.recommend: the rate may not transfer, for {reasons}"


def _format(optimum: Optimum) -> str:
    """Returns log2 of the rate and half its interval, as in -8.38 ±0.19.

    >>> _format(Optimum(-8.0, -8.5, -7.75)), _format(Optimum(-6.0, at_edge=True))
    ('-8.00 ±0.50', '-6.00 (edge)')
    """
    half = "" if math.isnan(optimum.half) else f" ±{optimum.half:.2f}"
    edge = " (edge)" if optimum.at_edge else ""
    return f"{optimum.log2_lr:.2f}{half}{edge}"


def _nearest_rate(curve: Curve, lr: float | None) -> float:
    """Returns log2 of the curve's rate that is nearest to a rate, or to the optimum if that is None."""
    wanted = math.log2(lr) if lr else curve.optimum.log2_lr
    return float(curve.log2_lr[abs(curve.log2_lr - np.nan_to_num(wanted)).argmin()])
