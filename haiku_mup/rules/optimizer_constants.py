"""Checks the constants that optimizers take, as far as their values are known."""
import math
from collections.abc import Callable
from typing import Any, NamedTuple

from haiku_mup.errors import MupError


class _Kind(NamedTuple):
    """The values that a constant may have.

    Attributes:
      allows: whether a number is one.
      described: what to give.
      may_be_schedule: whether a function of the step's number may take its place.
    """

    allows: Callable[[float], bool]
    described: str
    may_be_schedule: bool = False


_RATE = _Kind(lambda x: 0 <= x < math.inf, "a number from 0 up, or a schedule", may_be_schedule=True)
_BETA = _Kind(lambda x: 0 <= x < 1, "a number from 0 to below 1")
_EPS = _Kind(lambda x: 0 <= x < math.inf, "a number from 0 up, such as 1e-8")
_KINDS = {
    "learning_rate": _RATE, "weight_decay": _RATE, "b1": _BETA, "b2": _BETA, "eps": _EPS,
    "eps_root": _EPS._replace(described="a number from 0 up"),
    "clip": _Kind(lambda x: x > 0, "a number above 0 (at 0 nothing would move), or None for no limit"),
}


def check_constants(caller: str, **constants: Any) -> None:
    """Checks an optimizer's constants by their names. Traced values may be anything.

    Args:
      caller: of whose arguments they are, for the error.
      **constants: learning_rate, weight_decay, b1, b2, eps, eps_root or clip.

    Raises:
      MupError: one that its name doesn't allow.

    >>> check_constants("adamw", learning_rate=lambda step: 0.1 / (1 + step), b1=0.9)
    >>> check_constants("adamw", clip=-1.0)     # doctest: +ELLIPSIS
    Traceback (most recent call last):
    haiku_mup.errors.MupError: adamw: clip=-1.0: give a number above 0 (at 0 nothing would move), or None ...
    """
    for name, value in constants.items():
        kind = _KINDS[name]
        if not (kind.may_be_schedule and callable(value) or kind.allows(_number(value, traced=0.5))):
            raise MupError(f"{caller}: {name}={value!r}: give {kind.described}")


def _number(value: Any, traced: float) -> float:
    """Returns the number that a value is; NaN for what is none, and another one for what has no value yet."""
    if not hasattr(value, "dtype"):
        return value if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan
    try:
        return float(value)
    except Exception:       # an array under a trace, on other hosts, or of several numbers
        return traced
