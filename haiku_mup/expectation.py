"""`Range`, at the path that the documentation names: see haiku_mup.coordinates.slope_range."""
from haiku_mup.coordinates.slope_range import FLAT, Range

__all__ = ["FLAT", "Range"]
