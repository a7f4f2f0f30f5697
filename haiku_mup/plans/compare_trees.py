"""Compares the parameters of two trees: each beside the base's, with its role and its factors."""
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from haiku_mup.errors import MupError
from haiku_mup.parameters.declarations import Declarations
from haiku_mup.parameters.globs import check_globs, multiplier_of, multipliers_by_name
from haiku_mup.parameters.record import Record
from haiku_mup.parameters.scaling import ParameterScaling, scaling_of
from haiku_mup.plans.stds import Std, declared_moments, declared_std
from haiku_mup.plans.tree_records import CALL, Leaf, TreeDeclarations, check_known, one_layer

STACKS = ("its first axes are those of stacked layers, and differ; a plan compares widths, so give the base as "
          "many layers as the target; if another axis is the stack's, put it in front: out_axes=0, or "
          "variable_axes={'params': 0}")


def check_same_names(base: Mapping[str, Any], other: Mapping[str, Any], side: str) -> None:
    """Raises for parameters that only one of two trees has.

    Raises:
      MupError: it names the first of them.
    """
    for name in [*base, *other]:
        if name not in base or name not in other:
            have, lack = ("base", side) if name in base else (side, "base")
            raise MupError(f"{name!r}: the {have} has it, and the {lack} has not; build both by one function, "
                           "which takes the width: trees of one structure")


def base_records(base: Mapping[str, Leaf], delta: Mapping[str, Leaf] | None,
                 declared: TreeDeclarations) -> dict[str, Record]:
    """Returns the base's records, with the shapes that a delta has."""
    records = {name: declared.record(name, leaf, 0) for name, leaf in base.items()}
    if delta is None:
        return records
    check_same_names(base, delta, "delta")
    shapes = {name: one_layer(leaf, name, declared.stacks)[0].shape for name, leaf in delta.items()}
    for name, record in records.items():
        if len(shapes[name]) != len(record.shape):
            raise MupError.about(name, record.shape, shapes[name], "the delta's rank differs; build all by one "
                                 "function", model="delta")
    return {name: dataclasses.replace(record, delta=shapes[name]) for name, record in records.items()}


def with_declared_stds(base: Mapping[str, Record], target: Mapping[str, Record], leaves: Mapping[str, Leaf],
                       stds: Mapping[str, Std]) -> tuple[dict[str, Record], dict[str, Record]]:
    """Returns the records with the stds that the user declares."""
    check_globs("stds", stds, target, target, "parameter")
    bases, targets = dict(base), dict(target)
    for name, now in target.items():
        std, was = declared_std(stds, name), base[name]
        if std is not None:
            dtype = leaves[name].array.dtype
            moments = declared_moments(std, now.fans, (_Shape(was.shape, dtype), was.moments),
                                       (_Shape(now.shape, dtype), now.moments))
            bases[name], targets[name] = (dataclasses.replace(record, moments=m)
                                          for record, m in zip((was, now), moments))
    return bases, targets


@dataclasses.dataclass(frozen=True)
class _Shape:
    """A shape and a dtype."""

    shape: tuple[int, ...]
    dtype: Any


def scalings(base: Mapping[str, Record], target: Mapping[str, Record],
             declared: Declarations) -> dict[str, ParameterScaling]:
    """Returns each parameter beside the base's, by name.

    Raises:
      MupError: all parameters that can't be right, at once; a glob that matches nothing.
    """
    _check_globs(target, declared)
    check_same_names(base, target, "target")
    found, errors = dict[str, ParameterScaling](), list[MupError]()
    for name, record in target.items():
        try:
            found[name] = _scaling(base[name], record, declared)
        except MupError as error:
            errors.append(error)
    if errors:
        raise MupError.of_all(errors)
    return found


def _scaling(base: Record, target: Record, declared: Declarations) -> ParameterScaling:
    """Returns the scaling of a pair, with the user's multiplier of its draw."""
    if len(base.shape) == len(target.shape):
        check_known(base, target)
    if base.stacks != target.stacks:
        raise MupError.about(target.name, (*base.stacks, *base.shape), (*target.stacks, *target.shape), STACKS)
    scaling = scaling_of(base, target, declared.parametrization)
    return scaling.with_init_mult(multiplier_of(target.name, declared.init_mults, "init_mults"))


def _check_globs(records: Mapping[str, Record], declared: Declarations) -> None:
    """Raises for a glob of the user's that matches no parameter."""
    arguments: dict[str, Callable[[], Any]] = {
        name: lambda name=name: getattr(declared, name)                 # type: ignore[misc]
        for name in ("fans", "readouts", "finite", "tied")}
    for argument, globs in arguments.items():
        check_globs(f"{CALL}({argument}=...)", globs(), records, records, "parameter")
    for argument in ("init_mults", "lr_mults"):
        multipliers_by_name(records, getattr(declared, argument), argument)
