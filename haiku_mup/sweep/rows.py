"""Rows of a sweep's table: one for each trial, with its hyperparameters and losses."""
import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from haiku_mup.errors import MupError
from haiku_mup.sweep.loss_curves import final_loss, finite_or_inf
from haiku_mup.sweep.trial import Trial

SweepLosses = Mapping[Trial, Mapping[str, np.ndarray]]


def trial_rows(losses: SweepLosses) -> list[dict[str, Any]]:
    """Returns a row for each trial: its own columns, and one for each of its losses.

    >>> trial_rows({Trial("mup", 64, (("lr", 0.5),), 0): {"train_loss": np.array([9., 2.])}})
    [{'parametrization': 'mup', 'width': 64, 'lr': 0.5, 'seed': 0, 'train_loss': 2.0}]
    """
    return [trial.row() | {name: final_loss(x) for name, x in by_name.items()}
            for trial, by_name in losses.items()]


def best_setting_rows(losses: SweepLosses, loss: str) -> list[dict[str, Any]]:
    """Returns the rows of the trials with the best hyperparameters other than the learning rate.

    Each rate of each curve has the setting with the lowest mean loss over its seeds. A row has the column
    "trial", too.

    Raises:
      MupError: no trial returned that loss.

    >>> losses = {Trial("mup", 64, (("lr", 0.5), ("momentum", m)), 0): {"train_loss": np.array(1 + m)}
    ...           for m in (0.0, 0.9)}
    >>> [(row["momentum"], row["train_loss"]) for row in best_setting_rows(losses, "train_loss")]
    [(0.0, 1.0)]
    """
    if losses and not any(loss in by_name for by_name in losses.values()):
        returned = dict.fromkeys(name for by_name in losses.values() for name in by_name)
        raise MupError(f"loss={loss!r}: no trial returned it; there are {', '.join(map(repr, returned))}")
    at_rate: dict[Any, dict[Any, list[dict[str, Any]]]] = {}        # by curve and rate, then by setting
    for trial, by_name in losses.items():
        by_setting = at_rate.setdefault((trial.parametrization, trial.width, trial.point[0]), {})
        row = trial.row() | {loss: final_loss(by_name[loss]), "trial": trial}
        by_setting.setdefault(trial.point, []).append(row)
    return [row for by_setting in at_rate.values()
            for row in min(by_setting.values(), key=lambda rows: _mean_loss(rows, loss))]


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns rows as csv, with a column for every name.

    >>> csv_text([{"lr": 0.5, "loss": 1.0}])
    'lr,loss\\n0.5,1.0\\n'
    """
    text = io.StringIO()
    columns = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _mean_loss(rows: Sequence[Mapping[str, Any]], loss: str) -> float:
    """Returns the mean of a loss over rows; inf if one diverged."""
    return float(np.mean([finite_or_inf(row[loss]) for row in rows]))
