"""The text of a coordinate check: a line with the verdict, and a table of the worst findings."""
import math
import types
from collections.abc import Mapping, Sequence

from haiku_mup.coordinates.findings import Finding
from haiku_mup.coordinates.forward_factors import ForwardFactor
from haiku_mup.coordinates.quantities import RecordKind, kind_of
from haiku_mup.coordinates.rounded_updates import describe
from haiku_mup.coordinates.verdict import DEVIATION, seeds_needed

ROWS = 20       # findings that are shown
NAMED = 8       # parameters that are named as not seen
_LEGEND = ("A slope is the power of the width that a size follows; Δ: how far it has moved since step 0; "
           "update: how far one step moves a parameter; rate: an update beside its gradient.")


def report(findings: Sequence[Finding], *, parametrization: str, tol: float, seeds: int = 1,
           undecided: Sequence[Finding] = (), unseen: Sequence[str] = (), unrecorded: str = "",
           factors: Sequence[ForwardFactor] = (),
           rounded: Mapping[str, Mapping[int, float]] = types.MappingProxyType({})) -> str:
    """Returns the text.

    Args:
      findings: all findings, the worst first.
      parametrization: its name.
      tol: how far a slope may lie outside of what is expected.
      seeds: how many there are.
      undecided: those that leave the answer open: slopes that may be chance or fade, then wide intervals.
      unseen: parameters of whose learning rates nothing sharp is known.
      unrecorded: a sentence about activations that were not recorded, or "".
      factors: of the width, in the model's forward pass.
      rounded: the shares of entries that a step moves, of parameters whose updates are rounded away.

    >>> print(report([], parametrization="mup", tol=0.1))
    coordinate check: nothing was judged
    """
    if not findings:
        return "coordinate check: nothing was judged"
    shown = findings[:ROWS]
    width = max(len("quantity"), *(len(f.quantity) for f in shown))
    causes = {cause: number for number, cause in enumerate(dict.fromkeys(
        f.cause for f in shown if f.excess > tol and f.cause), start=1)}
    rows = [f"{f.quantity:<{width}}  {f.step:>4}  {f.stat:<4}  {_slope(f):>14}  {str(f.expected):>10}  "
            f"{_status(f, tol, causes)}" for f in shown]
    lines = [_first_line(findings, parametrization, tol=tol, undecided=undecided, seeds=seeds,
                         has_factors=bool(factors)),
             f"{'quantity':<{width}}  step  stat      slope        expected", *rows]
    lines[1:1] = [f"a factor of the width in the forward pass: {factor}" for factor in factors]
    if len(findings) > len(shown):
        lines.append(f"… and {len(findings) - len(shown)} more")
    lines += [f"({number}) {cause}" for cause, number in causes.items()]
    if unseen:
        lines.append("Not seen: the learning rates of " + ", ".join(unseen[:NAMED]) + (
            f" and {len(unseen) - NAMED} more" if len(unseen) > NAMED else "") +
            ", which have no gradient of their own, or updates of which only a range of slopes is expected.")
    if unrecorded:
        lines.append(unrecorded)
    if rounded:
        lines.append("Rounded away: updates of parameters of which a step moves ever fewer entries, "
                     f"{describe(rounded)}.")
    lines.append(_LEGEND)
    return "\n".join(lines)


def _first_line(findings: Sequence[Finding], parametrization: str, *, tol: float,
                undecided: Sequence[Finding], seeds: int, has_factors: bool) -> str:
    """Returns the first line: the answer, and why."""
    failed = sum(f.is_wrong(tol) for f in findings)
    start = f"coordinate check{f' of {parametrization}' * (parametrization != 'mup')}: "
    if has_factors and not failed:
        return (f"{start}undecided; no slope is off, but the forward pass has a factor of the width, which "
                "shows later or in wider models: take it out, or make it a constant")
    if undecided and not failed:
        worst = undecided[0]
        why = _why_open(worst, seeds) if worst.is_open(tol) else _too_few_seeds(worst, seeds)
        return f"{start}undecided; {why}"
    if failed:
        return (f"{start}failed; {failed} of {len(findings)} slopes are off by more than {tol:g} beyond their "
                "interval")
    return f"{start}passed; none of {len(findings)} slopes is off by more than {tol:g} beyond its interval"


def _why_open(finding: Finding, seeds: int) -> str:
    """Returns why a slope that is off doesn't decide, and what does."""
    which = f"the slope of {finding.quantity}, {_slope(finding)}"
    if math.isinf(finding.doubt):
        return f"{which}, may be chance, as one of many; take {2 * seeds} seeds"
    if finding.slope > finding.expected.high:
        return (f"{which}, may be that of narrow models alone, where later updates nearly cancel; take a lower "
                "learning rate, or wider models")
    return (f"{which}, may be that of narrow models alone, whose changes shrink until the width is that of the "
            "batch's rows; take wider models, or a batch of fewer rows (examples × tokens)")


def _too_few_seeds(finding: Finding, seeds: int) -> str:
    """Returns why an interval is too wide to decide, and how many seeds to take."""
    leave = "1 seed leaves" if seeds == 1 else f"{seeds} seeds leave"
    return (f"{leave} {_interval(finding.error)} around the slope of {finding.quantity}, where "
            f"±{DEVIATION:g} is needed; {_remedy(finding.error, seeds)}")


def _interval(error: float) -> str:
    return "no interval" if math.isinf(error) else f"±{error:.1f}"


def _remedy(error: float, seeds: int) -> str:
    """Returns what to do about an interval that is too wide."""
    needed = seeds_needed(error, seeds)
    return f"take {needed}" if needed else "take more seeds, a larger batch and wider models"


def _status(finding: Finding, tol: float, causes: Mapping[str, int]) -> str:
    """Returns the text behind a finding: that it fails, with the number of its cause, or that it is right."""
    if finding.excess > tol:
        status = "fails" if finding.is_wrong(tol) else "chance?" if math.isinf(finding.doubt) else "fades?"
        return f"{status} ({causes[finding.cause]})" if finding.cause else status
    falls = finding.expected.high < 0 and kind_of(finding.quantity) in set(RecordKind)
    return "ok: falls, as expected" if falls else "ok"


def _slope(finding: Finding) -> str:
    return "not finite" if math.isnan(finding.slope) else f"{finding.slope:.2f} ± {finding.error:.2f}"
