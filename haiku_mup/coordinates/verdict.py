"""The three answers of a coordinate check, and what it could not see."""
import enum
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from haiku_mup.coordinates.findings import Finding, Point
from haiku_mup.coordinates.quantities import CHANGE_MARK, ParameterKind, RecordKind, kind_of
from haiku_mup.coordinates.slopes import student
from haiku_mup.coordinates.state_records import WITHOUT_BIAS

DEVIATION = 0.25        # the smallest error of an exponent that a check must be able to see
MOST_SEEDS = 64         # the most that a report asks for
_TRAINING = (ParameterKind.UPDATE, ParameterKind.RATE, ParameterKind.CHANGE)


class Verdict(enum.StrEnum):
    """The answer of a coordinate check. Each equals its plain string.

    Attributes:
      PASSED: all slopes are as expected, and known well enough to tell.
      FAILED: a slope is wrong.
      UNDECIDED: no slope is wrong for sure, but some intervals are wider than what is looked for, a slope may
        be off by chance, or the forward pass has a factor of the width.

    >>> haiku_mup.Verdict.PASSED == "passed", [verdict.exit_code for verdict in haiku_mup.Verdict]
    (True, [0, 1, 3])
    """

    PASSED = "passed"
    FAILED = "failed"
    UNDECIDED = "undecided"

    @property
    def exit_code(self) -> int:
        """Returns the exit code of a program that ends with this answer; never 2, which is for bad arguments.

        >>> haiku_mup.Verdict.UNDECIDED.exit_code
        3
        """
        return {Verdict.PASSED: 0, Verdict.FAILED: 1, Verdict.UNDECIDED: 3}[self]


class AspectKind(enum.StrEnum):
    """Subject of a finding: an exponent of a parameter, an array of the forward pass, or a layer."""

    START = "start"             # of a parameter
    TRAINING = "training"       # of a parameter
    DECAY = "decay"             # of a parameter
    SIZE = "size"               # of an array of the forward pass
    MULTIPLIER = "multiplier"   # of a layer


class Aspect(NamedTuple):
    """The subject of several findings, in each of which the same wrong exponent shows.

    Attributes:
      kind: what they tell of.
      name: of the parameter, or of the array, with its kind.
    """

    kind: AspectKind
    name: str


def aspect(quantity: str, step: int = 0) -> Aspect:
    """Returns the aspect that a quantity shows. A parameter's value shows its draw at step 0, training later.

    >>> aspect("rate linear/w").name, aspect("Δactivation linear").name
    ('linear/w', 'activation linear')
    >>> [str(aspect("param linear/w", step).kind) for step in (0, 1)]
    ['start', 'training']
    """
    kind, _, name = quantity.partition(" ")
    if kind in _TRAINING or (kind == ParameterKind.VALUE and step):
        return Aspect(AspectKind.TRAINING, name)
    if kind in (ParameterKind.VALUE, ParameterKind.DECAY):
        return Aspect(AspectKind.START if kind == ParameterKind.VALUE else AspectKind.DECAY, name)
    if kind == RecordKind.MULTIPLIER:
        return Aspect(AspectKind.MULTIPLIER, name)
    return Aspect(AspectKind.SIZE, quantity.removeprefix(CHANGE_MARK))


def too_wide(findings: Iterable[Finding]) -> list[Finding]:
    """Returns the narrowest finding of each aspect, if even that is wider than `DEVIATION`; the widest first.

    A readout's output is left out where its multiplier is measured. Its few entries scatter most, and they tell
    nothing beyond the multiplier, the weight and its learning rate, each of which has findings of its own.
    """
    findings = list(findings)
    readouts = {f.name for f in findings
                if kind_of(f.quantity) == RecordKind.MULTIPLIER and f.expected.high < 0}
    known = [f for f in findings if aspect(f.quantity).kind is AspectKind.SIZE
             and f.name.removesuffix(WITHOUT_BIAS) in readouts]
    same = {(f.step, f.stat, f.slope, f.error) for f in known}      # a readout's output is the model's
    narrowest: dict[Aspect, Finding] = {}
    for finding in findings:
        key = finding.step, finding.stat, finding.slope, finding.error
        if aspect(finding.quantity).kind is AspectKind.SIZE and key in same:
            continue
        shown = aspect(finding.quantity, finding.step)
        if finding.error < narrowest.setdefault(shown, finding).error:
            narrowest[shown] = finding
    wide = [finding for finding in narrowest.values() if finding.error > DEVIATION]
    return sorted(wide, key=lambda finding: -finding.error)


def seeds_needed(error: float, seeds: int) -> int | None:
    """Returns how many seeds make half an interval as small as `DEVIATION`; None for more than `MOST_SEEDS`.

    Args:
      error: half of the interval now.
      seeds: how many seeds there are now.

    >>> seeds_needed(1.2, 2), seeds_needed(100.0, 2)
    (4, None)
    """
    if seeds < 2:
        return 5
    deviation = error / student(seeds - 1) * seeds**0.5
    return next((n for n in range(seeds + 1, MOST_SEEDS + 1)
                 if student(n - 1) * deviation / n**0.5 <= DEVIATION), None)


def unseen_parameters(points: Sequence[Point], findings: Sequence[Finding]) -> list[str]:
    """Returns the names of the parameters whose learning rates no finding determines well.

    Such a parameter has no gradient, or only rounding errors; or a whole range of slopes is right for it.
    """
    updates = {point.quantity.partition(" ")[2]: None for point in points
               if kind_of(point.quantity) == ParameterKind.UPDATE}
    seen = {f.name for f in findings if kind_of(f.quantity) in _TRAINING
            and f.expected.high - f.expected.low < DEVIATION and not f.error > DEVIATION}
    return [name for name in updates if name not in seen]
