"""Reads the base of a plan from its file, and puts a target beside it."""
import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from haiku_mup.errors import MupError
from haiku_mup.parameters.declarations import Declarations
from haiku_mup.parameters.record import Record
from haiku_mup.plans import arguments, compare_trees
from haiku_mup.plans.arguments import FansArgument
from haiku_mup.plans.tree_records import TreeDeclarations, read_tree
from haiku_mup.serialization import state_dict


class SavedPlan(NamedTuple):
    """A target beside the base of a file.

    Attributes:
      params: the target's tree.
      base, target: their records, by name.
      declarations: the arguments that the base was saved with.
    """

    params: Any
    base: Mapping[str, Record]
    target: Mapping[str, Record]
    declarations: Declarations


def read(path: str | os.PathLike[str], target: Any,
         fans: FansArgument | Sequence[FansArgument] | None) -> SavedPlan:
    """Returns what `Plan.load` makes a plan of.

    Raises:
      MupError: a file that is none of a plan; a target with other parameters.
      OSError: a path that can't be read.
    """
    saved, declared = state_dict.decode(state_dict.read(path), os.fspath(path))
    base = saved.records
    if not all(record.of_tree for record in base.values()):
        raise MupError(f"{os.fspath(path)}: the base of a Mup, and no plan's; haiku_mup.Mup.load reads it")
    adapters = arguments.parse(fans, None, None, readouts=(), parametrization=None, init_mults=None,
                               lr_mults=None).adapters
    params, leaves = read_tree(target, adapters, "target")
    compare_trees.check_same_names(base, leaves, "target")
    records = {name: _like(base[name], TreeDeclarations(
        of_mup=declared._replace(fans={}), adapters=adapters, stacks={name: len(base[name].stacks)},
        attention={}).record(name, leaf, 1)) for name, leaf in leaves.items()}
    return SavedPlan(params, base, records, declared)


def _like(base: Record, target: Record) -> Record:
    """Returns a target's record with what a file tells of its base."""
    key_size = target.key_size if base.scaled_attention else None
    return dataclasses.replace(target, fans=base.fans, key_size=key_size,
                               scaled_attention=base.scaled_attention and key_size is not None)
