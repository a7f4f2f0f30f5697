"""The table that shows the findings of a coordinate check."""
import math
from typing import Any

LINES = 20


def table(check: Any, tol: float) -> str:
    """The verdict, and the worst of what it rests on, a line each."""
    failed = check.failures(tol)
    if not check.findings:
        return "coordinate check: nothing was judged"
    name = check.points[0].parametrization
    head = f"coordinate check{f' of {name}' * (name != 'mup')}: {'failed' if failed else 'passed'}; " \
           f"{len(failed)} of {len(check.findings)} slopes are off by more than {tol:g} and their interval"
    shown = check.findings[:max(LINES, 0)]
    room = max([len("quantity"), *(len(f.quantity) for f in shown)])
    lines = [head, f"{'quantity':<{room}}  step  stat      slope        expected  cause"]
    lines += [f"{f.quantity:<{room}}  {f.step:>4}  {f.stat:<4}  {_slope(f):>14}  {str(f.expected):>10}  "
              f"{f.cause if f.excess > tol else 'ok'}" for f in shown]
    if len(check.findings) > len(shown):
        lines.append(f"… and {len(check.findings) - len(shown)} more")
    return "\n".join(lines)


def _slope(finding: Any) -> str:
    return "not finite" if math.isnan(finding.slope) else f"{finding.slope:.2f} ± {finding.error:.2f}"
