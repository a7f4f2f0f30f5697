"""Globs over the names of parameters, and the multipliers that a user gives by them."""
import difflib
import fnmatch
import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np

from haiku_mup.errors import MupError


def matching(name: str, patterns: Collection[str]) -> list[str]:
    """Returns the globs that match a name. `*` matches any text, slashes included.

    Brackets are those of globs, as in "linear_[12]/*", or those of a path, as in "layers[0].*".

    >>> matching("net/~/logits", ["*/logits", "other/*"])
    ['*/logits']
    >>> matching("layers[0].weight", ["layers[*].weight", "layers[1].weight"])
    ['layers[*].weight']
    """
    if not patterns:        # as for most models, and this is asked several times for each parameter
        return []
    return [pattern for pattern in patterns if fnmatch.fnmatchcase(name, pattern) or (
        "[" in name and fnmatch.fnmatchcase(name, pattern.replace("[", "[[]")))]


def parse_multipliers(argument: str, given: Mapping[str, float] | None) -> dict[str, float]:
    """Returns a user's {glob: multiplier}, checked.

    Args:
      argument: the name of the argument, for errors.
      given: its value.

    Raises:
      MupError: anything but positive numbers by globs.

    >>> parse_multipliers("lr_mults", {"embed/*": 2})
    {'embed/*': 2.0}
    """
    if not isinstance(given or {}, Mapping) or not all(isinstance(glob, str) for glob in given or {}):
        raise MupError(f"{argument}: {given!r}: give {{glob over 'module/name': multiplier}}")
    for glob, x in (given or {}).items():
        if not _is_number(x) or not 0 < x < math.inf:
            raise MupError(f"{argument}: {glob!r}: {x!r}: give a number above 0")
    return {glob: float(x) for glob, x in (given or {}).items()}


def _is_number(x: Any) -> bool:
    return isinstance(x, (int, float, np.integer, np.floating)) and not isinstance(x, bool)


def multiplier_of(name: str, multipliers: Mapping[str, float], argument: str) -> float:
    """Returns the multiplier of a parameter; 1 if no glob matches its name.

    Args:
      name: "module/name".
      multipliers: {glob: multiplier}.
      argument: where they were given, for errors.

    Raises:
      MupError: two globs match it.

    >>> mults = {"embed/*": 2.0}
    >>> multiplier_of("embed/embeddings", mults, "lr_mults"), multiplier_of("linear/w", mults, "lr_mults")
    (2.0, 1.0)
    """
    found = matching(name, multipliers)
    if len(found) > 1:
        raise MupError(f"{argument}: {name!r}: several globs match it: {', '.join(map(repr, found))}; let one "
                       "match")
    return multipliers[found[0]] if found else 1.0


def multipliers_by_name(names: Iterable[str], multipliers: Mapping[str, float],
                        argument: str) -> dict[str, float]:
    """Returns the multiplier of each parameter.

    Raises:
      MupError: a glob that matches none, or two that match one.
    """
    names = list(names)
    check_globs(argument, multipliers, names, names, "parameter")
    return {name: multiplier_of(name, multipliers, argument) for name in names}


def check_globs(argument: str, patterns: Iterable[str], valid: Iterable[str], suggested: Iterable[str],
                kind: str) -> None:
    """Raises for a glob that matches no valid name.

    Args:
      argument: where the globs were given.
      patterns: the globs.
      valid: the names of which each glob must match one.
      suggested: the names that the error shows, those most like the glob first.
      kind: what the names are names of.

    Raises:
      MupError: a glob that matches none.
    """
    valid = list(valid)
    for glob in patterns:
        if not any(matching(name, [glob]) for name in valid):
            like = difflib.get_close_matches(glob.replace("*", ""), suggested, n=3, cutoff=0.3)
            names = list(dict.fromkeys([*like, *suggested]))
            inside = [name for name in suggested if any(matching(name, [f"{glob}{end}*"]) for end in "./[")]
            where, names = ("inside it there are", inside) if inside else ("there are", names)
            raise MupError(f"{argument}: {glob!r} matches the name of no {kind}; {where} "
                           + ", ".join(names[:12]) + ", …" * (len(names) > 12))
