"""Records -> figures: loss against the learning rate, a curve for each width."""
import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

TITLES = {"sp": "standard", "mup": "μP"}
LABELS = {"train_loss": "training loss", "valid_loss": "validation loss"}
KEY = "curve: geometric mean over seeds; shade: from the smallest to the largest; disc: lowest point"
FLOOR = 1e-12       # stands for a loss of zero where a logarithm is taken
GREY = "0.35"


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
        """The log2 learning rate of the lowest mean (the first of equals); nan if all diverged."""
        found = np.isfinite(self.mean).any()
        return float(self.log2_lr[self.mean.argmin()]) if found else math.nan


Curves = dict[str, dict[int, Curve]]        # parametrization -> width -> its curve


def curves(rows: Iterable[Mapping[str, Any]], loss: str = "train_loss") -> Curves:
    """Groups records by parametrization and width, in order of appearance.

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
        points = groups.setdefault(row["parametrization"], {}).setdefault(int(row["width"]), {})
        value = float(row[loss])
        points.setdefault(float(row["lr"]), []).append(math.inf if math.isnan(value) else value)
    return {name: {width: _curve(points) for width, points in widths.items()}
            for name, widths in groups.items()}


def _curve(points: Mapping[float, Sequence[float]]) -> Curve:
    """The curve of {lr: losses of its seeds}."""
    lrs = sorted(points)
    losses = [np.maximum(points[lr], FLOOR) for lr in lrs]
    mean = [math.exp(np.log(seeds).mean()) for seeds in losses]
    low, high = ([of(seeds) for seeds in losses] for of in (min, max))
    return Curve(np.log2(lrs).round(10), *map(np.array, (mean, low, high)))


def drift(widths: Mapping[int, Curve]) -> float:
    """How far apart the widths' best learning rates are, in octaves; nan if a width has none."""
    best = [curve.best for curve in widths.values()]
    return math.nan if any(map(math.isnan, best)) else max(best) - min(best)


def lr_transfer(rows: Iterable[Mapping[str, Any]], path: str | pathlib.Path | None = None, *,
                loss: str = "train_loss", title: str = "") -> Figure:
    """Draws loss against log2 learning rate: a panel per parametrization, a curve per width.

    A curve is the geometric mean over seeds, its shade runs from their smallest loss to their
    largest, and a disc marks its lowest point. Where a seed diverged there is no curve, and losses
    far above those at the smallest learning rates are out of the picture.

    Args:
      rows: records, as in `curves`.
      path: where to save the figure, if anywhere.
      loss: the key of the loss.
      title: a line above the panels.

    >>> rows = [{"parametrization": "sp", "width": 64, "lr": 2.0**k, "train_loss": 2 + k % 3}
    ...         for k in range(-9, -4)]
    >>> [axes.get_title() for axes in lr_transfer(rows).axes]
    ['standard']
    """
    panels = curves(rows, loss)
    figure = Figure(figsize=(1 + 4 * max(len(panels), 1), 4.5), layout="constrained")
    grid = figure.subplots(1, max(len(panels), 1), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (name, widths) in zip(grid, panels.items()):
        _draw(axes, widths)
        _describe(axes, TITLES.get(name, name), widths)
    _scale(grid[0], [curve for widths in panels.values() for curve in widths.values()])
    grid[0].set_ylabel(LABELS.get(loss, loss), fontsize=12)
    if panels:
        grid[-1].legend(title="width", frameon=False, loc="upper left", bbox_to_anchor=(1, 1),
                        fontsize=11, title_fontsize=11)
    figure.suptitle(title, fontsize=11)
    figure.supxlabel(KEY if len(panels) > 1 else "", fontsize=9.5, color=GREY)
    if path is not None:
        figure.savefig(path, dpi=200)
    return figure


def _draw(axes: Axes, widths: Mapping[int, Curve]) -> None:
    """A curve, its shade and its disc for each width: the wider, the darker."""
    shades = matplotlib.colormaps["viridis_r"](np.linspace(0.15, 0.95, len(widths)))
    for shade, (width, curve) in zip(shades, sorted(widths.items())):
        shown = np.isfinite(curve.high)
        x, mean, low, high = (np.where(shown, part, np.nan) for part in curve)
        axes.fill_between(x, low, high, color=shade, alpha=0.16, linewidth=0)
        axes.plot(x, mean, color=shade, linewidth=2, label=f"{width}")
        best = curve.log2_lr == curve.best
        axes.plot(x[best], mean[best], "o", color=shade, markersize=10, markeredgecolor="white",
                  markeredgewidth=1.5, zorder=3)


def _describe(axes: Axes, title: str, widths: Mapping[int, Curve]) -> None:
    octaves = drift(widths)
    axes.set_title(title, fontsize=14)
    if len(widths) > 1 and not math.isnan(octaves):
        axes.set_title(f"drift: {octaves:g} octave{'s' * (octaves != 1)}", loc="right",
                       fontsize=10, color=GREY)
    axes.set_xlabel("log2 learning rate", fontsize=12)
    axes.tick_params(labelsize=11)
    axes.grid(alpha=0.3, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _scale(axes: Axes, drawn: Sequence[Curve]) -> None:
    """The scale of this panel and all that share it."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(NullLocator())
    shown = [loss for curve in drawn for pair in zip(curve.low, curve.high)
             for loss in pair if math.isfinite(pair[1])] or [1.0]
    starts = [curve.high[0] for curve in drawn if math.isfinite(curve.high[0])] or [math.inf]
    axes.set_ylim(min(shown) / 1.3, min(1.3 * max(shown), 5 * max(starts)))
