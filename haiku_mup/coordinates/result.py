"""The result of a coordinate check: its points, its findings, and whether the model passes."""
import csv
import dataclasses
import functools
import os
from collections.abc import Sequence
from typing import Any

from haiku_mup.coordinates.diagnosis import diagnosed
from haiku_mup.coordinates.findings import Finding, Point
from haiku_mup.coordinates.forward_factors import ForwardFactor
from haiku_mup.coordinates.optimizer_diagnosis import OptimizerDiagnosis
from haiku_mup.coordinates.report import report
from haiku_mup.coordinates.rounded_updates import moved_shares, rounded_away
from haiku_mup.coordinates.slopes import distance, judge_all
from haiku_mup.coordinates.verdict import Verdict, too_wide, unseen_parameters
from haiku_mup.errors import MupError

TOL = 0.1       # how far a slope may lie outside of what is expected


@dataclasses.dataclass(frozen=True)
class CoordCheck:
    """Result of `coord_check`: the recorded points, and the findings that follow from them.

    For each quantity at each step, the slope of log2 size against log2 width is estimated for every seed. A
    `Finding` has the mean over seeds, its 95% interval, and the slopes that μP expects. The check fails where
    a slope lies outside of the expected ones by more than its interval and a tolerance. It passes where none
    does, intervals are narrow enough to show a wrong exponent of ¼, and the forward pass has no factor of the
    width that μP doesn't have; else it is undecided.

    Attributes:
      points: all that was recorded.
      factors: factors of the width in the model's forward pass that μP doesn't have: see `forward_factors`.
        Where there are some, no slope that is off is left open, and the check doesn't pass.
      optimizer: how the optimizer behaves where a slope is off; None where that is unknown.
      unrecorded: of a model of another framework, which activations were not recorded, as a sentence.

    >>> points = [haiku_mup.Point("mup", width, 0, 0, "activation linear", "l1", width**0.5, "0")
    ...           for width in (64, 128, 256)]
    >>> result = haiku_mup.CoordCheck(points)
    >>> result.ok, f"{result.failures()[0].slope:.2f}"
    (False, '0.50')
    """

    points: Sequence[Point]
    factors: Sequence[ForwardFactor] = dataclasses.field(default=(), repr=False, compare=False)
    optimizer: OptimizerDiagnosis | None = dataclasses.field(default=None, repr=False, compare=False)
    unrecorded: str = dataclasses.field(default="", repr=False, compare=False)

    @functools.cached_property
    def findings(self) -> list[Finding]:
        """Returns a finding for each quantity, step and statistic that is judged, the worst first.

        Raises:
          MupError: points of several parametrizations, as a file of two checks has them.

        >>> haiku_mup.CoordCheck([]).findings
        []
        """
        return self._judged(TOL)

    def _findings(self, tol: float) -> list[Finding]:
        return self.findings if tol == TOL else self._judged(tol)

    def _judged(self, tol: float) -> list[Finding]:
        """Returns the findings, of which those are left open that chance explains with this tolerance."""
        mixed = list(dict.fromkeys(point.parametrization for point in self.points))
        if len(mixed) > 1:
            raise MupError(f"these are points of {' and '.join(mixed)}; judge them one by one: "
                           f"only({mixed[0]!r})")
        groups: dict[tuple[str, int, str], list[Point]] = {}
        for point in self.points:
            if point.expected:
                groups.setdefault((point.quantity, point.step, point.stat), []).append(point)
        judged = judge_all(groups.values(), tol)
        if self.factors:        # they explain what is off better than chance does
            judged = [finding._replace(doubt=0.0) for finding in judged]
        found = sorted(judged, key=lambda f: (-f.excess, -abs(distance(f.slope, f.expected))))
        return diagnosed(found, self.optimizer)

    @property
    def verdict(self) -> Verdict:
        """Returns the answer. It is undecided where slopes don't tell, or where a factor shows in none of them.

        >>> points = [haiku_mup.Point("mup", width, seed, 0, "activation linear", "l1", width**seed, "0")
        ...           for width in (64, 128) for seed in (-1.0, 1.0)]
        >>> haiku_mup.CoordCheck(points).verdict
        <Verdict.UNDECIDED: 'undecided'>
        """
        return self._verdict(TOL)

    def _verdict(self, tol: float) -> Verdict:
        if self.failures(tol):
            return Verdict.FAILED
        is_open = self.factors or not self.findings or self.undecided(tol)
        return Verdict.UNDECIDED if is_open else Verdict.PASSED

    @property
    def ok(self) -> bool:
        """Returns whether the check passed. Something was judged, nothing failed, and nothing is undecided.

        >>> points = [haiku_mup.Point("mup", width, 0, 0, "activation linear", "l1", 1.0, "0")
        ...           for width in (64, 128, 256)]
        >>> haiku_mup.CoordCheck(points).ok, haiku_mup.CoordCheck([]).ok
        (True, False)
        """
        return self.verdict is Verdict.PASSED

    def undecided(self, tol: float = TOL) -> list[Finding]:
        """Returns the findings that leave the answer open: slopes that may be chance or fade, wide intervals.

        What is off may be one of many by chance, or fade in wide models: see `Finding.is_open`. An interval
        is too wide where a wrong exponent of ¼ has room in it; the widest is first. Several quantities may show
        one mistake, such as a parameter's update and its rate. Of these only the one with the narrowest
        interval counts, at its best step.

        Args:
          tol: how far a slope may lie outside of what is expected, beyond its interval.

        >>> haiku_mup.CoordCheck([]).undecided()
        []
        """
        findings = self._findings(tol)
        left_open = [finding for finding in findings if finding.is_open(tol)]
        return left_open + [finding for finding in too_wide(findings) if finding not in left_open]

    def unseen(self) -> list[str]:
        """Returns the parameters whose learning rates the check can't judge.

        They have no gradient, or one of rounding errors, as a bias in front of a norm has; or the optimizer's
        rule gives only a range of slopes.

        >>> haiku_mup.CoordCheck([]).unseen()
        []
        """
        return unseen_parameters(self.points, self.findings)

    def moved(self) -> dict[str, dict[int, float]]:
        """Returns the share of entries that the last step moved, by parameter and width.

        Entries without a gradient don't count.
        Only parameters with less precision than float32 are in it. Where the share falls with the width, hidden
        updates are rounded away.

        >>> points = [haiku_mup.Point("mup", width, 0, 0, "moved linear/w", "l1", 32 / width)
        ...           for width in (64, 128)]
        >>> haiku_mup.CoordCheck(points).moved()
        {'linear/w': {64: 0.5, 128: 0.25}}
        """
        return moved_shares(self.points)

    def failures(self, tol: float = TOL) -> list[Finding]:
        """Returns the findings whose slopes are wrong, the worst first.

        A slope is wrong where it lies outside of the expected ones by more than `tol` and half of its interval,
        over all widths, and over the wider half of them too: what only a small width causes fades. It must be
        off by more than chance explains, and than what fades: see `Finding.is_open`.

        Args:
          tol: how far a slope may lie outside of what is expected, beyond its interval.

        >>> haiku_mup.CoordCheck([]).failures()
        []
        """
        return [finding for finding in self._findings(tol) if finding.is_wrong(tol)]

    def assert_ok(self, tol: float = TOL) -> None:
        """Raises if something failed or is undecided, or nothing was judged: for a test suite.

        Args:
          tol: how far a slope may lie outside of what is expected.

        Raises:
          AssertionError: with the text of the check.

        >>> points = [haiku_mup.Point("mup", width, 0, 0, "activation linear", "l1", 1.0, "0")
        ...           for width in (64, 128, 256)]
        >>> haiku_mup.CoordCheck(points).assert_ok()
        """
        verdict = self._verdict(tol)
        if verdict is not Verdict.PASSED:
            what = "failed" if verdict is Verdict.FAILED else "is undecided"
            raise AssertionError(f"the coordinate check {what}\n{self._report(tol)}")

    def __str__(self) -> str:
        """Returns the verdict, and a table of the worst findings."""
        return self._report(TOL)

    def _report(self, tol: float) -> str:
        return report(self._findings(tol), tol=tol, factors=self.factors, undecided=self.undecided(tol),
                      unseen=self.unseen(), unrecorded=self.unrecorded, rounded=rounded_away(self.moved()),
                      seeds=len({point.seed for point in self.points}),
                      parametrization=self.points[0].parametrization if self.points else "")

    def plot(self, path: str | os.PathLike[str] | None = None, *, compare: "CoordCheck | None" = None) -> Any:
        """Draws what was recorded against the width, as `plot.coordinates` does; needs matplotlib.

        Args:
          path: where to save the figure, if anywhere.
          compare: another check, to draw below.

        Returns:
          The figure, a matplotlib `Figure`.

        >>> points = [haiku_mup.Point("sp", width, 0, 0, "activation linear", "l1", 1.0, "0")
        ...           for width in (64, 128)]
        >>> len(haiku_mup.CoordCheck(points).plot().axes)
        1
        """
        from haiku_mup.coordinates import figures

        checks = [self] if compare is None else [self, compare]
        return figures.draw([figures.row_of(check.points, check.failures()) for check in checks], path)

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Writes the points to a file, a row each.

        Args:
          path: where the file is.

        >>> import io, os
        >>> haiku_mup.CoordCheck([]).to_csv(os.devnull)
        """
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(Point._fields)
            writer.writerows(self.points)

    @classmethod
    def from_csv(cls, path: str | os.PathLike[str]) -> "CoordCheck":
        """Reads a file that `to_csv` wrote; points of several parametrizations are in one result.

        Args:
          path: where the file is.

        Raises:
          MupError: a file with other columns.

        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile() as file:
        ...     haiku_mup.CoordCheck([]).to_csv(file.name)
        ...     haiku_mup.CoordCheck.from_csv(file.name)
        CoordCheck(points=[])
        """
        with open(path, newline="", encoding="utf-8") as file:
            rows = csv.reader(file)
            columns = next(rows, None)
            if columns not in (list(Point._fields), list(Point._fields[:-1])):      # without rows: of 0.2.0
                raise MupError(f"{os.fspath(path)!r} is not a file of a coordinate check, whose columns are "
                               f"{','.join(Point._fields)}")
            return cls([Point(a, int(b), int(c), int(d), e, f, float(g), h, *map(int, k))
                        for a, b, c, d, e, f, g, h, *k in rows])

    def only(self, parametrization: str) -> "CoordCheck":
        """Returns the points of one parametrization, to be judged by themselves.

        Args:
          parametrization: its name.

        Raises:
          MupError: a name that no point has.

        >>> points = [haiku_mup.Point(name, 64, 0, 0, "output", "l1", 1.0) for name in ("sp", "mup")]
        >>> len(haiku_mup.CoordCheck(points).only("mup").points)
        1
        """
        found = [point for point in self.points if point.parametrization == parametrization]
        if not found:
            there = ", ".join(dict.fromkeys(repr(point.parametrization) for point in self.points))
            raise MupError(f"no points of {parametrization!r}: there are those of {there or 'none'}")
        return CoordCheck(found)
