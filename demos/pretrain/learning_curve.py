"""The learning curve of one run: a file that grows by a row a step, and a figure."""
import csv
import io
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from haiku_mup.serialization import atomic_files

COLUMNS = ("step", "lr", "train_loss", "valid_loss")


class Curve:
    """The rows of a run, which are also in a CSV file. An interrupted run's rows are read from there."""

    def __init__(self, path: pathlib.Path | None, step: int):
        """Keeps what the file has of the steps before this one; the rest is of steps that were lost.

        Args:
          path: the file; None for none, in a process beside the one that writes it.
          step: where the run goes on.
        """
        self.path, self.rows = path, [row for row in _read(path) if int(row["step"]) < step]
        if path is None:
            return
        text = io.StringIO()
        _writer(text).writeheader()
        _writer(text).writerows(self.rows)
        atomic_files.write(path, text.getvalue())

    def add(self, **row: Any) -> None:
        """Writes a row: the losses at this step, before its update."""
        self.rows.append({name: str(row.get(name, "")) for name in COLUMNS})
        if self.path:
            with open(self.path, "a", newline="", encoding="utf-8") as file:
                _writer(file).writerow(self.rows[-1])

    def flush(self) -> None:
        """Has all rows on the disk, as they must be before a checkpoint is."""
        if self.path:
            with open(self.path, "rb+") as file:
                os.fsync(file.fileno())

    def losses(self, name: str) -> list[tuple[int, float]]:
        """(step, loss) where there is one."""
        return [(int(row["step"]), float(row[name])) for row in self.rows if row[name]]

    def plot(self, path: pathlib.Path, title: str, caption: str) -> None:
        """Draws both losses over the steps."""
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
    """The rows of a file that may end within one."""
    if path is None or not path.is_file():
        return []
    text = path.read_text(encoding="utf-8")
    whole = text[:text.rfind("\n") + 1].splitlines()
    return [row for row in csv.DictReader(whole) if tuple(row) == COLUMNS]
