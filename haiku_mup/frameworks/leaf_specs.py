"""The facts about one parameter of a layer, whatever its stacks: its axes, and the std of its initializer."""
import dataclasses
import math
from collections.abc import Callable
from typing import TypeAlias

from haiku_mup.errors import MupError
from haiku_mup.parameters.fans import Fans
from haiku_mup.parameters.tree_layout import LeafLayout

Shape: TypeAlias = tuple[int, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LeafSpec:
    """A parameter of a layer, as its class says.

    Attributes:
      rank: how many axes it has in one layer; more of them, in front, are stacks of layers.
      fans: its fan axes, counted from 0.
      std: from its shape in one layer to the std of the layer's default initializer; None where it isn't drawn.
      key_size: the key size, if it makes the queries of an attention.
      makes_logits: as of a `LeafLayout`.

    >>> LeafSpec(rank=2, fans=Fans((0,), (1,))).layout("w", (3, 8, 4)).stacks
    1
    """

    rank: int
    fans: Fans
    std: Callable[[Shape], float] | None = None
    key_size: int | None = None
    makes_logits: bool = False

    def layout(self, name: str, shape: Shape) -> LeafLayout:
        """Returns what is known of the parameter of this name and shape.

        Raises:
          MupError: fewer axes than one layer's.
        """
        stacks = len(shape) - self.rank
        if stacks < 0:
            raise MupError(f"{name!r}: shape {shape} has fewer than the {self.rank} axes of its layer's; give "
                           "the parameters as the layer made them")
        std = self.std(shape[stacks:]) if self.std else None
        return LeafLayout(fans=self.fans, stacks=stacks, std=std, key_size=self.key_size,
                          makes_logits=self.makes_logits)


def vector(rank: int = 1, std: Callable[[Shape], float] | None = None,
           key_size: int | None = None) -> LeafSpec:
    """Returns the spec of a bias or a gain, all of whose axes are fan-out."""
    return LeafSpec(rank=rank, fans=Fans((), tuple(range(rank))), std=std, key_size=key_size)


def kernel(spatial: int = 0, transposed: bool = False, fan_in: int = -2,
           key_size: int | None = None) -> LeafSpec:
    """Returns the spec of Flax's kernels, [*kernel, in, out], whose std is one over the root of the fan-in.

    Args:
      spatial: how many axes are the kernel's.
      transposed: whether they are [*kernel, out, in], as in a transposed convolution with `transpose_kernel`.
      fan_in: the axis that the initializer takes for the fan-in, beside the kernel's.
      key_size: of queries.
    """
    axes = (spatial + 1, spatial) if transposed else (spatial, spatial + 1)
    return LeafSpec(rank=spatial + 2, fans=Fans((axes[0],), (axes[1],)), key_size=key_size,
                    std=lambda shape: root(math.prod(shape[:spatial]) * shape[fan_in]))


def table(std: Callable[[Shape], float]) -> LeafSpec:
    """Returns the spec of an embedding's table, [rows, width], of which rows are looked up."""
    return LeafSpec(rank=2, fans=Fans((), (1,), lookup=(0,)), std=std)


def general(batch: int, n_in: int, n_out: int, key_size: int | None = None) -> LeafSpec:
    """Returns the spec of a general linear layer's kernel, [*batch, *in, *out]; batch axes are stacks."""
    fans = Fans(tuple(range(n_in)), tuple(range(n_in, n_in + n_out)))
    return LeafSpec(rank=n_in + n_out, fans=fans, key_size=key_size,
                    std=None if batch else lambda shape: root(math.prod(shape[:n_in])))


def einsum(equation: str) -> LeafSpec:
    """Returns the spec of the second operand of an einsum, by its letters.

    >>> einsum("btd,dhk->bthk").fans
    Fans(fan_in=(0,), fan_out=(1, 2), known=True, lookup=())
    >>> einsum("ebd,edf->ebf").fans                     # experts
    Fans(fan_in=(1,), fan_out=(2,), known=True, lookup=(0,))
    """
    operands, _, result = equation.replace(" ", "").partition("->")
    inputs, _, weights = operands.partition(",")
    groups: dict[str, list[int]] = {"in": [], "out": [], "both": []}
    for axis, letter in enumerate(weights.replace("...", "")):
        kind = "in" if letter not in result else "both" if letter in inputs else "out"
        groups[kind].append(axis)
    fan_in, fan_out, lookup = (tuple(groups[kind]) for kind in ("in", "out", "both"))
    return LeafSpec(rank=len(weights), fans=Fans(fan_in, fan_out, lookup=lookup))


def root(n: float) -> float:
    """Returns 1 / √n; 1 for 0."""
    return 1 / math.sqrt(max(n, 1))
