"""The text of a coordinate check: a line with the verdict, and a table of the worst findings."""
import math
from collections.abc import Sequence

from haiku_mup.coordinates.findings import Finding
from haiku_mup.coordinates.forward_factors import ForwardFactor

ROWS = 20       # findings that are shown


def report(findings: Sequence[Finding], *, parametrization: str, tol: float,
           factors: Sequence[ForwardFactor] = ()) -> str:
    """Returns the text.

    Args:
      findings: all findings, the worst first.
      parametrization: its name.
      tol: how far a slope may lie outside of what is expected.
      factors: of the width, in the model's forward pass.

    >>> print(report([], parametrization="mup", tol=0.1))
    coordinate check: nothing was judged
    """
    if not findings:
        return "coordinate check: nothing was judged"
    shown = findings[:ROWS]
    width = max(len("quantity"), *(len(f.quantity) for f in shown))
    rows = [f"{f.quantity:<{width}}  {f.step:>4}  {f.stat:<4}  {_slope(f):>14}  {str(f.expected):>10}  "
            f"{f.cause if f.excess > tol else 'ok'}" for f in shown]
    lines = [_verdict(findings, parametrization, tol),
             f"{'quantity':<{width}}  step  stat      slope        expected  cause", *rows]
    lines[1:1] = [f"a factor of the width in the forward pass: {factor}" for factor in factors]
    if len(findings) > len(shown):
        lines.append(f"… and {len(findings) - len(shown)} more")
    return "\n".join(lines)


def _verdict(findings: Sequence[Finding], parametrization: str, tol: float) -> str:
    """Returns the first line: whether the check passed, and how many slopes did not."""
    failed = sum(f.excess > tol for f in findings)
    return (f"coordinate check{f' of {parametrization}' * (parametrization != 'mup')}: "
            f"{'failed' if failed else 'passed'}; "
            f"{failed} of {len(findings)} slopes are off by more than {tol:g} and their interval")


def _slope(finding: Finding) -> str:
    return "not finite" if math.isnan(finding.slope) else f"{finding.slope:.2f} ± {finding.error:.2f}"
