"""The arguments of `plan`, checked and in one form."""
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from haiku_mup.errors import MupError
from haiku_mup.parameters.declarations import Declarations
from haiku_mup.parameters.fans import Axes
from haiku_mup.parameters.tree_layout import Adapter
from haiku_mup.plans.tree_records import TreeDeclarations

FansArgument: TypeAlias = Adapter | Mapping[str, Sequence[Axes]]


def parse(fans: FansArgument | Sequence[FansArgument] | None, stacks: Mapping[str, int] | None,
          attention: Mapping[str, Any] | None, **of_mup: Any) -> TreeDeclarations:
    """Returns the arguments of `plan` that say what parameters are.

    Args:
      fans: an adapter, {glob: axes}, or several of these.
      stacks, attention: as `plan` takes them.
      of_mup: those that a `Mup` has, too.

    Raises:
      MupError: one of another kind.
    """
    given = () if fans is None else fans if isinstance(fans, (list, tuple)) else (fans,)
    globs: dict[str, Any] = {}
    for each in given:
        if isinstance(each, Mapping):
            globs.update(each)
        elif not callable(each):
            raise MupError(f"fans: {each!r}: give {{glob over paths: (fan_in_axes, fan_out_axes)}}, an adapter "
                           "such as haiku_mup.equinox, or a list of these")
    adapters = tuple(each for each in given if callable(each))
    for glob, count in (stacks or {}).items():
        if type(count) is not int or count < 0:
            raise MupError(f"stacks: {glob!r}: {count!r}: give how many axes in front are stacks of layers")
    for glob, size in (attention or {}).items():
        pair = isinstance(size, (tuple, list)) and len(size) == 2 and all(type(n) is int for n in size)
        if type(size) is not int and not pair:
            raise MupError(f"attention: {glob!r}: {size!r}: give the axis that is the key size, or the key "
                           "sizes of base and target, (base's, target's)")
    return TreeDeclarations(of_mup=Declarations.parse(fans=globs, **of_mup), adapters=adapters,
                            stacks=dict(stacks or {}), attention=dict(attention or {}))
