"""The numbers that a coordinate check records, and what it finds of each quantity."""
from typing import NamedTuple

from haiku_mup.coordinates.slope_range import Range


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
      rows: how many vectors of the width the forward pass has of one array, such as batch × tokens; 0 if that
        is unknown. Until the width is as large, changes may fade.

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
    rows: int = 0


class Finding(NamedTuple):
    """The slope of one quantity over widths at one step, beside the slopes that are expected.

    Attributes:
      quantity: what was recorded: its kind, and its name.
      step: how many updates there were before.
      stat: which statistic of it.
      slope: the slope of log2 of its value against log2 of the width, the mean over seeds.
      error: half of the slope's 95% confidence interval over seeds (Student's t).
      expected: the slopes that are right.
      excess: how far the slope lies outside of these, beyond its interval, and not only at small widths.
      cause: what that usually means; "" where nothing is outside.
      doubt: how large an excess these widths leave open, since it may fade in wide models, or be chance.

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
    doubt: float = 0.0

    @property
    def name(self) -> str:
        """Returns the name of the module or of the parameter.

        >>> from haiku_mup.expectation import Range
        >>> haiku_mup.Finding("update linear/w", 0, "l1", 0.0, 0.0, Range(-1, -1), 1.0).name
        'linear/w'
        """
        return self.quantity.partition(" ")[2] or self.quantity

    def is_wrong(self, tol: float) -> bool:
        """Returns whether the slope is wrong for sure.

        Args:
          tol: how far a slope may lie outside of what is expected, beyond its interval.

        >>> from haiku_mup.expectation import Range
        >>> haiku_mup.Finding("update linear/w", 0, "l1", 0.0, 0.0, Range(-1, -1), 1.0).is_wrong(0.1)
        True
        """
        return self.excess > max(tol, self.doubt)

    def is_open(self, tol: float) -> bool:
        """Returns whether the slope is off, but these widths don't tell whether it is so in wide models.

        Args:
          tol: how far a slope may lie outside of what is expected, beyond its interval.

        >>> from haiku_mup.expectation import Range
        >>> found = haiku_mup.Finding("activation linear", 0, "l1", -0.12, 0.0, Range(0, 0), 0.12, doubt=0.14)
        >>> found.is_open(0.1)
        True
        """
        return self.excess > tol and not self.is_wrong(tol)
