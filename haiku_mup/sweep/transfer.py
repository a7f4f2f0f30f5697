"""Measures how well a learning rate transfers over widths: a law of the best rate, and what an error costs.

Kalra & Barkeshli (arXiv 2605.21486) name three measures: how well a scaling law fits the best hyperparameters,
how robust the loss is to errors in extrapolating it, and what loss a parametrization costs in the limit of
large widths. Here these are `Transfer.fit_error`, `Transfer.sensitivity_exponent` and differences between the
`Transfer.limit` of parametrizations. We know the paper's measures by their description alone: the formulas are
ours.
"""
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from haiku_mup.coordinates.slopes import student
from haiku_mup.sweep.loss_curves import Curve
from haiku_mup.sweep.optimum import Optimum

OFFSET = 1.0            # octaves beside the best rate at which the loss of an error is measured
LIMIT_EXPONENTS = np.linspace(0.1, 2.0, 191)    # of the width, in the law of the lowest loss


class Estimate(NamedTuple):
    """A number with its 95% interval; nan where it is unknown.

    >>> Estimate(-1.0, -1.25, -0.75).half
    0.25
    """

    value: float
    low: float = math.nan
    high: float = math.nan

    @property
    def half(self) -> float:
        """Returns half the width of the interval."""
        return (self.high - self.low) / 2

    def __str__(self) -> str:
        """Returns the number and half its interval.

        >>> print(Estimate(-1.0, -1.25, -0.75), Estimate(0.5))
        -1.00 ±0.25 0.50
        """
        return f"{self.value:.2f}" + ("" if math.isnan(self.half) else f" ±{self.half:.2f}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Transfer:
    """Measures of how well the learning rate of one parametrization transfers over the widths of a sweep.

    The best rates are fitted by the law lr = c · width^e, by least squares of log2. Intervals are those of
    chance in the seeds: each best rate has one, and these are taken to be independent. `fit_error` says how far
    the law itself is from the rates.

    Attributes:
      widths: the widths whose best rate lies between others that were tried; others take no part in the law.
      exponent: e: 0 if one rate serves all widths.
      fit_error: the root mean square of the best rates' distances from the law, in octaves; nan for fewer than
        three widths, through two of which a law always goes.
      sensitivities: by width, the loss that an error of an octave in the rate costs: the mean of both sides.
      sensitivity_exponent: exponent of the width in that loss. Above 0, wider models need their rate to be
        known better, and a law that is extrapolated errs more expensively.
      lost: the loss that the widest model loses by taking the best rate of the narrowest.
      lost_share: the same as a share of the training's computation: a smaller model, at its own best rate,
        would reach that loss with so much less. nan if the lowest loss doesn't fall with the width.
      limit: the lowest loss in the limit of large widths, by the law L + A / width^b; nan for fewer than three
        widths, and if no such law fits.

    >>> x = np.arange(-12.0, -3)
    >>> curves = {w: Curve.of_losses(x, 0.1 * (x[:, None] + np.log2(w))**2 + 64 / w + [[0.0, 0.01]])
    ...           for w in (64, 128, 256)}
    >>> found = transfer(curves)
    >>> f"{found.exponent.value:.2f}, {found.fit_error:.2f}, {found.lost.value:.2f}"
    '-1.00, 0.00, 0.40'
    >>> f"{found.predict(1024).value:.6f} of {2**-10:.6f}"
    '0.000977 of 0.000977'
    """

    widths: tuple[int, ...]
    exponent: Estimate
    fit_error: float
    sensitivities: Mapping[int, float]
    sensitivity_exponent: float
    lost: Estimate
    lost_share: float
    limit: float
    optima: Mapping[int, Optimum]

    def predict(self, width: int) -> Estimate:
        """Returns the best learning rate that the law gives for a width, with its interval over seeds.

        Args:
          width: of the target.

        >>> curve = Curve.of_losses(np.array([-9., -8., -7.]), np.array([[1.], [0.], [1.]]))
        >>> transfer({64: curve, 128: curve}).predict(4096).value
        0.00390625
        """
        if len(self.widths) < 2:
            return Estimate(math.nan)
        x, y, halves = _points(self.optima, self.widths)
        to = math.log2(width)
        # The value of a least-squares line at `to` is this weighted sum of the points.
        found = _weighted(1 / len(x) + (to - x.mean()) * (x - x.mean()) / ((x - x.mean())**2).sum(), y, halves)
        return Estimate(*(2.0**value for value in found))

    def __str__(self) -> str:
        """Returns the measures in a sentence or two."""
        error = self.fit_error
        fit = "" if math.isnan(error) else f", which the best rates miss by {error:.2f} octaves"
        known = not math.isnan(self.lost_share)
        share = f", {100 * self.lost_share:.0f}% of the computation" if known else ""
        return (f"The best rate follows width^{self.exponent}{fit}. With the narrowest model's best rate the "
                f"widest loses {self.lost.value:.3g}{plus_minus(self.lost)}{share}. An error of an octave "
                f"costs {_listed(self.sensitivities)} by width.")


def transfer(curves: Mapping[int, Curve], compute_exponent: float = 2.0) -> Transfer:
    """Returns how well the learning rate of one parametrization transfers, from its curves by width.

    Args:
      curves: curves by width.
      compute_exponent: exponent of the width in the computation of a step; 2, as of products with matrices.
    """
    curves = dict(sorted(curves.items()))
    optima = {width: curve.optimum for width, curve in curves.items()}
    widths = tuple(width for width, best in optima.items() if not best.at_edge and not math.isnan(best.log2_lr))
    exponent, fit_error = _law(optima, widths)
    sensitivities = {width: _sensitivity(curves[width], optima[width].log2_lr) for width in widths}
    lowest = {width: curve.lowest for width, curve in curves.items() if math.isfinite(curve.lowest)}
    lost = _lost(curves, optima)
    return Transfer(
        widths=widths, exponent=exponent, fit_error=fit_error, sensitivities=sensitivities,
        sensitivity_exponent=_exponent_of(sensitivities), lost=lost,
        lost_share=_share(lost.value, lowest, compute_exponent), limit=limit_of(lowest), optima=optima)


# --- the law of the best rate ---

def _points(optima: Mapping[int, Optimum],
            widths: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns log2 of the widths, log2 of their best rates, and halves of these rates' intervals."""
    best = [optima[width] for width in widths]
    return (np.log2(np.array(widths, float)), np.array([each.log2_lr for each in best]),
            np.array([each.half for each in best]))


def _weighted(weights: np.ndarray, y: np.ndarray, halves: np.ndarray) -> Estimate:
    """Returns a weighted sum of independent estimates, with its interval."""
    value, half = float(weights @ y), math.sqrt(float(((weights * halves)**2).sum()))
    return Estimate(value, value - half, value + half)


def _law(optima: Mapping[int, Optimum], widths: Sequence[int]) -> tuple[Estimate, float]:
    """Returns the exponent of the width in the best rate, and the law's root-mean-square error in octaves."""
    if len(widths) < 2:
        return Estimate(math.nan), math.nan
    x, y, halves = _points(optima, widths)
    centred = x - x.mean()
    exponent = _weighted(centred / (centred**2).sum(), y, halves)
    residuals = y - y.mean() - exponent.value * centred
    return exponent, float(np.sqrt((residuals**2).mean())) if len(widths) > 2 else math.nan


# --- what an error costs ---

def loss_at(curve: Curve, log2_lr: float) -> np.ndarray:
    """Returns each seed's loss, [seeds], at a rate between those that were tried.

    It is interpolated: exactly where the losses are a parabola, and without overshoot beside a steep rise. It
    is inf beside a rate at which a seed diverged; nan outside the rates, and where a seed is missing.

    >>> x = np.array([-3.0, -2.0, -1.0])
    >>> loss_at(Curve.of_losses(x, x[:, None]**2 + [[0.0, 1.0]]), -2.0)
    array([4., 5.])
    """
    found = np.full(curve.loss.shape[1], math.nan)
    for seed, losses in enumerate(curve.loss.T):
        known = ~np.isnan(losses)
        x, y = curve.log2_lr[known], losses[known]
        if len(x) and x[0] - 1e-9 <= log2_lr <= x[-1] + 1e-9:
            found[seed] = _interpolated(x, y, log2_lr)
    return found


def _interpolated(x: np.ndarray, y: np.ndarray, at: float) -> float:
    """Returns y at a point of x: the chord there, and the smaller of the curvatures at its two ends."""
    same = np.flatnonzero(np.isclose(x, at, rtol=0, atol=1e-9))
    if len(same):
        return float(y[same[0]])
    right = int(np.searchsorted(x, at))
    left = right - 1
    if not np.isfinite(y[[left, right]]).all():
        return math.inf
    slope = (y[right] - y[left]) / (x[right] - x[left])
    curvatures = [_curvature(x[i - 1:i + 2], y[i - 1:i + 2]) for i in (left, right) if 0 < i < len(x) - 1]
    known = [c for c in curvatures if math.isfinite(c)]
    curvature = min(known, key=abs) if known and all(c * known[0] > 0 for c in known) else 0.0
    return float(y[left] + slope * (at - x[left]) + curvature * (at - x[left]) * (at - x[right]))


def _curvature(x: np.ndarray, y: np.ndarray) -> float:
    """Returns the coefficient of x² in the parabola through three points; nan or inf if one diverged."""
    with np.errstate(invalid="ignore"):
        return float(((y[2] - y[1]) / (x[2] - x[1]) - (y[1] - y[0]) / (x[1] - x[0])) / (x[2] - x[0]))


def _mean(values: np.ndarray) -> float:
    """Returns the mean of the values that are known; nan if none is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan


def _sensitivity(curve: Curve, best: float) -> float:
    """Returns the loss that an error of an octave costs: the mean of both sides, as far as they were tried."""
    lowest = min(_mean(loss_at(curve, best)), curve.lowest)
    return _mean(np.array([_mean(loss_at(curve, best + offset)) for offset in (-OFFSET, OFFSET)])) - lowest


def _exponent_of(by_width: Mapping[int, float]) -> float:
    """Returns the exponent of the width in positive values; nan if there are fewer than two."""
    known = {width: x for width, x in by_width.items() if 0 < x < math.inf}
    if len(known) < 2:
        return math.nan
    return float(np.polyfit(np.log2(list(known)), np.log2(list(known.values())), 1)[0])


def _lost(curves: Mapping[int, Curve], optima: Mapping[int, Optimum]) -> Estimate:
    """Returns the loss that the widest model loses by the narrowest one's best rate, over seeds.

    Seeds are compared with themselves: the interval is Student's, of the differences.
    """
    narrow, wide = min(curves), max(curves)
    taken, own = optima[narrow].log2_lr, optima[wide].log2_lr
    if math.isnan(taken) or math.isnan(own):
        return Estimate(math.nan)
    curve = curves[wide]
    at_own = min((loss_at(curve, rate) for rate in (own, curve.best)), key=_mean)
    differences = loss_at(curve, taken) - at_own
    return mean_with_interval(differences[~np.isnan(differences)])


def mean_with_interval(values: np.ndarray) -> Estimate:
    """Returns the mean of independent values, with Student's 95% interval; without one for a single value.

    >>> print(mean_with_interval(np.array([1.0, 2.0, 3.0])))
    2.00 ±2.48
    """
    n = len(values)
    if n < 2 or not np.isfinite(values).all():
        return Estimate(float(values.mean()) if n else math.nan)
    half = student(n - 1) * float(values.std(ddof=1)) / math.sqrt(n)
    return Estimate(float(values.mean()), float(values.mean()) - half, float(values.mean()) + half)


# --- the law of the lowest loss ---

def _share(lost: float, lowest: Mapping[int, float], compute_exponent: float) -> float:
    """Returns which share of its computation the widest model wastes by losing so much.

    Between the two widest models the lowest loss falls by some amount an octave of the width. What is lost is
    so many octaves of the width, and each takes 2^compute_exponent times the computation.
    """
    if len(lowest) < 2 or math.isnan(lost):
        return math.nan
    (narrow, above), (wide, below) = sorted(lowest.items())[-2:]
    by_octave = (above - below) / math.log2(wide / narrow)
    return float(1 - 2**(-compute_exponent * max(lost, 0.0) / by_octave)) if by_octave > 0 else math.nan


def limit_of(lowest: Mapping[int, float]) -> float:
    """Returns L of the law L + A / width^b, A > 0, that fits the lowest losses best; nan if none does.

    >>> round(limit_of({w: 1.5 + 8 / w for w in (64, 128, 256, 512)}), 3)
    1.5
    """
    if len(lowest) < 3:
        return math.nan
    widths, losses = np.array(list(lowest), float), np.array(list(lowest.values()))
    best, found = math.inf, math.nan
    for exponent in LIMIT_EXPONENTS:
        design = np.stack([np.ones(len(widths)), (widths / widths.min())**-exponent], axis=1)
        (limit, rise), *_ = np.linalg.lstsq(design, losses)
        error = float(((design @ [limit, rise] - losses)**2).sum())
        if rise > 0 and error < best:
            best, found = error, float(limit)
    return found


def plus_minus(estimate: Estimate) -> str:
    """Returns half the interval of an estimate as text, if it has one: nothing for a number that is exact.

    >>> plus_minus(Estimate(1.0, 0.5, 1.5)), plus_minus(Estimate(1.0)), plus_minus(Estimate(0.0, 0.0, 0.0))
    (' ±0.5', '', '')
    """
    return "" if math.isnan(estimate.half) or estimate.half == 0 else f" ±{estimate.half:.2g}"


def _listed(by_width: Mapping[int, float]) -> str:
    return ", ".join(f"{x:.3g} ({width})" for width, x in by_width.items()) or "an unknown loss"
