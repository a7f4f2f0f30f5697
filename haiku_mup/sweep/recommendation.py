"""From a sweep's curves to the learning rate for the target, with the reasons, and what speaks against it."""
import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from haiku_mup.sweep.loss_curves import Curve, Optimum, drift, setback
from haiku_mup.sweep.optimum import lowest

DRIFT = 1.0         # octaves that the optimum may move, and
NOISE = 0.5         # to either side that its interval may reach, before it is doubted
STANDARD = ("sp", "standard")


class Advice(NamedTuple):
    """The learning rate for the target, and why.

    Attributes:
      lr: the rate: the best one of the widest model; nan where there is none.
      reasons: in a few sentences.
      doubts: what the curves say against it; empty where they agree that it transfers.

    >>> haiku_mup.Advice(0.25, "It is the best at width 64.", ["There is one width alone."]).transfers
    False
    """

    lr: float
    reasons: str
    doubts: list[str]

    @property
    def transfers(self) -> bool:
        """Whether nothing speaks against it.

        >>> haiku_mup.Advice(0.25, "It is the best at each width.", []).transfers
        True
        """
        return not self.doubts and not math.isnan(self.lr)

    def __str__(self) -> str:
        return " ".join([self.reasons, *self.doubts])


def advice(name: str, widths: Mapping[int, Curve], lost: int = 0) -> Advice:
    """What the curves of one parametrization advise.

    Args:
      name: of the parametrization.
      widths: {width: curve}.
      lost: how many trials are missing.

    >>> x = np.arange(-6.0, 1.0)
    >>> curves = {width: Curve(x, 0.1 * (x[:, None] + 2.8)**2 - width / 500 + np.array([[0, 0.01]]))
    ...           for width in (64, 128)}
    >>> print(advice("mup", curves).reasons.partition(".")[2])      # doctest: +ELLIPSIS +NORMALIZE_WHITESPACE
    144 (2^-2.8, 95% interval -2.8 to -2.8): it is the best one at width 128, the widest of 2. Over the widths
    the best rate moves by 0.0 octaves, and at rates an octave or more below it a wider model is never worse.
    """
    best = {width: curve.optimum for width, curve in sorted(widths.items())}
    known = {width: found for width, found in best.items() if not math.isnan(found.log2_lr)}
    if not known:
        return Advice(math.nan, "There is no learning rate to use.", ["Every one diverged: try lower ones."])
    widest = max(known)
    found, octaves, worse = known[widest], drift({w: widths[w] for w in known}), setback(widths)
    reasons = (f"Use a learning rate of {2**found.log2_lr:.3g} (2^{found.log2_lr:.1f}{_interval(found)}): "
               f"it is the best one at width {widest}, the widest of {len(best)}.")
    if len(known) > 1:
        reasons += f" Over the widths the best rate moves by {octaves:.1f} octaves"
        reasons += ", and at rates an octave or more below it a wider model is never worse." * (worse <= 1)
        reasons += "." * (not worse <= 1)
    return Advice(2**found.log2_lr, reasons, list(_doubts(name, widths, best, octaves, worse, lost)))


def _interval(found: Optimum) -> str:
    return "" if math.isnan(found.low) else f", 95% interval {found.low:.1f} to {found.high:.1f}"


def _doubts(name: str, widths: Mapping[int, Curve], best: Mapping[int, Optimum], octaves: float,
            worse: float, lost: int) -> Iterator[str]:
    if name in STANDARD:
        yield "But this is the standard parametrization, in which the best rate moves as the width grows."
    if len(best) < 2:
        yield "But there is one width alone: whether its rate transfers can't be told. Add a width."
    gone = [width for width, found in best.items() if math.isnan(found.log2_lr)]
    if gone:
        yield f"But at width {_listed(gone)} every rate diverged."
    edges = {w: found.log2_lr == widths[w].log2_lr[0] for w, found in best.items() if found.at_edge}
    for low, end, way in ((True, "lowest", "lower"), (False, "highest", "higher")):
        there = [width for width, at_low in edges.items() if at_low == low]
        if there:
            yield f"But at width {_listed(there)} the {end} rate that was tried is the best: try {way} ones."
    if octaves > DRIFT:
        yield f"But {octaves:.1f} octaves are too far to call it one rate: it doesn't transfer."
    if worse > 1:
        yield ("But a wider model is worse than a narrower one at some rate an octave or more below the best ("
               f"{worse:.1f} standard deviations of seeds): something is not in μP.")
    there = [width for width in best if width not in gone]
    rising = [wide for narrow, wide in zip(there, there[1:]) if _above(widths[narrow], widths[wide])]
    if rising:
        yield f"But the best loss at width {_listed(rising)} is above that of the next narrower width."
    half = {w: found.half for w, found in best.items() if not found.at_edge}
    if any(curve.log_loss.shape[1] < 2 for curve in widths.values()):
        yield "But there is one seed alone, so that no interval is known. Add seeds."
    elif any(x > NOISE for x in half.values()):
        noisy = [w for w, x in half.items() if x > NOISE]
        yield f"But at width {_listed(noisy)} the seeds leave it open by more than half an octave. Add seeds."
    if lost:
        yield f"But {lost} trials are missing."


def _above(narrow: Curve, wide: Curve) -> bool:
    """Whether the wider one's lowest loss is above the narrower one's, by more than the seeds' spread."""
    a, b = (curve.log_loss[lowest(curve.log_loss)] for curve in (narrow, wide))
    a, b = a[~np.isnan(a)], b[~np.isnan(b)]
    spread = math.hypot(a.std(ddof=1), b.std(ddof=1)) if min(len(a), len(b)) > 1 else 0.0
    return math.log(wide.lowest / narrow.lowest) > spread


def _listed(widths: list[int]) -> str:
    return ", ".join(map(str, widths))
