"""Whether two Mups make the same of a model: a checkpoint's, and the code's."""
import dataclasses
import itertools
import math
from collections.abc import Mapping
from typing import Any

from haiku_mup.errors import MupError
from haiku_mup.parameters.globs import multiplier_of
from haiku_mup.parameters.record import Record
from haiku_mup.parameters.scaling import ParameterScaling, compare
from haiku_mup.parameters.table import Row, as_text
from haiku_mup.serialization import state_dict as store
from haiku_mup.tracing.capture import Declarations

SHOWN, WIDTH = 8, 140       # parameters that differ; columns
SIDES = ("checkpoint", "here")
MULTS = slice(Declarations._fields.index("init_mults"), None)


def check(state: Any, entries: Mapping[str, ParameterScaling], declared: Declarations) -> None:
    """Raises where a state dict's base, or its parametrization, isn't that of these entries.

    Raises:
      MupError: it shows what both make of the parameters in which they differ.
    """
    records, theirs = store.decode(state, "the state dict")
    ours: dict[str, ParameterScaling] = {}
    for entry in entries.values():
        ours.setdefault(entry.base.name, entry)         # of blocks that repeat the first
    if records.keys() != ours.keys():
        raise MupError(f"the checkpoint's Mup is of another model: {min(records.keys() ^ ours.keys())!r} is a "
                       f"parameter of {'it' if records.keys() - ours.keys() else 'this one'} alone; load the "
                       "checkpoint of this model")
    named = theirs.parametrization != declared.parametrization
    tuned = theirs[MULTS] != declared[MULTS]
    differing = [name for name in ours if named or tuned or not _same(records[name], ours[name].base)]
    if not differing:
        return
    rows = [pair for name in differing if (pair := _pair(records[name], ours[name], theirs, declared))]
    what = (f"{theirs.parametrization.name} in the checkpoint, and "
            f"{declared.parametrization.name} here") if named else \
        "other init_mults or lr_mults" if tuned else "another base"
    many = f", so that {len(rows)} of {len(ours)} parameters differ" * bool(rows)
    raise MupError(f"the checkpoint's Mup is not this one: {what}{many}; take the base and the parametrization "
                   f"that the checkpoint was trained with{_shown(rows)}")


def _same(a: Record, b: Record) -> bool:
    """Whether two records are one: the std of an initializer may have been measured, with some error."""
    error = 1e-6 + 5 * (a.moments.error + b.moments.error)
    near = all(abs(x - y) <= error * max(abs(x), abs(y), b.moments.std) or math.isnan(x) and math.isnan(y)
               for x, y in ((a.moments.std, b.moments.std), (a.moments.mean, b.moments.mean)))
    # A file keeps no more than this.
    same = dataclasses.replace(a, moments=b.moments, place=b.place, lifted_by_user=b.lifted_by_user) == b
    return near and same and a.moments.drawn == b.moments.drawn


def _pair(record: Record, entry: ParameterScaling, theirs: Declarations,
          ours: Declarations) -> tuple[list[Row], list[Row]] | None:
    """The rows of both sides, where they differ."""
    name = record.name
    draw, *rates = (multiplier_of(name, given, argument) for argument, given in (
        ("init_mults", theirs.init_mults), ("lr_mults", theirs.lr_mults), ("lr_mults", ours.lr_mults)))
    try:
        depth = entry.depth * math.prod(entry.base.stacks) / math.prod(record.stacks)
        other = compare(record, entry.target, theirs.parametrization, depth).with_init_mult(draw)
        found = Row.of(other, rates[0]), Row.of(entry, rates[1])
    except (MupError, ZeroDivisionError):       # theirs can't be the base of this target at all
        return None
    return found if found[0] != found[1] else None


def _shown(rows: list[tuple[list[Row], list[Row]]]) -> str:
    """A table with a line for each side of each parameter."""
    if not rows:
        return ""
    few = [(side, row) for pair in rows[:SHOWN] for side, half in zip(SIDES, pair) for row in half]
    head, *lines = as_text([row for _, row in few], WIDTH).split("\n")
    width = max(map(len, SIDES))
    sides = itertools.chain((side for side, _ in few), itertools.repeat(""))
    text = [f":\n{'':{width}}  {head}", *(f"{side:{width}}  {line}" for side, line in zip(sides, lines))]
    return "\n".join([*text, *[f"and {len(rows) - SHOWN} more"] * (len(rows) > SHOWN)])
