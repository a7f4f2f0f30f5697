"""Pairs each parameter with the base's, and gives the ratio of their numbers of blocks, target / base.

Blocks repeat in layer_stacks and in numbered modules. Base and target may have different numbers of them if the
parametrization has an α. If α is not 0, each parameter in a block that repeats must be made in a branch of
haiku_mup.residual that is called in that block; branches.py checks it.
"""
import functools
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from haiku_mup.errors import MupError
from haiku_mup.parameters.initializers import same_std
from haiku_mup.parameters.numbered_modules import Family, ModuleTree, joined
from haiku_mup.parameters.record import Compared, Record
from haiku_mup.rules.parametrization import Parametrization

SCALED = ("haiku_mup.residual and Mup(parametrization=haiku_mup.maximal_update(depth_alpha=1.0)) scale with "
          "it; with depth_alpha=0.0 it may differ, and nothing is scaled")
IF_BLOCKS = ("if they are blocks that repeat, it is a difference in depth: " + SCALED + "; if they are "
             "not, build both from one function, and capture the base again")
FEWER = "a base can't have more blocks than its {}; tune the model with fewer blocks"
ALIKE = ("modules that differ only in their number must be alike if there are more of them than at the base, "
         "and the {}s of these are not; put each block in its own module, or in "
         "hk.name_scope(f'block_{{i}}')")


class Pair(NamedTuple):
    """A parameter, and the one of the base that it is compared with.

    Attributes:
      base, target: the records.
      families: the numbered modules on its path that base and target have in different numbers.
      depth: the ratio of the numbers of blocks that it belongs to.
    """

    base: Record
    target: Record
    families: tuple[Family, ...]
    depth: float

    def error(self, text: str) -> MupError:
        """Returns the error for this parameter, with both shapes."""
        return self.target.error(self.base, text)

    @property
    def may_gain_blocks(self) -> bool:
        """Returns whether the target may still make more such modules, so that `depth` is not final."""
        place = self.target.place
        return self.base.name != self.target.name and any(
            place is None or family.position not in place.varied for family in self.families)

    @property
    def differences(self) -> str | None:
        """Returns a sentence on the numbers of blocks that differ; None if none does."""
        stacks = [f"a layer_stack around it has {t} layers, the base's {b}"
                  for b, t in zip(self.base.stacks, self.target.stacks) if b != t]
        return "; ".join([*stacks, *map(_counts, self.families)]) or None


class Pairing:
    """Finds the pair of each parameter of a model.

    Args:
      base: the base's records, by name.
      parametrization: the one that the model is captured in.
    """

    def __init__(self, base: Mapping[str, Record], parametrization: Parametrization):
        self.parametrization = parametrization
        self._base = base
        self._modules = ModuleTree()
        self._pending: list[str] = []           # modules that are not in the tree yet

    @functools.cached_property
    def _base_tree(self) -> ModuleTree:
        """Returns the tree of the base's modules, which a model with the base's names never needs."""
        return ModuleTree(record.in_tree for record in self._base.values())

    @property
    def _tree(self) -> ModuleTree:
        """Returns the tree of the modules that were added."""
        for module in self._pending:
            self._modules.add(module)
        self._pending = []
        return self._modules

    def add_modules(self, modules: Iterable[str]) -> None:
        """Adds modules that the model has."""
        self._pending += modules

    def base_module(self, module: str) -> str:
        """Adds a module of the model, and returns the base's that it is compared with."""
        self._tree.add(module)
        return self._tree.counterpart(module, self._base_tree)[0]

    def base_path(self, path: str) -> str:
        """Returns the base's path that one of the model is compared with, of a module or not."""
        return self._tree.counterpart(path, self._base_tree)[0]

    def families(self, path: str) -> list[Family]:
        """Returns the numbered modules on a path that base and target have in different numbers."""
        return self._tree.counterpart(path, self._base_tree)[1]

    def find(self, record: Record) -> Pair:
        """Returns the pair of a parameter, with the depth that the modules added so far tell.

        Raises:
          MupError: the base has nothing like it; numbers of blocks that differ, and must not.
        """
        same = self._base.get(record.name)
        if self.parametrization.depth_alpha is None and same is not None and same.stacks == record.stacks:
            return Pair(same, record, (), 1.0)          # where no depth may differ, names are the base's
        module, families = self._tree.counterpart(record.in_tree, self._base_tree)
        base = self._base.get(f"{module}/{record.leaf}")
        if base is None:
            raise record.error(None, f"the base has no such parameter; build base and {record.model} from one "
                               "function, and capture the base again")
        ratio = math.prod((family.ratio for family in families), start=_ratio_of_stacks(base, record))
        pair, alpha = Pair(base, record, tuple(families), ratio), self.parametrization.depth_alpha
        if alpha is None and base.name != record.name:
            there = ", ".join(f"{family.name!r} are {_listed(family.base_members)}" for family in families)
            raise pair.error(f"the base has no such parameter: there, modules {there}; {IF_BLOCKS}")
        if alpha is None and any(b != t for b, t in zip(base.stacks, record.stacks)):
            raise pair.error(f"{pair.differences}: a difference in depth; {SCALED}")
        if alpha and any(b > t for b, t in zip(base.stacks, record.stacks)):
            raise pair.error(f"{pair.differences}: {FEWER.format(record.model)}")
        return pair

    def find_all(self, records: Mapping[str, Record], model: Compared) -> dict[str, Pair]:
        """Returns the pairs of all parameters of a model that is complete, by name.

        Args:
          records: the model's.
          model: which model that is.

        Raises:
          MupError: parameters that only one of the two has; blocks that can't be compared.
        """
        self._modules, self._pending = ModuleTree(), [record.in_tree for record in records.values()]
        pairs = {name: self.find(record) for name, record in records.items()}
        families = {(f.base_parent, f.target_parent, f.stem): f
                    for pair in pairs.values() for f in pair.families}
        for family in families.values() if self.parametrization.depth_alpha is not None else ():
            _check_numbers(family, model)
        for name, record in self._base.items():
            if name not in records:
                self._check_missing(name, record, records, model)
        for family in families.values():
            _check_alike(self._base, family.base_parent, family.base_members)
            _check_alike(records, family.target_parent, family.target_members)
        return pairs

    def _check_missing(self, name: str, record: Record, records: Mapping[str, Record],
                       model: Compared) -> None:
        """Raises for a parameter that only the base has, unless the target may leave out its block."""
        module, families = self._base_tree.counterpart(record.in_tree, self._tree)
        has_counterpart, alpha = f"{module}/{record.leaf}" in records, self.parametrization.depth_alpha
        if has_counterpart and model is Compared.TARGET and alpha == 0:
            return
        counts = "; ".join(_counts(family.swapped) for family in families)
        if has_counterpart and counts and alpha is not None:
            raise MupError.about(name, record.shape, None, f"{counts}: {FEWER.format(model)}", record.line,
                                 model=model)
        raise MupError.about(name, record.shape, None, f"the {model} has no such parameter" + (
            f": {counts}; {IF_BLOCKS}" if has_counterpart and counts else
            f"; build base and {model} from one function, and capture the base again"), record.line,
            model=model)


def _ratio_of_stacks(base: Record, target: Record) -> float:
    """Returns the ratio of the numbers of layers that the layer_stacks around a parameter have."""
    if base.stacks == target.stacks:
        return 1.0
    if base.stacks and len(base.stacks) != len(target.stacks):
        raise target.error(base, f"the layer_stacks around it have {target.stacks} layers, those at the base "
                           f"{base.stacks}; build both from one function")
    if any((b == 0) != (t == 0) for b, t in zip(base.stacks, target.stacks)):
        raise target.error(base, "a layer_stack without layers has no ratio; build base and "
                           f"{target.model} with at least one layer")
    return math.prod((t / b for b, t in zip(base.stacks, target.stacks) if b != t), start=1.0)


def _counts(family: Family) -> str:
    return (f"there are {len(family.target_members)} modules {family.name!r} with numbers, "
            f"{len(family.base_members)} at the base")


def _check_numbers(family: Family, model: Compared) -> None:
    """Raises unless both models number the family one after the other, from the same number on."""
    first = min(family.base_members)
    for members in (family.base_members, family.target_members):
        if list(members) != list(range(first, first + len(members))):
            raise MupError(f"{family.name!r}: the base has {_listed(family.base_members)}, and the {model} has "
                           f"{_listed(family.target_members)}: blocks that repeat must be numbered one after "
                           "the other, from the same number on")


def _listed(members: Mapping[int, str]) -> str:
    names = list(members.values())
    return ", ".join(names if len(names) < 4 else [*names[:2], "…", names[-1]])


def _check_alike(records: Mapping[str, Record], parent: str, members: Mapping[int, str]) -> None:
    """Raises if numbered modules that repeat differ in a parameter."""
    first, *others = (_below(records, joined(parent, member)) for member in members.values())
    for block in others:
        for rest in (first | block):
            a, b = first.get(rest), block.get(rest)
            if a is None or b is None:
                name = a.name if a else joined(parent, rest)
                error = MupError(f"{name!r}: it is not in each of {_listed(members)}: {ALIKE.format('name')}")
                raise error.made_at(name, (a or b).line)        # type: ignore[union-attr]
            differ = [what for what, (x, y) in _compared(a, b).items() if x != y]
            if differ:
                error = MupError(f"{b.name!r}: {b.shape}, {a.name!r}: {a.shape}: {ALIKE.format(differ[0])}")
                raise error.made_at(b.name, b.line)


def _below(records: Mapping[str, Record], module: str) -> dict[str, Record]:
    """Returns the parameters of a module and of those inside, by their names below it."""
    return {name.removeprefix(f"{module}/"): record for name, record in records.items()
            if name.startswith(f"{module}/")}


def _compared(a: Record, b: Record) -> dict[str, tuple[Any, Any]]:
    """Returns the properties that must be the same of two parameters that repeat, with both values."""
    close = a.moments.drawn == b.moments.drawn and (
        math.isclose(a.moments.std, b.moments.std, rel_tol=1e-6) or same_std(a.moments, b.moments))
    return {"shape": (a.shape, b.shape), "fan": (a.fans, b.fans), "std": (close, True),
            "layer": ((a.layer, a.inexact, a.key_size, a.row_sizes),
                      (b.layer, b.inexact, b.key_size, b.row_sizes)),
            "stack": (a.stacks, b.stacks)}
