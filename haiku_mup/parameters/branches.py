"""Multipliers of the branches of haiku_mup.residual, and the check that blocks that repeat are in branches."""
import math
from collections.abc import Iterable, Mapping

from haiku_mup.errors import MupError
from haiku_mup.parameters.depth import FEWER, SCALED, Pair, Pairing
from haiku_mup.parameters.place import Branch, Site, Stack
from haiku_mup.parameters.record import Compared


def check_branches(pairing: Pairing, found: Mapping[str, Pair]) -> None:
    """Checks that each parameter in a block that repeats is made in a branch that is called in that block.

    Args:
      pairing: the pairs of a model that is complete.
      found: all of them, by name.

    Raises:
      MupError: a parameter that is not, where α is not 0.
    """
    for pair in found.values() if pairing.parametrization.depth_alpha else ():
        differences, place = pair.differences, pair.target.place
        if differences is None:
            continue
        if place is None or place.branch is None:
            raise pair.error(f"{differences}, and no branch of haiku_mup.residual makes it; add what each "
                             "block computes by x = haiku_mup.residual(x, branch), with a branch that makes "
                             "all its parameters")
        if not _is_in_each_block(pair, place.branch):
            raise pair.error(f"{differences}, within a branch of haiku_mup.residual, which is called in "
                             f"{place.branch.path!r}; call it in the stack or the module that repeats, or in "
                             "hk.name_scope(f'block_{i}')")


def _is_in_each_block(pair: Pair, branch: Branch) -> bool:
    """Returns whether a branch is called inside of every stack and numbered module that repeats."""
    place = pair.target.place
    assert place is not None
    inside = [stack.transparent for stack in branch.site.stacks]
    # Transparent stacks have no entry in a record's stacks: their layers are a family of numbered modules.
    stacked = all(b == t or i < inside.count(False)
                  for i, (b, t) in enumerate(zip(pair.base.stacks, pair.target.stacks)))
    return stacked and all(
        inside.count(True) == [stack.transparent for stack in place.stacks].count(True)
        if family.position in place.varied else _same_up_to(place.module, branch.path, family.position)
        for family in pair.families)


def _same_up_to(module: str, path: str, position: int) -> bool:
    """Returns whether a path leads through the same module, up to this part."""
    return path.split("/")[:position + 1] == module.split("/")[:position + 1]


# --- layers that several branches share ---
#
# One layer in r times as many branches, each × r^-α. Their outputs are alike, since x changes little from one
# to the next, and add up like r. (Those of independent weights add up like √r at init: α = ½ is made for them.)
# So the sum grows like r^(1-α), and has a limit at α = 1 alone: steps of Euler's method for dx/dt = f(x, w).
# There the gradient of w, a sum over r branches × 1/r, is as large as at the base, and so is what a change of w
# does: all factors of w itself are 1. SGD's is r for weights of a block's own, whose gradients are × 1/r.

def call_ratio(branch: Branch, pairing: Pairing, base_calls: Mapping[str, int],
               calls: Mapping[str, int]) -> float:
    """Returns how many times as often as the base a model calls haiku_mup.residual in one module.

    Args:
      branch: the branch.
      pairing: the pairs of the model.
      base_calls, calls: how often the base and the model call it, by path. A file of an earlier version doesn't
        tell, which is a ratio of 1; the first call of a branch counts when it ends.
    """
    before = base_calls.get(pairing.base_path(branch.path))
    return calls.get(branch.path, 0) / before if before else 1.0


def check_calls(pairing: Pairing, found: Mapping[str, Pair], branches: Iterable[Branch],
                base_calls: Mapping[str, int], calls: Mapping[str, int]) -> None:
    """Checks that branches which share their layers are as many as at the base, or that α is 0 or 1.

    Args:
      pairing: the pairs of a model that is complete.
      found: all of them, by name.
      branches: the branches that were computed.
      base_calls, calls: see `call_ratio`.

    Raises:
      MupError: they are not.
    """
    alpha = pairing.parametrization.depth_alpha
    for branch in branches:
        ratio = call_ratio(branch, pairing, base_calls, calls)
        if ratio == 1 or alpha == 0 or (alpha == 1 and ratio > 1):
            continue
        text = (f"haiku_mup.residual is called {calls[branch.path]} times in {branch.path!r}, at the base "
                f"{base_calls[pairing.base_path(branch.path)]}")
        text += f": {FEWER.format(Compared.TARGET)}" if ratio < 1 else (
            f": a difference in depth; {SCALED}" if alpha is None else
            ", and what branches add that share their layers grows with their number: take depth_alpha=1.0 in "
            f"place of {alpha:g}, or give each block layers of its own")
        made = [pair for pair in found.values() if pair.target.place and pair.target.place.branch == branch]
        raise made[0].error(text) if made else MupError(text)


def branch_multipliers(pairing: Pairing, found: Mapping[str, Pair], branches: Iterable[Branch],
                       base_calls: Mapping[str, int], calls: Mapping[str, int]) -> dict[Site, float]:
    """Returns a multiplier for each place that calls haiku_mup.residual, as if it were in no other's branch.

    Args:
      pairing: the pairs of a model that is complete.
      found: all of them, by name.
      branches: the branches that were computed, with parameters or without.
      base_calls, calls: see `call_ratio`.

    Raises:
      MupError: a branch whose parameters are in other blocks than it is.
    """
    if not pairing.parametrization.depth_alpha:
        return {}
    ratios, makes = _ratio_by_stacks(found.values()), dict[Site, Pair]()
    for pair in found.values():
        if pair.target.place and pair.target.place.branch:
            other = makes.setdefault(pair.target.place.branch.site, pair)
            if not math.isclose(other.depth, pair.depth):
                raise pair.error(f"the same branch of haiku_mup.residual makes it and {other.target.name!r}, "
                                 "which "
                                 "are not in the same blocks; make both in the block")
    return {branch.site: pairing.parametrization.branch(
                _depth(branch, ratios, makes.get(branch.site), pairing)
                * call_ratio(branch, pairing, base_calls, calls))
            for branch in branches}


def _ratio_by_stacks(pairs: Iterable[Pair]) -> dict[tuple[Stack, ...], float]:
    """Returns {stacks around: the ratio of their numbers of layers} of all stacks that have a parameter."""
    ratios: dict[tuple[Stack, ...], float] = {(): 1.0}
    for pair in pairs:
        stacks = pair.target.place.stacks if pair.target.place else ()
        counts, ratio = iter(zip(pair.base.stacks, pair.target.stacks)), 1.0
        for i, stack in enumerate(stacks, 1):
            base, target = (1, 1) if stack.transparent else next(counts, (1, 1))
            ratio *= target / base if base else 1.0
            ratios[stacks[:i]] = ratio
    return ratios


def _depth(branch: Branch, ratios: Mapping[tuple[Stack, ...], float], pair: Pair | None,
           pairing: Pairing) -> float:
    """Returns the ratio of the numbers of blocks that a branch is in.

    Args:
      branch: the branch.
      ratios: those of the stacks.
      pair: some parameter that the branch makes, if it makes any.
      pairing: all of the model.
    """
    transparent = any(stack.transparent for stack in branch.site.stacks)
    if pair and transparent:
        return pair.depth
    if transparent or branch.site.stacks not in ratios:
        raise MupError(f"{branch.path!r}: a branch of haiku_mup.residual without parameters, in a stack whose "
                       "depth at the base is unknown; call it where a branch with parameters is called")
    ratio = math.prod((family.ratio for family in pairing.families(branch.path)),
                      start=ratios[branch.site.stacks])
    if pair and not math.isclose(pair.depth, ratio):
        raise pair.error(f"the branch of haiku_mup.residual that makes it is called in {branch.path!r}, which "
                         "is in other blocks; make it in the block")
    return ratio
