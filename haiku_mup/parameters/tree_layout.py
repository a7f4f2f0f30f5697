"""The facts about a tree's parameters that its framework's layers tell: the value of an adapter."""
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

from haiku_mup.parameters.fans import Fans
from haiku_mup.parameters.initializers import Moments


@dataclasses.dataclass(frozen=True, kw_only=True)
class LeafLayout:
    """The facts about one parameter.

    Attributes:
      fans: its fan axes in one layer, counted from 0.
      stacks: how many axes in front are those of stacks of layers, which are never widths.
      key_size: the key size of the attention whose queries it makes; None for other parameters.
      std: the std that its layer draws it with by default, for this shape; None where that is unknown. It is
        used where the parameter's own entries agree.
      row_sizes: sizes whose concatenation is its rows; empty for most.
      makes_logits: whether the model was seen to make logits with a table that it looks up.
    """

    fans: Fans
    stacks: int = 0
    key_size: int | None = None
    std: float | None = None
    row_sizes: tuple[int, ...] = ()
    makes_logits: bool = False

    def exact(self, measured: Moments) -> Moments:
        """Returns the moments with the default std, if the measured one agrees with it."""
        if self.std is None or not measured.drawn:
            return measured
        if not abs(measured.std - self.std) <= 5 * measured.error * self.std:
            return measured
        return known_std(measured, self.std)


def known_std(measured: Moments, std: float) -> Moments:
    """Returns measured moments with a std that is known, and with no mean where it may be zero."""
    return measured._replace(std=std, error=0.0, mean=0.0 if measured.centred else measured.mean)


class TreeLayout(NamedTuple):
    """A tree's parameters, and what their layers tell of them.

    Attributes:
      params: the tree, with None in place of what is no parameter.
      leaves: the facts about each parameter of a known layer, by name.
    """

    params: Any
    leaves: Mapping[str, LeafLayout]


Adapter: TypeAlias = Callable[[Any], TreeLayout]        # from a user's tree or module
