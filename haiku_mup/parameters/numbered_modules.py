"""Numbered modules: "block_0", "block_1", …, or "block", "block_1", … as Haiku numbers them itself.

Modules with one name and numbers are a family if base and target have different numbers of them. It makes no
difference which member at the base is compared with a member at the target: depth.py checks that all are alike.
"""
import dataclasses
import functools
import re
from collections.abc import Iterable, Mapping
from typing import Any

_NUMBERED = re.compile(r"(.+)_(0|[1-9]\d*)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """Numbered modules that base and target have in different numbers, on the path to some module.

    Attributes:
      position: which part of the module's path, between slashes, is numbered.
      stem: that part without its number.
      base_parent, target_parent: the path of the module that holds them, at the base and at the target.
      base_members, target_members: {number: that part} at the base and at the target.
    """

    position: int
    stem: str
    base_parent: str
    target_parent: str
    base_members: Mapping[int, str]
    target_members: Mapping[int, str]

    @property
    def ratio(self) -> float:
        """Returns the ratio of their numbers, target / base; 1 while the target has not made as many yet."""
        return max(1.0, len(self.target_members) / len(self.base_members))

    @property
    def swapped(self) -> "Family":
        """Returns the family with base and target swapped."""
        return Family(position=self.position, stem=self.stem,
                      base_parent=self.target_parent, target_parent=self.base_parent,
                      base_members=self.target_members, target_members=self.base_members)

    @property
    def name(self) -> str:
        """Returns the path that the members at the target have in common, without a number."""
        return joined(self.target_parent, self.stem)


class ModuleTree:
    """The paths of a model's modules, with those that are numbered grouped by their name.

    >>> tree = ModuleTree(["net/block/linear", "net/block_1/linear"])
    >>> tree.members("net", "block")
    {0: 'block', 1: 'block_1'}
    """

    def __init__(self, modules: Iterable[str] = ()):
        self._parts: dict[tuple[str, str], dict[int | None, str]] = {}     # of (parent, stem), by number
        self._modules: set[str] = set()
        self._members: dict[tuple[str, str], dict[int, str]] = {}          # what `members` returned
        self._counterparts: dict[Any, tuple[str, list[Family]]] = {}       # what `counterpart` returned
        for module in modules:
            self.add(module)

    def add(self, module: str) -> None:
        """Adds a module and those that hold it."""
        if module in self._modules:
            return
        self._modules.add(module)
        parent, _, part = module.rpartition("/")
        if parent:
            self.add(parent)
        stem, number = split_number(part)
        self._parts.setdefault((parent, stem), {})[number] = part
        self._members.pop((parent, stem), None)
        self._counterparts.clear()

    def members(self, parent: str, stem: str) -> dict[int, str]:
        """Returns {number: name} of the modules in `parent` called `stem` (number 0) or `stem_number`."""
        if (parent, stem) not in self._members:
            parts = self._parts.get((parent, stem), {})
            first = {0: parts[None]} if None in parts and 0 not in parts else {}
            numbers = sorted(number for number in parts if number is not None)
            self._members[parent, stem] = first | {number: parts[number] for number in numbers}
        return self._members[parent, stem]

    def counterpart(self, module: str, base: "ModuleTree") -> tuple[str, list[Family]]:
        """Returns the module of another tree that a module is compared with, and the families on its path.

        It is the module of the same path where the other tree has one, else the first of the family.

        Args:
          module: a path in this tree, the target's.
          base: the other tree.

        >>> target = ModuleTree(["a/block_0", "a/block_1"])
        >>> name, families = target.counterpart("a/block_1", ModuleTree(["a/block_0"]))
        >>> name, [family.ratio for family in families]
        ('a/block_0', [2.0])
        """
        key = module, id(base), len(base._modules)      # asked for each parameter of a module
        if key not in self._counterparts:
            self._counterparts[key] = self._find_counterpart(module, base)
        return self._counterparts[key]

    def _find_counterpart(self, module: str, base: "ModuleTree") -> tuple[str, list[Family]]:
        here, there, families = "", "", []              # the paths so far in this tree and in the other
        for i, part in enumerate(module.split("/")):
            stem, number = split_number(part)
            ours, theirs = self.members(here, stem), base.members(there, stem)
            is_member = ours.get(number or 0) == part and bool(theirs)
            if is_member and ours.keys() != theirs.keys():
                families.append(Family(position=i, stem=stem, base_parent=there, target_parent=here,
                                       base_members=theirs, target_members=ours))
            same = joined(there, part) in base._modules or not is_member
            here, there = joined(here, part), joined(there, part if same else theirs[min(theirs)])
        return there, families


@functools.lru_cache(maxsize=2**12)
def split_number(part: str) -> tuple[str, int | None]:
    """Returns a module's name without its number, and that number.

    >>> split_number("block_12"), split_number("block"), split_number("conv2_d")
    (('block', 12), ('block', None), ('conv2_d', None))
    """
    found = _NUMBERED.fullmatch(part)
    return (found[1], int(found[2])) if found else (part, None)


def joined(parent: str, part: str) -> str:
    """Returns the path of what is called `part` in `parent`.

    >>> joined("net", "block"), joined("", "block")
    ('net/block', 'block')
    """
    return f"{parent}/{part}" if parent else part
