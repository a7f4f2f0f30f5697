"""The learning curve of one run: a file that grows by a row a step, and a figure."""
import csv
import io
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from haiku_mup.serialization import atomic_files

COLUMNS = ("step", "lr", "train_loss", "valid_loss")


class LearningCurve:
    """The losses at each step of a run, also in a CSV file, from which a run that continues reads them."""

    def __init__(self, path: pathlib.Path | None, step: int):
        """Reads the file's rows before a step, and removes the rest: no checkpoint has those steps.

        Args:
          path: the file; None for none, in a process that doesn't write it.
          step: the step from which the run continues.
        """
        self.path, self.rows = path, [row for row in _read(path) if int(row["step"]) < step]
        if path is None:
            return
        text = io.StringIO()
        _writer(text).writeheader()
        _writer(text).writerows(self.rows)
        atomic_files.write(path, text.getvalue())

    def add(self, **row: Any) -> None:
        """Adds and writes a row: the losses at a step, before its update."""
        self.rows.append({name: str(row.get(name, "")) for name in COLUMNS})
        if self.path:
            with open(self.path, "a", newline="", encoding="utf-8") as file:
                _writer(file).writerow(self.rows[-1])

    def flush(self) -> None:
        """Waits until all rows are on the disk, as they must be before a checkpoint is."""
        if self.path:
            with open(self.path, "rb+") as file:
                os.fsync(file.fileno())

    def losses(self, name: str) -> list[tuple[int, float]]:
        """Returns (step, loss) of all steps that have this loss."""
        return [(int(row["step"]), float(row[name])) for row in self.rows if row[name]]

    def plot(self, path: pathlib.Path, title: str, caption: str) -> None:
        """Draws both losses over the steps, into a file."""
        import matplotlib
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7, 4.4), layout="constrained")
        axes, shades = figure.subplots(), matplotlib.colormaps["viridis_r"]([0.25, 0.95])
        styles = {"train_loss": {"linewidth": 0.8, "label": "training"},
                  "valid_loss": {"linewidth": 2, "marker": "o", "markersize": 4, "label": "held-out"}}
        for (name, style), shade in zip(styles.items(), shades):
            axes.plot(*zip(*self.losses(name)), color=shade, **style)
        axes.set(xlabel="step", ylabel="loss, nats")
        axes.set_title(title, fontsize=11, loc="left")
        axes.legend(frameon=False)
        axes.grid(alpha=0.3, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        figure.supxlabel(caption, fontsize=8, color="0.35")
        figure.savefig(path, dpi=150)


def _writer(file: Any) -> csv.DictWriter:
    return csv.DictWriter(file, COLUMNS, lineterminator="\n")


def _read(path: pathlib.Path | None) -> list[Mapping[str, str]]:
    """Reads the rows of a file; leaves out a last one that is incomplete."""
    if path is None or not path.is_file():
        return []
    text = path.read_text(encoding="utf-8")
    complete = text[:text.rfind("\n") + 1].splitlines()
    return [row for row in csv.DictReader(complete) if tuple(row) == COLUMNS]
