"""`Range`, at the path that the documentation names: see haiku_mup.coordinates.expected_slopes."""
from haiku_mup.coordinates.expected_slopes import FLAT, Range

__all__ = ["FLAT", "Range"]
