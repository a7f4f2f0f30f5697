"""Expected slopes: a range of slopes that are right, and the two ranges expected of one quantity.

Sizes follow power laws of the width, size ∝ width^slope. A slope is therefore the exponent: the slope of the
line of log2 size against log2 width.
"""
from typing import NamedTuple


class Range(NamedTuple):
    """The slopes that are right, from `low` to `high`, both included.

    A slope is that of log2 size against log2 width.
    """

    low: float
    high: float

    def __or__(self, other: object) -> "Range":
        """Returns the smallest range that contains both.

        It is that of a sum of two terms, either of which may be the larger.

        >>> Range(-0.5, -0.5) | Range(0, 0)
        Range(low=-0.5, high=0)
        """
        if not isinstance(other, Range):
            return NotImplemented
        return Range(min(self.low, other.low), max(self.high, other.high))

    def plus(self, other: "Range") -> "Range":
        """Returns the range of a product: the exponents of its two factors add.

        >>> Range(0, 0).plus(Range(-0.5, 0))
        Range(low=-0.5, high=0)
        """
        return Range(self.low + other.low, self.high + other.high)

    def __str__(self) -> str:
        """Returns one number, or two with .. between them.

        >>> str(Range(-0.5, 0)), str(Range(0, 0))
        ('-0.5..0', '0')
        """
        low, high = (f"{round(x, 4) + 0.0:g}" for x in self)
        return low if low == high else f"{low}..{high}"

    @classmethod
    def parse(cls, text: str) -> "Range | None":
        """Returns the range that `str` wrote; None for an empty text.

        >>> Range.parse("-0.5..0")
        Range(low=-0.5, high=0.0)
        """
        if not text:
            return None
        low, _, high = text.partition("..")
        return cls(float(low), float(high or low))


FLAT = Range(0.0, 0.0)                      # the same size at every width
INVERSE_ROOT_TO_FLAT = Range(-0.5, 0.0)     # anything from 1 / √width to the same size


class ExpectedSlopes(NamedTuple):
    """The slopes expected of one quantity.

    Attributes:
      initial: slopes of its size at initialization.
      change: slopes of how far one update moves it.
    """

    initial: Range
    change: Range

    def after(self, updates: int) -> Range:
        """Returns the slopes of the quantity's own size after so many updates.

        Then it is the sum of its initial value and its change, either of which may be the larger.
        """
        return self.initial | self.change if updates else self.initial

    def change_after(self, updates: int) -> Range:
        """Returns the slopes of the distance from the initial value after so many updates.

        Several updates may cancel each other, as where a bias overshoots its best value and returns. What
        remains is the scatter about their mean over the width, which is smaller by the root of the width.

        >>> ExpectedSlopes(FLAT, FLAT).change_after(1), ExpectedSlopes(FLAT, FLAT).change_after(2)
        (Range(low=0.0, high=0.0), Range(low=-0.5, high=0.0))
        """
        return self.change.plus(INVERSE_ROOT_TO_FLAT) if updates > 1 else self.change
