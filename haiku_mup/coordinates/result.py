"""The records of a coordinate check, and what they say: which sizes grow with the width as they must not."""
import csv
import dataclasses
import functools
import os
from collections.abc import Sequence
from typing import Any

from haiku_mup.coordinates import diagnosis, report
from haiku_mup.coordinates.findings import Finding, Point
from haiku_mup.coordinates.slopes import judged, outside
from haiku_mup.errors import MupError

TOL = 0.1


@dataclasses.dataclass(frozen=True)
class CoordCheck:
    """What `coord_check` found.

    Attributes:
      points: all that was recorded.

    >>> points = [haiku_mup.Point("mup", width, 0, 0, "activation linear", "l1", width**0.5, "0")
    ...           for width in (64, 128, 256)]
    >>> result = haiku_mup.CoordCheck(points)
    >>> result.ok, f"{result.failures()[0].slope:.2f}"
    (False, '0.50')
    """

    points: Sequence[Point]

    @functools.cached_property
    def findings(self) -> list[Finding]:
        """A finding for each quantity, step and statistic that is judged, the worst first.

        Raises:
          MupError: points of several parametrizations, as a file of two checks has them.

        >>> haiku_mup.CoordCheck([]).findings
        []
        """
        mixed = list(dict.fromkeys(point.parametrization for point in self.points))
        if len(mixed) > 1:
            raise MupError(f"these are points of {' and '.join(mixed)}; judge them one by one: "
                           f"only({mixed[0]!r})")
        groups: dict[tuple[str, int, str], list[Point]] = {}
        for point in self.points:
            if point.expected:
                groups.setdefault((point.quantity, point.step, point.stat), []).append(point)
        found = [finding for finding in map(judged, groups.values()) if finding]
        return diagnosis.explained(sorted(found, key=lambda f: (-f.excess, -abs(outside(f.slope, f.expected)))))

    @property
    def ok(self) -> bool:
        """Whether something was judged, and nothing failed.

        >>> points = [haiku_mup.Point("mup", width, 0, 0, "activation linear", "l1", 1.0, "0")
        ...           for width in (64, 128, 256)]
        >>> haiku_mup.CoordCheck(points).ok, haiku_mup.CoordCheck([]).ok
        (True, False)
        """
        return bool(self.findings) and not self.failures()

    def failures(self, tol: float = TOL) -> list[Finding]:
        """What grows with the width as it must not, the worst first.

        A quantity fails where its slope lies outside of the expected ones by more than `tol` and its own
        interval, over all widths and over the wider half of them: what comes of a small width alone fades.

        Args:
          tol: how far outside is still right.

        >>> haiku_mup.CoordCheck([]).failures()
        []
        """
        return [finding for finding in self.findings if finding.excess > tol]

    def assert_ok(self, tol: float = TOL) -> None:
        """Raises where something failed, or nothing was judged: a line for a test suite.

        Args:
          tol: how far a slope may lie outside of what is expected.

        Raises:
          AssertionError: with the table.

        >>> points = [haiku_mup.Point("mup", width, 0, 0, "activation linear", "l1", 1.0, "0")
        ...           for width in (64, 128, 256)]
        >>> haiku_mup.CoordCheck(points).assert_ok()
        """
        if self.failures(tol) or not self.findings:
            raise AssertionError(f"the coordinate check failed\n{report.table(self, tol)}")

    def __str__(self) -> str:
        return report.table(self, TOL)

    def plot(self, path: str | os.PathLike[str] | None = None, *, compare: "CoordCheck | None" = None) -> Any:
        """Draws what was recorded against the width; needs matplotlib. See `plot.coordinates`.

        Args:
          path: where to save the figure, if anywhere.
          compare: another check, to be drawn below.

        Returns:
          The figure, of matplotlib.

        >>> points = [haiku_mup.Point("sp", width, 0, 0, "activation linear", "l1", 1.0, "0")
        ...           for width in (64, 128)]
        >>> len(haiku_mup.CoordCheck(points).plot().axes)
        1
        """
        from haiku_mup.coordinates import figures

        return figures.coordinates(self, path, compare=compare)

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Writes the points, a row each.

        Args:
          path: of the file.

        >>> import io, os
        >>> haiku_mup.CoordCheck([]).to_csv(os.devnull)
        """
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(Point._fields)
            writer.writerows(self.points)

    @classmethod
    def from_csv(cls, path: str | os.PathLike[str]) -> "CoordCheck":
        """What `to_csv` wrote; or, where the file has several parametrizations, all of them in one.

        Args:
          path: of the file.

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
            if next(rows, None) != list(Point._fields):
                raise MupError(f"{os.fspath(path)!r} is no file of a coordinate check: its columns would be "
                               f"{','.join(Point._fields)}")
            return cls([Point(a, int(b), int(c), int(d), e, f, float(g), h) for a, b, c, d, e, f, g, h in rows])

    def only(self, parametrization: str) -> "CoordCheck":
        """The points of one parametrization.

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
