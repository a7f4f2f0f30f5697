"""By how many times a target has more blocks than its base: in layer_stacks, and in numbered modules.

Base and target may differ so where the parametrization says what follows; and where α is not 0, each parameter
in a block that repeats must be made in a branch of haiku_mup.residual that is called in that block.
"""
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from haiku_mup.errors import MupError
from haiku_mup.parameters.initializers import same_std
from haiku_mup.parameters.numbered_modules import Family, Tree, joined
from haiku_mup.parameters.place import Branch, Site, Stack
from haiku_mup.parameters.record import Record
from haiku_mup.rules.parametrization import Parametrization

SCALED = ("haiku_mup.residual and Mup(parametrization=haiku_mup.maximal_update(depth_alpha=1.0)) scale with "
          "it; with depth_alpha=0.0 it may differ, and nothing is scaled")
IF_BLOCKS = ("if they are blocks that repeat, it is a difference in depth: " + SCALED + "; if they are "
             "not, build both from one function, and capture the base again")
FEWER = "a base has no more blocks than its target; tune the model with fewer"
ALIKE = ("where there are more of them than at the base, modules that differ in their number alone must be "
         "alike, and the {}s of these are not; put each block in a module of its own, or in "
         "hk.name_scope(f'block_{{i}}')")


class Pair(NamedTuple):
    """A parameter, and the one of the base's that it is compared with.

    Attributes:
      base, target: the records.
      families: the numbered modules around it that base and target have in different numbers.
      depth: the ratio of the numbers of blocks that it is one of.
    """

    base: Record
    target: Record
    families: tuple[Family, ...]
    depth: float

    def wrong(self, text: str) -> MupError:
        """The error that says so of this parameter."""
        return MupError.about(self.target.name, self.base.shape, self.target.shape, text)

    @property
    def later(self) -> bool:
        """Whether more of its kind may be made after it, beyond those of the base."""
        place = self.target.place
        return self.base.name != self.target.name and any(
            place is None or family.part not in place.varied for family in self.families)

    @property
    def differences(self) -> str:
        """Where base and target have other numbers of blocks; "" where they don't."""
        stacks = [f"a layer_stack around it has {t} layers, the base's {b}"
                  for b, t in zip(self.base.stacks, self.target.stacks) if b != t]
        return "; ".join([*stacks, *map(_counts, self.families)])


class Pairs:
    """Each parameter of a model beside the base's.

    Args:
      base: the base's records, by name.
      parametrization: the parametrization.
    """

    def __init__(self, base: Mapping[str, Record], parametrization: Parametrization):
        self.parametrization = parametrization
        self._base = base
        self._known = Tree(record.in_tree for record in base.values())
        self._tree = Tree()

    def meet(self, modules: Iterable[str]) -> None:
        """Takes in modules that the model has."""
        for module in modules:
            self._tree.add(module)

    def twin(self, module: str) -> str:
        """The name at the base of what a module is compared with."""
        self._tree.add(module)
        return self._tree.twin(module, self._known)[0]

    def families(self, path: str) -> list[Family]:
        """The numbered modules on the way to a module that base and target have in different numbers."""
        return self._tree.twin(path, self._known)[1]

    def find(self, record: Record) -> Pair:
        """The pair of a parameter, as far as the model is known.

        Raises:
          MupError: the base has nothing like it; numbers of blocks that differ, and must not.
        """
        module, families = self._tree.twin(record.in_tree, self._known)
        base = self._base.get(f"{module}/{record.leaf}")
        if base is None:
            raise MupError.about(record.name, None, record.shape, "the base has no such parameter; "
                                 "build base and target from one function, and capture the base again")
        ratio = math.prod((family.ratio for family in families), start=_ratio_of_stacks(base, record))
        pair, alpha = Pair(base, record, tuple(families), ratio), self.parametrization.depth_alpha
        if alpha is None and base.name != record.name:
            there = ", ".join(f"{family.name!r} are {_listed(family.theirs)}" for family in families)
            raise pair.wrong(f"the base has no such parameter: there, modules {there}; {IF_BLOCKS}")
        if alpha is None and any(b != t for b, t in zip(base.stacks, record.stacks)):
            raise pair.wrong(f"{pair.differences}: a difference in depth; {SCALED}")
        if alpha and any(b > t for b, t in zip(base.stacks, record.stacks)):
            raise pair.wrong(f"{pair.differences}: {FEWER}")
        return pair

    def whole(self, records: Mapping[str, Record], what: str) -> dict[str, Pair]:
        """The pairs of all parameters of a model that is complete, by name.

        Args:
          records: the model's.
          what: what to call it, "target" or "delta".

        Raises:
          MupError: parameters that only one of the two has; blocks that can't be compared.
        """
        self._tree = Tree(record.in_tree for record in records.values())
        pairs = {name: self.find(record) for name, record in records.items()}
        families = {(f.base, f.target, f.stem): f for pair in pairs.values() for f in pair.families}
        for family in families.values() if self.parametrization.depth_alpha is not None else ():
            _check_numbers(family, what)
        for name, record in self._base.items():
            if name not in records:
                self._check_missing(name, record, records, what)
        for family in families.values():
            _check_alike(self._base, family.base, family.theirs)
            _check_alike(records, family.target, family.ours)
        if self.parametrization.depth_alpha:
            for pair in pairs.values():
                _check_branch(pair)
        return pairs

    def _check_missing(self, name: str, record: Record, records: Mapping[str, Record], what: str) -> None:
        """Raises for a parameter that only the base has, unless it is in one of more blocks, and may be."""
        twin, families = self._known.twin(record.in_tree, self._tree)
        known, alpha = f"{twin}/{record.leaf}" in records, self.parametrization.depth_alpha
        if known and what == "target" and alpha == 0:
            return
        counts = "; ".join(_counts(family.swapped) for family in families)
        if known and counts and alpha is not None:
            raise MupError.about(name, record.shape, None, f"{counts}: {FEWER}")
        raise MupError.about(name, record.shape, None, f"the {what} has no such parameter" + (
            f": {counts}; {IF_BLOCKS}" if known and counts else
            f"; build base and {what} from one function, and capture the base again"))


def _ratio_of_stacks(base: Record, target: Record) -> float:
    """By how many times the layer_stacks around a parameter have more layers."""
    if base.stacks and len(base.stacks) != len(target.stacks):
        raise MupError.about(target.name, base.shape, target.shape, "the layer_stacks around it have "
                             f"{target.stacks} layers, those at the base {base.stacks}; build both from one "
                             "function")
    if any((b == 0) != (t == 0) for b, t in zip(base.stacks, target.stacks)):
        raise MupError.about(target.name, base.shape, target.shape, "a layer_stack without layers has no "
                             "ratio; build base and target with one layer at least")
    return math.prod((t / b for b, t in zip(base.stacks, target.stacks) if b != t), start=1.0)


def _counts(family: Family) -> str:
    return (f"there are {len(family.ours)} modules {family.name!r} with numbers, "
            f"{len(family.theirs)} at the base")


def _check_numbers(family: Family, what: str) -> None:
    for numbers in (family.theirs, family.ours):
        if list(numbers) != list(range(min(family.theirs), min(family.theirs) + len(numbers))):
            raise MupError(f"{family.name!r}: the base has {_listed(family.theirs)}, and the {what} has "
                           f"{_listed(family.ours)}: blocks that repeat must be numbered one after the other, "
                           "from the same number on")


def _listed(numbers: Mapping[int, str]) -> str:
    names = list(numbers.values())
    return ", ".join(names if len(names) < 4 else [*names[:2], "…", names[-1]])


def _check_alike(records: Mapping[str, Record], parent: str, parts: Mapping[int, str]) -> None:
    """Raises where numbered modules that repeat are not the same thing."""
    first, *others = ({name.removeprefix(f"{joined(parent, part)}/"): record for name, record in records.items()
                       if name.startswith(f"{joined(parent, part)}/")} for part in parts.values())
    for block in others:
        for rest in (first | block):
            a, b = first.get(rest), block.get(rest)
            if a is None or b is None:
                name = a.name if a else joined(parent, rest)
                raise MupError(f"{name!r}: it is not in each of {_listed(parts)}: {ALIKE.format('name')}")
            differ = [what for what, (x, y) in _kinds(a, b).items() if x != y]
            if differ:
                raise MupError(f"{b.name!r}: {b.shape}, {a.name!r}: {a.shape}: {ALIKE.format(differ[0])}")


def _kinds(a: Record, b: Record) -> dict[str, tuple[Any, Any]]:
    """What must be the same of two parameters that repeat."""
    close = a.moments.drawn == b.moments.drawn and (
        math.isclose(a.moments.std, b.moments.std, rel_tol=1e-6) or same_std(a.moments, b.moments))
    return {"shape": (a.shape, b.shape), "fan": (a.fans, b.fans), "std": (close, True),
            "layer": ((a.layer, a.inexact, a.key_size, a.row_sizes),
                      (b.layer, b.inexact, b.key_size, b.row_sizes)),
            "stack": (a.stacks, b.stacks)}


# --- branches ---

def _check_branch(pair: Pair) -> None:
    """Raises for a parameter in a block that repeats, and in no branch of that block."""
    place, differences = pair.target.place, pair.differences
    if not differences:
        return
    if place is None or place.branch is None:
        raise pair.wrong(f"{differences}, and no branch of haiku_mup.residual makes it; add what each block "
                         "computes by x = haiku_mup.residual(x, branch), with a branch that makes all its "
                         "parameters")
    inside = [stack.transparent for stack in place.branch.site.stacks]
    stacked = all(b == t or i < inside.count(False)
                  for i, (b, t) in enumerate(zip(pair.base.stacks, pair.target.stacks)))
    named = all(inside.count(True) == [stack.transparent for stack in place.stacks].count(True)
                if family.part in place.varied else _through(place.module, place.branch.path, family.part)
                for family in pair.families)
    if not (stacked and named):
        raise pair.wrong(f"{differences}, within a branch of haiku_mup.residual, which is called in "
                         f"{place.branch.path!r}; call it in the stack or the module that repeats, or in "
                         "hk.name_scope(f'block_{i}')")


def _through(module: str, path: str, part: int) -> bool:
    """Whether a path leads through the same module, up to this part."""
    return path.split("/")[:part + 1] == module.split("/")[:part + 1]


def branches(pairs: Pairs, found: Mapping[str, Pair], seen: Iterable[Branch]) -> dict[Site, float]:
    """The multiplier for each place that calls haiku_mup.residual, were it in no other's branch.

    Args:
      pairs: what found the pairs.
      found: the pairs of all parameters.
      seen: the branches that were computed, with parameters or without.

    Raises:
      MupError: a branch whose parameters are in other blocks than it is.
    """
    if not pairs.parametrization.depth_alpha:
        return {}
    stacks, makes = _ratios_of_stacks(found.values()), dict[Site, Pair]()
    for pair in found.values():
        if pair.target.place and pair.target.place.branch:
            other = makes.setdefault(pair.target.place.branch.site, pair)
            if not math.isclose(other.depth, pair.depth):
                raise pair.wrong(f"one branch of haiku_mup.residual makes it and {other.target.name!r}, which "
                                 "are not in the same blocks; make both in the block")
    return {branch.site: pairs.parametrization.branch(_ratio(branch, stacks, makes.get(branch.site), pairs))
            for branch in seen}


def _ratios_of_stacks(pairs: Iterable[Pair]) -> dict[tuple[Stack, ...], float]:
    """{stacks around: by how many times they have more layers}, of all that have a parameter."""
    ratios: dict[tuple[Stack, ...], float] = {(): 1.0}
    for pair in pairs:
        stacks = pair.target.place.stacks if pair.target.place else ()
        counts, ratio = iter(zip(pair.base.stacks, pair.target.stacks)), 1.0
        for i, stack in enumerate(stacks, 1):
            base, target = (1, 1) if stack.transparent else next(counts, (1, 1))
            ratio *= target / base if base else 1.0
            ratios[stacks[:i]] = ratio
    return ratios


def _ratio(branch: Branch, stacks: Mapping[tuple[Stack, ...], float], pair: Pair | None,
           pairs: Pairs) -> float:
    """The ratio of the numbers of blocks that a branch is in; `pair` is of some parameter that it makes."""
    transparent = any(stack.transparent for stack in branch.site.stacks)
    if pair and transparent:
        return pair.depth
    if transparent or branch.site.stacks not in stacks:
        raise MupError(f"{branch.path!r}: a branch of haiku_mup.residual without parameters, in a stack whose "
                       "depth at the base nothing tells; call it where a branch with parameters is called")
    ratio = math.prod((family.ratio for family in pairs.families(branch.path)),
                      start=stacks[branch.site.stacks])
    if pair and not math.isclose(pair.depth, ratio):
        raise pair.wrong(f"a branch of haiku_mup.residual makes it that is called in {branch.path!r}, which is "
                         "in other blocks; make it in the block")
    return ratio
