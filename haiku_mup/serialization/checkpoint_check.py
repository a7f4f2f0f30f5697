"""Compares a checkpoint's Mup with the one at hand: the same base, the same parametrization."""
import dataclasses
import itertools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from haiku_mup.errors import MupError
from haiku_mup.parameters.declarations import Declarations
from haiku_mup.parameters.globs import multiplier_of
from haiku_mup.parameters.record import Record
from haiku_mup.parameters.scaling import ParameterScaling, scaling_of
from haiku_mup.parameters.summary_table import Row, as_text
from haiku_mup.serialization import state_dict

SHOWN, WIDTH = 8, 140       # parameters that differ; columns


class Difference(NamedTuple):
    """The rows of a parameter in which the two differ.

    Attributes:
      checkpoint: those that follow from the checkpoint's base and parametrization.
      here: those of the Mup at hand.
    """

    checkpoint: list[Row]
    here: list[Row]


def check(state: Any, scalings: Mapping[str, ParameterScaling], declared: Declarations) -> None:
    """Raises if a state dict's base or parametrization is not that of a Mup.

    Args:
      state: what `Mup.state_dict` returned.
      scalings: the Mup's parameters, by name.
      declared: what its user declared.

    Raises:
      MupError: they differ; it shows the rows of the table that do.
    """
    saved, their_declarations = state_dict.decode(state, "the state dict")
    theirs = saved.records
    ours: dict[str, ParameterScaling] = {}
    for scaling in scalings.values():
        ours.setdefault(scaling.base.name, scaling)         # the first of blocks that repeat
    if theirs.keys() != ours.keys():
        raise MupError(f"the checkpoint's Mup is of another model: {min(theirs.keys() ^ ours.keys())!r} is a "
                       f"parameter of {'it' if theirs.keys() - ours.keys() else 'this one'} alone; load the "
                       "checkpoint of this model")
    what = _differing_declaration(their_declarations, declared)
    names = [name for name in ours if what or not _is_same(theirs[name], ours[name].base)]
    if not names:
        return
    found = (_difference(theirs[name], ours[name], their_declarations, declared) for name in names)
    differences = [difference for difference in found if difference]
    many = f", so that {len(differences)} of {len(ours)} parameters differ" * bool(differences)
    raise MupError(f"the checkpoint's Mup is not this one: {what or 'another base'}{many}; take the base and "
                   f"the parametrization that the checkpoint was trained with{_as_table(differences)}")


def _differing_declaration(theirs: Declarations, ours: Declarations) -> str | None:
    """Returns which declaration differs, of those that change factors; None if none does."""
    if theirs.parametrization != ours.parametrization:
        return f"{theirs.parametrization.name} in the checkpoint, and {ours.parametrization.name} here"
    if (theirs.init_mults, theirs.lr_mults) != (ours.init_mults, ours.lr_mults):
        return "other init_mults or lr_mults"
    if theirs.run_scale != ours.run_scale:
        there, here = (str(each.run_scale or "as the base") for each in (theirs, ours))
        return f"another run scale ({there} in the checkpoint, {here} here)"
    if theirs.finite != ours.finite:
        return "other finite axes"
    return None


def _is_same(a: Record, b: Record) -> bool:
    """Returns whether two records are the same, up to the error of a std that was measured on draws."""
    error = 1e-6 + 5 * (a.moments.error + b.moments.error)
    close = all(abs(x - y) <= error * max(abs(x), abs(y), b.moments.std) or math.isnan(x) and math.isnan(y)
                for x, y in ((a.moments.std, b.moments.std), (a.moments.mean, b.moments.mean)))
    # A file keeps neither place nor lifted_by_user, and finite axes as they were declared.
    same = dataclasses.replace(
        a, moments=b.moments, place=b.place, lifted_by_user=b.lifted_by_user, finite=b.finite) == b
    return close and same and a.moments.drawn == b.moments.drawn


def _difference(record: Record, scaling: ParameterScaling, theirs: Declarations,
                ours: Declarations) -> Difference | None:
    """Returns the rows of both sides; None if they agree, or if theirs can't be the base of this target."""
    name = record.name
    init_mult = multiplier_of(name, theirs.init_mults, "init_mults")
    their_lr_mult, our_lr_mult = (multiplier_of(name, each.lr_mults, "lr_mults") for each in (theirs, ours))
    try:
        depth = scaling.depth * math.prod(scaling.base.stacks) / math.prod(record.stacks)
        other = scaling_of(record, scaling.target, theirs.parametrization, depth).with_init_mult(init_mult)
        found = Difference(Row.of(other, their_lr_mult), Row.of(scaling, our_lr_mult))
    except (MupError, ZeroDivisionError):
        return None
    return found if found.checkpoint != found.here else None


def _as_table(differences: list[Difference]) -> str:
    """Returns a table with a line for each row of each side."""
    if not differences:
        return ""
    shown = [(side, row) for difference in differences[:SHOWN]
             for side, rows in zip(Difference._fields, difference) for row in rows]
    head, *lines = as_text([row for _, row in shown], WIDTH).split("\n")
    width = max(map(len, Difference._fields))
    sides = itertools.chain((side for side, _ in shown), itertools.repeat(""))      # notes follow the rows
    text = [f":\n{'':{width}}  {head}", *(f"{side:{width}}  {line}" for side, line in zip(sides, lines))]
    return "\n".join([*text, *[f"and {len(differences) - SHOWN} more"] * (len(differences) > SHOWN)])
