"""Recommends the learning rate for the target from a sweep's curves, with reasons and warnings."""
import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np

from haiku_mup.sweep.loss_curves import RESOLUTION, Curve, drift, setback, ties_of
from haiku_mup.sweep.optimum import Optimum, argmin_rate
from haiku_mup.sweep.ties import SAME_RATE, Ties

MAX_DRIFT = 1.0         # octaves that the optimum may move over the widths without a warning
MAX_HALF_INTERVAL = 0.5     # octaves that an optimum's interval may reach to either side
MAX_SETBACK = 1.0       # standard deviations by which a wider model may be worse
STANDARD_NAMES = ("sp", "standard")


class Advice(NamedTuple):
    """The learning rate for the target, with the reasons for it and against it.

    Attributes:
      lr: the best rate of the widest model; nan if every rate diverged.
      reasons: some sentences on where the rate comes from.
      doubts: warnings, a sentence or two each: reasons why the rate may not transfer. Empty if there are none.

    >>> haiku_mup.Advice(0.25, "It is the best at width 64.", ["There is only one width."]).transfers
    False
    """

    lr: float
    reasons: str
    doubts: list[str]

    @property
    def transfers(self) -> bool:
        """Returns whether there is a rate, and no doubt that it transfers.

        >>> haiku_mup.Advice(0.25, "It is the best at each width.", []).transfers
        True
        """
        return not self.doubts and not math.isnan(self.lr)

    def __str__(self) -> str:
        """Returns reasons and doubts as a paragraph."""
        return " ".join([self.reasons, *self.doubts])


def advise(name: str, curves: Mapping[int, Curve], missing: int = 0, judged_by: str | None = None) -> Advice:
    """Returns the advice that the curves of one parametrization give.

    Args:
      name: the name of the parametrization.
      curves: curves by width.
      missing: the number of trials without losses.
      judged_by: which loss the curves are of, for the reasons; None to leave it out.

    >>> x = np.arange(-6.0, 1.0)
    >>> curves = {width: Curve.of_losses(x, 0.1 * (x[:, None] + 2.8)**2 - width / 500 + np.array([[0, 0.01]]))
    ...           for width in (64, 128)}
    >>> print(advise("mup", curves).reasons.partition(".")[2])      # doctest: +ELLIPSIS +NORMALIZE_WHITESPACE
    144 (2^-2.8, 95% interval -2.8 to -2.8): it is the best one at width 128, the widest of 2. Over the widths
    the best rate moves by 0.0 octaves, and at rates an octave or more below it a wider model is never worse.
    """
    evidence = _Evidence(name=name, curves=dict(sorted(curves.items())), missing=missing)
    if not evidence.converged:
        return Advice(math.nan, "There is no learning rate to use.", ["Every one diverged: try lower ones."])
    optimum = evidence.optima[evidence.converged[-1]]
    sentences = [sentence for check in CHECKS if (sentence := check(evidence))]
    return Advice(2**optimum.log2_lr, _reasons(evidence, optimum, judged_by), sentences)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Evidence:
    """The curves of one parametrization, and what they have in common.

    Attributes:
      name: the name of the parametrization.
      curves: curves by width, ascending.
      missing: the number of trials without losses.
    """

    name: str
    curves: Mapping[int, Curve]
    missing: int

    @functools.cached_property
    def optima(self) -> dict[int, Optimum]:
        """Returns the optimum of each width."""
        return {width: curve.optimum for width, curve in self.curves.items()}

    @functools.cached_property
    def converged(self) -> list[int]:
        """Returns the widths at which some rate didn't diverge."""
        return [width for width, optimum in self.optima.items() if not math.isnan(optimum.log2_lr)]

    @functools.cached_property
    def drift(self) -> float:
        """Returns how far apart the optima of those widths are, in octaves."""
        return drift({width: self.curves[width] for width in self.converged})

    @functools.cached_property
    def ties(self) -> dict[int, Ties]:
        """Returns the rates that tie for the lowest loss, at the widths where several do, but not all."""
        return {width: ties for width, curve in self.curves.items()
                if (ties := ties_of(curve)) is not None and not _is_flat(curve)}

    @functools.cached_property
    def coarse(self) -> list[int]:
        """Returns the widths at which the tied rates reach too far to either side, or to an end."""
        return [width for width in self.ties
                if self.optima[width].at_edge or self._span(width) > 2 * MAX_HALF_INTERVAL + SAME_RATE]

    def _span(self, width: int) -> float:
        """Returns how far it is from the lowest to the highest rate that may be a width's best."""
        low, high = self._range(width)
        return high - low

    @functools.cached_property
    def least_drift(self) -> float:
        """Returns how far apart the optima are at least, if each tied rate may be its width's best."""
        ranges = [self._range(width) for width in self.converged]
        return max(low for low, _ in ranges) - min(high for _, high in ranges)

    def _range(self, width: int) -> tuple[float, float]:
        """Returns the range of the rates that may be a width's best: of one, unless several tie."""
        ties, best = ties_of(self.curves[width]), self.optima[width].log2_lr
        return (best, best) if ties is None else ties.around(self.curves[width].log2_lr)

    @functools.cached_property
    def setback(self) -> float:
        """Returns by how many standard deviations a wider model is worse; nan if that can't be said."""
        return setback(self.curves)


def _reasons(evidence: _Evidence, optimum: Optimum, judged_by: str | None) -> str:
    """Returns the sentences that explain the rate."""
    judged = f", judged by {judged_by}" if judged_by else ""
    interval = "" if math.isnan(optimum.low) else f", 95% interval {optimum.low:.1f} to {optimum.high:.1f}"
    widest = evidence.converged[-1]
    ties = evidence.ties.get(widest)
    best = "the best one" if ties is None else f"among {ties.rates} equally good ones"
    reasons = (f"Use a learning rate of {2**optimum.log2_lr:.3g} (2^{optimum.log2_lr:.1f}{interval}): it is "
               f"{best} at width {widest}, the widest of {len(evidence.curves)}{judged}.")
    if len(evidence.converged) == 1:
        return reasons
    reasons += f" Over the widths the best rate moves by {evidence.drift:.1f} octaves"
    if evidence.setback <= MAX_SETBACK:
        reasons += ", and at rates an octave or more below it a wider model is never worse"
    return reasons + "."


# --- warnings; each check returns a sentence, or None if it has nothing to say ---

def _standard(evidence: _Evidence) -> str | None:
    """Warns if the parametrization is the standard one, in which no rate transfers."""
    if evidence.name not in STANDARD_NAMES:
        return None
    return "But this is the standard parametrization, in which the best rate moves as the width grows."


def _single_width(evidence: _Evidence) -> str | None:
    """Warns if there is one width only, and so nothing to compare it with."""
    if len(evidence.curves) > 1:
        return None
    return "But there is only one width, which can't show whether its rate transfers. Add a width."


def _diverged(evidence: _Evidence) -> str | None:
    """Warns if every rate diverged at some width."""
    diverged = [width for width in evidence.curves if width not in evidence.converged]
    return f"But at width {_listed(diverged)} every rate diverged." if diverged else None


def _unused_rate(evidence: _Evidence) -> str | None:
    """Warns if the loss is the same at all rates."""
    widths = [width for width in evidence.converged if _is_flat(evidence.curves[width])]
    if not widths:
        return None
    return f"But at width {_listed(widths)} the loss is the same at all rates: make the trial use its rate."


def _coarse_loss(evidence: _Evidence) -> str | None:
    """Warns if rates that tie for the lowest loss leave an optimum uncertain."""
    if not evidence.coarse:
        return None
    return (f"But at width {_listed(evidence.coarse)} several rates tie for the lowest loss, which is too "
            "coarse to tell them apart: judge by a finer one, such as the cross entropy in place of the error "
            "rate.")


def _lowest_rate(evidence: _Evidence) -> str | None:
    """Warns if lower rates than those that were tried may be better at some width."""
    widths = [width for width in _at_edge(evidence) if _is_lowest(evidence, width)]
    if not widths:
        return None
    return f"But at width {_listed(widths)} the lowest rate that was tried is the best: try lower ones."


def _highest_rate(evidence: _Evidence) -> str | None:
    """Warns if higher rates than those that were tried may be better at some width."""
    widths = [width for width in _at_edge(evidence) if not _is_lowest(evidence, width)]
    if not widths:
        return None
    return f"But at width {_listed(widths)} the highest rate that was tried is the best: try higher ones."


def _large_drift(evidence: _Evidence) -> str | None:
    """Warns if the best rate moves with the width."""
    if not evidence.least_drift > MAX_DRIFT:
        return None
    return f"But {evidence.drift:.1f} octaves are too far to call it one rate: it doesn't transfer."


def _large_setback(evidence: _Evidence) -> str | None:
    """Warns if a wider model trains worse than a narrower one at a low rate."""
    if not evidence.setback > MAX_SETBACK:
        return None
    return ("But a wider model is worse than a narrower one at some rate an octave or more below the best ("
            f"{evidence.setback:.1f} standard deviations of seeds): something is not in μP.")


def _rising_loss(evidence: _Evidence) -> str | None:
    """Warns if the best loss of a width is worse than that of the next narrower one."""
    rising = [wide for narrow, wide in zip(evidence.converged, evidence.converged[1:])
              if _is_above(evidence.curves[narrow], evidence.curves[wide])]
    if not rising:
        return None
    return f"But the best loss at width {_listed(rising)} is above that of the next narrower width."


def _wide_interval(evidence: _Evidence) -> str | None:
    """Warns if a single seed, or seeds that disagree, leave an optimum uncertain."""
    if any(curve.loss.shape[1] < 2 for curve in evidence.curves.values()):
        return "But there is only one seed, so no interval is known. Add seeds."
    noisy = [width for width, optimum in evidence.optima.items()
             if not optimum.at_edge and optimum.half > MAX_HALF_INTERVAL and width not in evidence.coarse]
    if not noisy:
        return None
    return (f"But at width {_listed(noisy)} the seeds leave the best rate uncertain by more than half an "
            "octave. Add seeds.")


def _missing_trials(evidence: _Evidence) -> str | None:
    """Warns if trials are missing."""
    return f"But {evidence.missing} trials are missing." if evidence.missing else None


CHECKS: tuple[Callable[[_Evidence], str | None], ...] = (
    _standard, _single_width, _diverged, _unused_rate, _coarse_loss, _lowest_rate, _highest_rate,
    _large_drift, _large_setback, _rising_loss, _wide_interval, _missing_trials)


def _at_edge(evidence: _Evidence) -> list[int]:
    """Returns the widths whose best rate is the lowest or the highest that was tried, and not one of equals."""
    return [width for width, optimum in evidence.optima.items()
            if optimum.at_edge and not _is_flat(evidence.curves[width])]


def _is_flat(curve: Curve) -> bool:
    """Returns whether each seed has one loss at all of its rates, and some seed has two rates or more."""
    if np.isinf(curve.loss).any():          # a rate at which training diverges is used
        return False
    spread = np.nanmax(curve.loss, axis=0) - np.nanmin(curve.loss, axis=0)
    rates = (~np.isnan(curve.loss)).sum(axis=0)
    return bool(rates.max() > 1 and (spread <= RESOLUTION * np.nanmax(np.abs(curve.loss))).all())


def _is_lowest(evidence: _Evidence, width: int) -> bool:
    """Returns whether the best rate of a width is the lowest that was tried."""
    return bool(evidence.optima[width].log2_lr == evidence.curves[width].log2_lr[0])


def _is_above(narrow: Curve, wide: Curve) -> bool:
    """Returns whether the wider model's lowest loss is above the narrower one's, beyond the seeds' spread."""
    at_narrow, at_wide = (argmin_rate(curve.loss) for curve in (narrow, wide))
    a, b = narrow.loss[at_narrow], wide.loss[at_wide]
    a, b = a[~np.isnan(a)], b[~np.isnan(b)]
    spread = math.hypot(a.std(ddof=1), b.std(ddof=1)) if min(len(a), len(b)) > 1 else 0.0
    levels = float(narrow.mean[at_narrow]), float(wide.mean[at_wide])
    return levels[1] - levels[0] > max(spread, RESOLUTION * max(map(abs, levels)))


def _listed(widths: Iterable[int]) -> str:
    """Returns the widths, separated by commas."""
    return ", ".join(map(str, widths))
