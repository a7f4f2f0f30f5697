"""Ranges of slopes, and what is expected of a quantity."""
from typing import NamedTuple


class Range(NamedTuple):
    """The slopes that are right, in log2 of a size against log2 of the width: from low to high."""

    low: float
    high: float

    def __or__(self, other: object) -> "Range":
        """The smallest range that has both: of a sum of which either term may be the larger.

        >>> Range(-0.5, -0.5) | Range(0, 0)
        Range(low=-0.5, high=0)
        """
        if not isinstance(other, Range):
            return NotImplemented
        return Range(min(self.low, other.low), max(self.high, other.high))

    def plus(self, other: "Range") -> "Range":
        """The range of a product of two factors.

        >>> Range(0, 0).plus(Range(-0.5, 0))
        Range(low=-0.5, high=0)
        """
        return Range(self.low + other.low, self.high + other.high)

    def __str__(self) -> str:
        """One number, or two with .. between.

        >>> str(Range(-0.5, 0)), str(Range(0, 0))
        ('-0.5..0', '0')
        """
        low, high = (f"{round(x, 4) + 0.0:g}" for x in self)
        return low if low == high else f"{low}..{high}"

    @classmethod
    def parse(cls, text: str) -> "Range | None":
        """What `str` gave; None for "".

        >>> Range.parse("-0.5..0")
        Range(low=-0.5, high=0.0)
        """
        if not text:
            return None
        low, _, high = text.partition("..")
        return cls(float(low), float(high or low))


FLAT = Range(0.0, 0.0)


class Sizes(NamedTuple):
    """What is expected of a quantity.

    Attributes:
      start: at initialization.
      change: of how far training moves it.
    """

    start: Range
    change: Range

    def at(self, step: int) -> Range:
        """Of the quantity itself: at first its start, later the sum of both."""
        return self.start | self.change if step else self.start

    def moved(self, updates: int) -> Range:
        """Of how far so many updates have moved it, together.

        Several may cancel each other, as where a bias swings past its best value. What is left, then, is how
        they scatter about their mean over the width, which is smaller by its root.

        >>> Sizes(FLAT, FLAT).moved(1), Sizes(FLAT, FLAT).moved(2)
        (Range(low=0.0, high=0.0), Range(low=-0.5, high=0.0))
        """
        return self.change.plus(Range(-0.5, 0.0)) if updates > 1 else self.change
