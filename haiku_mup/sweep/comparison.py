"""`Comparison`: which parametrization of a model transfers and which is best, by the losses of a sweep."""
import dataclasses
import functools
import math
import os
from collections.abc import Iterable
from typing import Any

import numpy as np

from haiku_mup.coordinates.slopes import student
from haiku_mup.errors import MupError
from haiku_mup.sweep.loss_curves import Curve, drift
from haiku_mup.sweep.recommendation import MAX_DRIFT
from haiku_mup.sweep.result import Sweep
from haiku_mup.sweep.transfer import Estimate, Transfer, loss_at, plus_minus

COLUMNS = ("parametrization", "drift", "exponent", "log2 lr", "lowest loss", "behind", "lost by the base's lr",
           "transfers")
EXPLANATION = """\
drift: of the best rate over the widths, in octaves; exponent: of the width in the best rate; log2 lr: the best
at the widest model; behind: the lowest loss there beside the best parametrization's, seed by seed, with its 95%
interval; lost by the base's lr: with the best rate of the narrowest model, at the widest"""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Several parametrizations of one model, compared by the losses of a sweep.

    Attributes:
      sweep: the losses.
      loss: the name of the loss that judges; None for the sweep's own.
      target: the width that is to be trained at last; None if it is unknown.

    >>> trials = [Trial(name, width, (("lr", 2.0**-k),), seed) for name in ("sp", "mup")
    ...           for width in (64, 256) for k in range(3, 13) for seed in (0, 1, 2)]
    >>> def loss(t):
    ...     best = -7 - (t.parametrization == "sp") * np.log2(t.width / 64)
    ...     return 0.1 * (np.log2(t.point[0][1]) - best)**2 + 8 / t.width + 0.01 * t.seed
    >>> comparison = haiku_mup.Comparison(haiku_mup.Sweep({t: {"loss": np.array(loss(t))} for t in trials}))
    >>> comparison.choice, comparison.transfers_over_widths("sp")
    ('mup', False)
    """

    sweep: Sweep
    loss: str | None = None
    target: int | None = None

    # --- measures ---

    @functools.cached_property
    def _curves(self) -> dict[str, dict[int, Curve]]:
        """Returns the curves of each parametrization that has any, by width."""
        return {name: dict(sorted(widths.items())) for name, widths in self.sweep.curves(self.loss).items()}

    @property
    def widest(self) -> int:
        """Returns the largest width that every parametrization has.

        >>> rates = [(("lr", 2.0**-k),) for k in range(3)]
        >>> losses = {Trial(name, 64, point, 0): {"loss": np.array(1.0)} for name in "ab" for point in rates}
        >>> haiku_mup.Comparison(haiku_mup.Sweep(losses)).widest
        64
        """
        common = set.intersection(*(set(widths) for widths in self._curves.values())) if self._curves else set()
        if not common:
            raise MupError("Comparison: the parametrizations have no width in common")
        return max(common)

    @functools.cached_property
    def transfers(self) -> dict[str, Transfer]:
        """Returns how well the rate of each parametrization transfers, as `Sweep.transfer` does.

        >>> haiku_mup.Comparison(haiku_mup.Sweep({})).transfers
        {}
        """
        return self.sweep.transfer(self.loss)

    @functools.cached_property
    def _at_best(self) -> dict[str, np.ndarray]:
        """Returns the losses of the seeds at the widest model's best rate, by parametrization."""
        found = {}
        for name, widths in self._curves.items():
            curve = widths[self.widest]
            found[name] = loss_at(curve, curve.best) if not math.isnan(curve.best) else np.array([math.inf])
        return found

    @functools.cached_property
    def best(self) -> str:
        """Returns the parametrization with the lowest mean loss at the widest model, each at its best rate.

        >>> losses = {Trial(name, 64, (("lr", 0.5),), 0): {"loss": np.array(x)}
        ...           for name, x in (("a", 2.), ("b", 1.))}
        >>> haiku_mup.Comparison(haiku_mup.Sweep(losses)).best
        'b'
        """
        return min(self._at_best, key=lambda name: _mean(self._at_best[name]))

    def behind(self, name: str) -> Estimate:
        """Returns by how much a parametrization's lowest loss is above the best one's, at the widest model.

        Seeds are compared with themselves: a loss is an effect of its parametrization, one of its seed, and
        chance, whose variance is that of all parametrizations together (a two-way layout). The interval is
        Student's, for all pairs (Bonferroni), since the best one is chosen by the same losses.

        Args:
          name: of the parametrization.

        >>> losses = {Trial(name, 64, (("lr", 0.5),), seed): {"loss": np.array(x + seed)}
        ...           for name, x in (("a", 2.), ("b", 1.)) for seed in (0, 1)}
        >>> haiku_mup.Comparison(haiku_mup.Sweep(losses)).behind("a")
        Estimate(value=1.0, low=1.0, high=1.0)
        """
        names, losses = self._table_of_seeds
        if name == self.best:
            return Estimate(0.0, 0.0, 0.0)
        if name not in names or self.best not in names or losses.shape[1] < 2:
            return Estimate(_mean(self._at_best[name]) - _mean(self._at_best[self.best]))
        value = float(losses[names.index(name)].mean() - losses[names.index(self.best)].mean())
        half = _half_of_difference(losses)
        return Estimate(value, value - half, value + half)

    @functools.cached_property
    def _table_of_seeds(self) -> tuple[list[str], np.ndarray]:
        """Returns the parametrizations that didn't diverge, and their losses at the best rates, [names, seeds].

        Seeds that are missing somewhere are left out.
        """
        seeds = min(map(len, self._at_best.values()))
        rows = {name: losses[:seeds] for name, losses in self._at_best.items() if not np.isinf(losses).any()}
        losses = np.array(list(rows.values())).reshape(len(rows), seeds)
        return list(rows), losses[:, ~np.isnan(losses).any(axis=0)]

    @property
    def equals(self) -> list[str]:
        """Returns the parametrizations that the seeds don't tell from the best one at the widest model.

        >>> losses = {Trial(name, 64, (("lr", 0.5),), seed): {"loss": np.array(x + seed * y)}
        ...           for name, x, y in (("a", 2., 0.), ("b", 1., 1.)) for seed in (0, 1, 2)}
        >>> haiku_mup.Comparison(haiku_mup.Sweep(losses)).equals
        ['b']
        """
        return [name for name in self._curves if name != self.best and not self.behind(name).low > 0
                and not math.isinf(self.behind(name).value)]

    def transfers_over_widths(self, name: str) -> bool:
        """Returns whether a best rate was found at each width, and moves by an octave at most.

        Args:
          name: of the parametrization.

        >>> losses = {Trial("a", 64, (("lr", 0.5),), 0): {"loss": np.array(1.0)}}
        >>> haiku_mup.Comparison(haiku_mup.Sweep(losses)).transfers_over_widths("a")
        False
        """
        widths = self._curves[name]
        found = len(self.transfers[name].widths) == len(widths) > 1
        return found and drift(widths) <= MAX_DRIFT

    @property
    def choice(self) -> str:
        """Returns the parametrization to take, which transfers and is not behind the best beyond the seeds.

        If several do, it is the one that loses least by the base's rate; if none does, it is the best one.

        >>> losses = {Trial("a", 64, (("lr", 0.5),), 0): {"loss": np.array(1.0)}}
        >>> haiku_mup.Comparison(haiku_mup.Sweep(losses)).choice
        'a'
        """
        transferring = [name for name in (self.best, *self.equals) if self.transfers_over_widths(name)]
        if not transferring:
            return self.best
        return min(transferring, key=lambda name: max(np.nan_to_num(self.transfers[name].lost.value), 0.0))

    # --- for people ---

    def table(self) -> list[dict[str, Any]]:
        """Returns a dict of the measures of each parametrization, in the order of the sweep.

        >>> losses = {Trial("a", 64, (("lr", 2.0**-k),), 0): {"loss": np.array(abs(k - 2.0))} for k in range(5)}
        >>> haiku_mup.Comparison(haiku_mup.Sweep(losses)).table()[0]["log2 lr"]
        -2.0
        """
        rows = []
        for name, widths in self._curves.items():
            found = self.transfers[name]
            cells = (name, drift(widths), found.exponent, widths[self.widest].optimum.log2_lr,
                     _mean(self._at_best[name]), self.behind(name), found.lost,
                     self.transfers_over_widths(name))
            rows.append(dict(zip(COLUMNS, cells)))
        return rows

    def plot(self, path: str | os.PathLike[str] | None = None, *, title: str = "", caption: str = "") -> Any:
        """Draws the loss over the learning rate, a panel for each parametrization; needs matplotlib.

        Args:
          path: the file to save the figure to, if any.
          title: a line above the panels.
          caption: a line below them.

        Returns:
          The matplotlib figure.

        >>> losses = {Trial("a", 64, (("lr", 2.0**-k),), 0): {"loss": np.array(abs(k - 2.0))} for k in range(5)}
        >>> len(haiku_mup.Comparison(haiku_mup.Sweep(losses)).plot().axes)
        1
        """
        return self.sweep.plot(path, loss=self.loss, title=title, caption=caption)

    def paragraph(self) -> str:
        """Returns what follows for the target, in a few sentences.

        >>> losses = {Trial("a", 64, (("lr", 2.0**-k),), 0): {"loss": np.array(abs(k - 2.0))} for k in range(5)}
        >>> haiku_mup.Comparison(haiku_mup.Sweep(losses)).paragraph().partition("(")[0]
        "Judged by 'loss', at width 64 a is best "
        """
        sentences = [self._ranking(), self._transferring(), self._for_target()]
        return " ".join([*sentences, *self._doubts()])

    def __str__(self) -> str:
        """Returns the table, what its columns are, and the paragraph."""
        rows = [[_cell(row[column]) for column in COLUMNS] for row in self.table()]
        widths = [max(map(len, column)) for column in zip(COLUMNS, *rows)]
        lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths)).rstrip()
                 for line in (COLUMNS, *rows)]
        return "\n".join([*lines, EXPLANATION, "", self.paragraph()])

    def _ranking(self) -> str:
        """Returns which parametrization is best at the widest model, and by how much."""
        judged = self.sweep._describe_loss(self.loss or self.sweep.loss)
        lowest = _mean(self._at_best[self.best])
        text = f"Judged by {judged}, at width {self.widest} {self.best} is best ({lowest:.4g})"
        if self.equals:
            text += f", and the seeds can't tell it from {_joined(self.equals)}"
        worse = [name for name in self._curves if name not in (self.best, *self.equals)]
        behind = [f"{name} by {self.behind(name).value:.3g}{plus_minus(self.behind(name))}" for name in worse]
        are = "is" if len(behind) == 1 else "are"
        return text + (f"; behind it {are} {_joined(behind)}." if behind else ".")

    def _transferring(self) -> str:
        """Names the parametrizations whose rate transfers."""
        names = [name for name in self._curves if self.transfers_over_widths(name)]
        if not names:
            return "No parametrization's best rate was found at each width and stays within an octave."
        others = [name for name in self._curves if name not in names]
        rest = f", that of {_joined(others)} does not or wasn't found" if others else ""
        return f"The best rate of {_joined(names)} stays within an octave over the widths{rest}."

    def _for_target(self) -> str:
        """Returns what to do at the target: take the rate that stays, or the one that the law predicts."""
        choice, found = self.choice, self.transfers[self.choice]
        best = self._curves[choice][self.widest].optimum
        goal = f"At width {self.target}" if self.target else "In wider models"
        if math.isnan(best.log2_lr):
            return "Every rate diverged: try lower ones."
        if self.transfers_over_widths(choice):
            return f"{goal} take {choice} with a learning rate of {2**best.log2_lr:.3g} (2^{best.log2_lr:.1f})."
        if len(found.widths) < 2:
            return f"{goal} tune again: there is no law of {choice}'s best rate yet."
        law = f"follows width^{found.exponent}"
        if not self.target:
            return (f"{goal} {choice}'s best rate {law}: don't take the base's rate; give target= for a "
                    "prediction.")
        rate = found.predict(self.target)
        known = not math.isnan(rate.half)
        interval = f", {rate.low:.3g} to {rate.high:.3g} by chance in the seeds" if known else ""
        return f"{goal} {choice}'s best rate {law}, which predicts {rate.value:.3g}{interval}: tune around it."

    def _doubts(self) -> list[str]:
        """Returns reasons why more trials are needed."""
        edges = [name for name, widths in self._curves.items()
                 if any(curve.optimum.at_edge for curve in widths.values())]
        doubts = []
        if edges:
            doubts.append(f"But the best rate of {_joined(edges)} is the lowest or the highest that was tried "
                          "at some width: add rates.")
        if any(len(losses) < 3 for losses in self._at_best.values()):
            doubts.append("But fewer than three seeds can't tell a difference from chance: add seeds.")
        if self.sweep.missing:
            doubts.append(f"But {len(self.sweep.missing)} trials are missing.")
        return doubts


def _half_of_difference(losses: np.ndarray) -> float:
    """Returns half the interval of the difference of two rows' means, of a two-way layout [rows, seeds].

    >>> round(_half_of_difference(np.array([[0.0, 0.0, 0.0], [1.0, 2.0, 3.0]])), 2)        # 4.303 · √(1 / 3)
    2.48
    """
    rows, seeds = losses.shape
    residuals = losses - losses.mean(0, keepdims=True) - losses.mean(1, keepdims=True) + losses.mean()
    freedom, pairs = (rows - 1) * (seeds - 1), rows * (rows - 1) / 2
    deviation = math.sqrt(float((residuals**2).sum()) / freedom * 2 / seeds)
    return student(freedom, pairs) * deviation


def _mean(losses: np.ndarray) -> float:
    """Returns the mean of the seeds that aren't missing; inf if none is there."""
    known = losses[~np.isnan(losses)]
    return float(known.mean()) if len(known) else math.inf


def _cell(value: Any) -> str:
    """Returns a cell of the table as text."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Estimate):
        return f"{value.value:.3g}{plus_minus(value)}"
    return value if isinstance(value, str) else f"{value:.4g}"


def _joined(names: Iterable[str]) -> str:
    """Returns names as in "a, b and c"."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
