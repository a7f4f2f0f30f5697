"""The records of a coordinate check, and what they say: which sizes grow with the width as they must not."""
import csv
import dataclasses
import functools
import math
import os
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from haiku_mup.coordinates import diagnosis as causes
from haiku_mup.coordinates.expected_slopes import Range
from haiku_mup.errors import MupError

JUDGED = ("l1", "l2")       # others are recorded, and have no expectation
TOL = 0.1


class Point(NamedTuple):
    """One number that a coordinate check recorded.

    Attributes:
      parametrization: "mup", "sp" or another's name.
      width: the width of the model.
      seed: the seed of its initialization.
      step: how many updates there were before.
      quantity: what was recorded: its kind, and its name.
      stat: which statistic of it.
      value: the number.
      expected: the slope that μP expects, as "0", "-0.5" or "-0.5..0"; "" for what isn't judged.

    >>> haiku_mup.Point("mup", 64, 0, 0, "activation linear", "l1", 0.8, "0").value
    0.8
    """

    parametrization: str
    width: int
    seed: int
    step: int
    quantity: str
    stat: str
    value: float
    expected: str = ""


class Finding(NamedTuple):
    """What the records say of one quantity at one step.

    Attributes:
      quantity: what was recorded: its kind, and its name.
      step: how many updates there were before.
      stat: which statistic of it.
      slope: that of log2 of it against log2 of the width, the mean over seeds.
      error: half the slope's 95% interval over seeds (Student's t).
      expected: the slopes that are right.
      excess: how far it is outside of them, its interval and what fades with the width set aside.
      cause: what that usually means.

    >>> points = [haiku_mup.Point("mup", width, 0, 0, "activation linear", "l1", width**0.5, "0")
    ...           for width in (64, 128, 256)]
    >>> finding = haiku_mup.CoordCheck(points).findings[0]
    >>> finding.quantity, str(finding.expected), finding.cause.partition(":")[0]
    ('activation linear', '0', 'it grows at the start')
    """

    quantity: str
    step: int
    stat: str
    slope: float
    error: float
    expected: Range
    excess: float
    cause: str = ""

    @property
    def name(self) -> str:
        """The name of the module or of the parameter.

        >>> from haiku_mup.expectation import Range
        >>> haiku_mup.Finding("update linear/w", 0, "l1", 0.0, 0.0, Range(-1, -1), 1.0).name
        'linear/w'
        """
        return self.quantity.partition(" ")[2] or self.quantity


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
        return causes.explained(sorted(found, key=lambda f: (-f.excess, -abs(_outside(f.slope, f.expected)))))

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
            raise AssertionError(f"the coordinate check failed\n{causes.table(self, tol)}")

    def __str__(self) -> str:
        return causes.table(self, TOL)

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


# --- slopes ---

def judged(points: Sequence[Point]) -> Finding | None:
    """The finding of one quantity, step and statistic; None where it is zero at every width."""
    first, expected = points[0], Range.parse(points[0].expected)
    widths, values = _table(points)
    if expected is None or not values.any() or len(widths) < 2:
        return None
    at = first.quantity, first.step, first.stat
    if not (np.isfinite(values).all() and (values > 0).all()):
        return Finding(*at, math.nan, math.nan, expected, math.inf)
    x, y = np.log2(widths), np.log2(values)                 # [widths], [widths, seeds]
    half = max(2, -(-len(x) // 2))
    slope, error = _slope(x, y)
    excess = [_excess(slope, error, expected), _excess(*_slope(x[-half:], y[-half:]), expected)]
    same = excess[0] * excess[1] > 0
    return Finding(*at, slope, error, expected, min(map(abs, excess)) if same else 0.0)


def _table(points: Iterable[Point]) -> tuple[np.ndarray, np.ndarray]:
    """Widths, ascending, and values [widths, seeds]: of the seeds that every width has."""
    at: dict[int, dict[int, float]] = {}
    for point in points:
        at.setdefault(point.width, {})[point.seed] = point.value
    seeds = sorted(set.intersection(*(set(found) for found in at.values())))
    widths = sorted(at)
    return np.array(widths), np.array([[at[width][seed] for seed in seeds] for width in widths])


def _slope(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """The mean over seeds of the least-squares slopes of y [widths, seeds], and half its 95% interval."""
    centred = x - x.mean()
    slopes = centred @ y / (centred @ centred)              # [seeds]
    if len(slopes) > 1:
        return float(slopes.mean()), _student(len(slopes) - 1) * float(slopes.std(ddof=1)) / len(slopes)**0.5
    if len(x) < 3:
        return float(slopes[0]), 0.0
    rest = y[:, 0] - y[:, 0].mean() - centred * slopes[0]
    error = math.sqrt(rest @ rest / (len(x) - 2) / (centred @ centred))
    return float(slopes[0]), _student(len(x) - 2) * error


@functools.lru_cache
def _student(freedom: int) -> float:
    """The 97.5% quantile of Student's t."""
    from scipy import special  # type: ignore[import-untyped]  # slow to import; JAX itself depends on it

    return float(special.stdtrit(freedom, 0.975))


def _outside(slope: float, expected: Range) -> float:
    """How far a slope lies above (or, negative, below) those that are right."""
    return max(slope - expected.high, 0.0) + min(slope - expected.low, 0.0)


def _excess(slope: float, error: float, expected: Range) -> float:
    """The same of the end of its interval that is nearer to them."""
    outside = _outside(slope, expected)
    return math.copysign(max(abs(outside) - error, 0.0), outside)
