"""Multipliers of one's own for chosen parameters, by globs over their names."""
import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from haiku_mup.errors import MupError
from haiku_mup.parameters.fans import matching


def parsed(what: str, given: Mapping[str, float] | None) -> dict[str, float]:
    """{glob: multiplier}, checked.

    Raises:
      MupError: anything but positive numbers by globs.

    >>> parsed("lr_mults", {"embed/*": 2})
    {'embed/*': 2.0}
    """
    if not isinstance(given or {}, Mapping) or not all(isinstance(glob, str) for glob in given or {}):
        raise MupError(f"{what}: {given!r}: give {{glob over 'module/name': multiplier}}")
    for glob, x in (given or {}).items():
        if not _is_number(x) or not 0 < x < math.inf:
            raise MupError(f"{what}: {glob!r}: {x!r}: give a number above 0")
    return {glob: float(x) for glob, x in (given or {}).items()}


def _is_number(x: Any) -> bool:
    return isinstance(x, (int, float, np.integer, np.floating)) and not isinstance(x, bool)


def of(what: str, mults: Mapping[str, float], name: str) -> float:
    """The multiplier of a parameter; 1 where no glob matches.

    Raises:
      MupError: two globs match it.

    >>> of("lr_mults", {"embed/*": 2.0}, "embed/embeddings"), of("lr_mults", {"embed/*": 2.0}, "linear/w")
    (2.0, 1.0)
    """
    found = matching(name, mults)
    if len(found) > 1:
        raise MupError(f"{what}: {name!r}: several globs match it: {', '.join(map(repr, found))}; let one "
                       "match")
    return mults[found[0]] if found else 1.0


def by_name(what: str, mults: Mapping[str, float], names: Iterable[str]) -> dict[str, float]:
    """The multiplier of each parameter.

    Raises:
      MupError: a glob that matches none, or two that match one.
    """
    names = list(names)
    check_globs(what, mults, names, names, "parameter")
    return {name: of(what, mults, name) for name in names}


def check_globs(what: str, patterns: Iterable[str], good: Iterable[str], known: Iterable[str],
                kind: str) -> None:
    """Raises for a glob that matches no good name; it shows the names that are most like it."""
    good = list(good)
    for glob in patterns:
        if not any(matching(name, [glob]) for name in good):
            like = difflib.get_close_matches(glob.replace("*", ""), known, n=3, cutoff=0.3)
            names = list(dict.fromkeys([*like, *known]))
            raise MupError(f"{what}: {glob!r} matches the name of no {kind}; there are "
                           + ", ".join(names[:12]) + ", …" * (len(names) > 12))
