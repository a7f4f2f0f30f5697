"""Records -> figures: loss against the learning rate, a curve for each width."""
import math
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

TITLES = {"sp": "standard", "mup": "μP"}
TINY = float(np.finfo(np.float32).tiny)     # stands for a loss of zero where a logarithm is taken


class Curve(NamedTuple):
    """The losses of one parametrization at one width, over learning rates.

    Attributes:
      log2_lr: [lrs], ascending.
      mean: [lrs], exp of the seeds' mean log loss; inf where a seed diverged.
      low: [lrs], the seeds' smallest loss.
      high: [lrs], the seeds' largest.
    """

    log2_lr: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @property
    def best(self) -> float:
        """The log2 learning rate of the lowest mean (the smaller of two); nan if all diverged."""
        return float(self.log2_lr[self.mean.argmin()]) if np.isfinite(self.mean).any() else math.nan


def curves(rows: Iterable[Mapping[str, Any]], loss: str = "train_loss") -> dict[str, dict[int, Curve]]:
    """Groups records into {parametrization: {width: Curve}}, in order of appearance.

    Args:
      rows: records with the keys `parametrization`, `width`, `lr` and `loss`, one for each seed;
        what csv.DictReader reads will do.
      loss: the key of the loss.

    >>> row = {"parametrization": "mup", "width": 64, "lr": 0.125}
    >>> curves([row | {"train_loss": 2.0}, row | {"train_loss": 8.0}])["mup"][64].mean
    array([4.])
    """
    groups: dict[str, dict[int, dict[float, list[float]]]] = {}
    for row in rows:
        widths = groups.setdefault(row["parametrization"], {})
        losses = widths.setdefault(int(row["width"]), {}).setdefault(float(row["lr"]), [])
        losses.append(float(row[loss]))
    return {name: {width: _curve(points) for width, points in widths.items()}
            for name, widths in groups.items()}


def _curve(points: Mapping[float, list[float]]) -> Curve:
    lrs = sorted(points)
    mean = [math.exp(np.log(np.maximum(points[lr], TINY)).mean()) for lr in lrs]
    low, high = ([of(points[lr]) for lr in lrs] for of in (min, max))
    return Curve(np.log2(lrs).round(10), *map(np.array, (mean, low, high)))


def drift(widths: Mapping[int, Curve]) -> float:
    """How far the best learning rate moves over the widths, in octaves; nan if a width has none."""
    best = [curve.best for curve in widths.values()]
    return max(best) - min(best) if not any(map(math.isnan, best)) else math.nan


def lr_transfer(rows: Iterable[Mapping[str, Any]], path: str | pathlib.Path | None = None, *,
                loss: str = "train_loss", title: str = "") -> Figure:
    """Draws loss against log2 learning rate: a panel for each parametrization, a curve for each width.

    A curve is the geometric mean over seeds, its shade runs from their smallest loss to their largest,
    and a disc marks its lowest point. Where a seed diverged, there is no curve.

    Args:
      rows: records, as in `curves`.
      path: where to save the figure, if anywhere.
      loss: the key of the loss.
      title: a line above the panels.

    >>> rows = [{"parametrization": "sp", "width": 64, "lr": 2.0**k, "train_loss": 2 + k % 3}
    ...         for k in range(-9, -4)]
    >>> len(lr_transfer(rows).axes)
    1
    """
    panels = curves(rows, loss)
    figure = Figure(figsize=(1 + 4 * max(len(panels), 1), 4.2), layout="constrained")
    all_axes = figure.subplots(1, max(len(panels), 1), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (name, widths) in zip(all_axes, panels.items()):
        _panel(axes, TITLES.get(name, name), widths)
    _scales(all_axes, panels, loss)
    figure.suptitle(title, fontsize=12)
    if path is not None:
        figure.savefig(path, dpi=200)
    return figure


def _panel(axes: Axes, title: str, widths: Mapping[int, Curve]) -> None:
    shades = matplotlib.colormaps["viridis_r"](np.linspace(0.12, 0.95, len(widths)))
    for shade, (width, curve) in zip(shades, sorted(widths.items())):
        shown = np.isfinite(curve.high)
        x, mean, low, high = (np.where(shown, part, np.nan) for part in curve)
        axes.fill_between(x, low, high, color=shade, alpha=0.2, linewidth=0)
        axes.plot(x, mean, color=shade, linewidth=2, label=f"{width}")
        at = curve.log2_lr == curve.best
        axes.plot(x[at], mean[at], "o", color=shade, markersize=9, markeredgecolor="white")
    axes.set_title(title, fontsize=13)


def _scales(all_axes: Iterable[Axes], panels: Mapping[str, Mapping[int, Curve]], loss: str) -> None:
    """One scale for all panels, and labels."""
    for axes in all_axes:
        axes.set_yscale("log")
        axes.set_xlabel("log2 learning rate")
        axes.grid(alpha=0.3, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    first, last = all_axes[0], all_axes[-1]
    first.set_ylabel({"train_loss": "training loss", "valid_loss": "validation loss"}.get(loss, loss))
    if panels:
        last.legend(title="width", frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
