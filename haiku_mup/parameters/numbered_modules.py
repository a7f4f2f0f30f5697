"""Numbered modules: "block_0", "block_1", …, or "block", "block_1", … as Haiku numbers them itself.

They are a family where base and target have other numbers of one name, on the way to some parameter. Which of
them is compared with which makes no difference, as all of a family must be alike: depth.py sees to that.
"""
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

_NUMBERED = re.compile(r"(.+)_(0|[1-9]\d*)")


class Family(NamedTuple):
    """Numbered modules that base and target have in different numbers, on the way to some module.

    Attributes:
      part: which part of the module's name, between slashes, is numbered.
      stem: that part without its number.
      base, target: the name of what they are in, at the base and at the target.
      theirs: number -> that part, at the base.
      ours: the same at the target.
    """

    part: int
    stem: str
    base: str
    target: str
    theirs: Mapping[int, str]
    ours: Mapping[int, str]

    @property
    def ratio(self) -> float:
        """By how many times there are more at the target; 1 while it hasn't made as many yet."""
        return max(1.0, len(self.ours) / len(self.theirs))

    @property
    def swapped(self) -> "Family":
        """The same as the other side sees it."""
        return Family(self.part, self.stem, self.target, self.base, self.ours, self.theirs)

    @property
    def name(self) -> str:
        """What they are called."""
        return joined(self.target, self.stem)


class Tree:
    """The names of a model's modules, and which of them are numbered.

    >>> tree = Tree(["net/block/linear", "net/block_1/linear"])
    >>> tree.family("net", "block")
    {0: 'block', 1: 'block_1'}
    """

    def __init__(self, modules: Iterable[str] = ()):
        self._parts: dict[tuple[str, str], dict[int | None, str]] = {}
        self._modules: set[str] = set()
        self._families: dict[tuple[str, str], dict[int, str]] = {}     # as `family` gave them
        for module in modules:
            self.add(module)

    def add(self, module: str) -> None:
        """Takes one more name in."""
        if module in self._modules:
            return
        self._modules.add(module)
        parent, _, part = module.rpartition("/")
        if parent:
            self.add(parent)
        stem, number = numbered(part)
        self._parts.setdefault((parent, stem), {})[number] = part
        self._families.pop((parent, stem), None)

    def family(self, parent: str, stem: str) -> dict[int, str]:
        """{number: name} of what is below `parent` and called `stem`, which is 0, or that and a number."""
        if (parent, stem) not in self._families:
            parts = self._parts.get((parent, stem), {})
            first = {0: parts[None]} if None in parts and 0 not in parts else {}
            self._families[parent, stem] = first | {
                number: parts[number] for number in sorted(parts.keys() - {None})}     # type: ignore
        return self._families[parent, stem]

    def twin(self, module: str, base: "Tree") -> tuple[str, list[Family]]:
        """The name at the base of what has this name here, and the families on the way that differ in number.

        A module that the base has as well is its own twin; another has the first of its family.

        >>> twin = Tree(["a/block_0", "a/block_1"]).twin("a/block_1", Tree(["a/block_0"]))
        >>> twin[0], [family.ratio for family in twin[1]]
        ('a/block_0', [2.0])
        """
        here, there, families = "", "", []
        for i, part in enumerate(module.split("/")):
            stem, number = numbered(part)
            ours, theirs = self.family(here, stem), base.family(there, stem)
            member = ours.get(number or 0) == part and bool(theirs)
            if member and ours.keys() != theirs.keys():
                families.append(Family(i, stem, there, here, theirs, ours))
            known = joined(there, part) in base._modules or not member
            here, there = joined(here, part), joined(there, part if known else theirs[min(theirs)])
        return there, families


def numbered(part: str) -> tuple[str, int | None]:
    """A module's name without its number, and that number.

    >>> numbered("block_12"), numbered("block"), numbered("conv2_d")
    (('block', 12), ('block', None), ('conv2_d', None))
    """
    found = _NUMBERED.fullmatch(part)
    return (found[1], int(found[2])) if found else (part, None)


def joined(parent: str, part: str) -> str:
    """The name of what is called `part` in `parent`.

    >>> joined("net", "block"), joined("", "block")
    ('net/block', 'block')
    """
    return f"{parent}/{part}" if parent else part
