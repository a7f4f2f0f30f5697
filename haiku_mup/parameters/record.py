"""One parameter, as it was captured at the base or at the target."""
import dataclasses
import enum
import types
from collections.abc import Hashable, Mapping
from typing import Any, NamedTuple

import jax

from haiku_mup.errors import MupError, SourceLine
from haiku_mup.parameters.axis_uses import Use
from haiku_mup.parameters.fans import Fans, as_declaration
from haiku_mup.parameters.haiku_layers import LayerKind
from haiku_mup.parameters.initializers import Moments
from haiku_mup.parameters.place import Place


class Compared(enum.StrEnum):
    """The model that is compared with the base, as errors call it."""

    DELTA = "delta"
    TARGET = "target"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """One parameter, as one context captured it.

    Attributes:
      name: its name in the parameter tree, "module/name".
      leaf: the last part of that name, which may contain slashes.
      local: its name without the prefix of hk.lift and layer_stack, which is what a layer knows.
      shape: its shape in one layer, without any stack axis.
      moments: std and mean of its initializer.
      fans: its fan axes.
      layer: `READOUT`, `NAMED`, `TIED` or `PROJECTION`; None for other layers.
      inexact: whether its entries are floating point or complex numbers.
      key_size: the key size of the attention whose queries it makes; None for other parameters.
      scaled_attention: whether that attention scales its logits in μP.
      row_sizes: sizes whose concatenation is its rows, as for an LSTM's [x, h]; empty for most parameters. One
        size, if it is itself such a block.
      lifted_by_user: whether a call of hk.lift lifts it, so that the user calls an apply with it.
      delta: on a base's record, the shape at the delta model, if there was one.
      delta_row_sizes: the row_sizes of the delta model.
      stacks: the numbers of layers of the layer_stacks around it, outermost first; without transparent ones,
        whose layers have names of their own.
      finite: axes that are no widths, though their sizes may differ between base and target.
      uses: how the traced program uses it, if its fans are a guess. They take no part in comparisons.
      place: the place where it was made; None for one that was loaded.
      line: the line of the model that made it; None for one that was loaded. It takes no part in comparisons.
      model: the model that it is of, as it is compared with the base. It takes no part in comparisons.
      of_tree: whether it is a leaf of a tree that `haiku_mup.plan` compares, and no parameter of Haiku's. Then
        its std may be unknown, and errors name arguments of `plan`.
      makes_logits: whether the model was seen to make logits with a table that it looks up. It takes no part in
        comparisons.
      adapters: the code of the adapters that `plan` was given, for errors; "" for none. It takes no part in
        comparisons.
    """

    name: str
    leaf: str
    local: str
    shape: tuple[int, ...]
    moments: Moments
    fans: Fans
    layer: LayerKind | None = None
    inexact: bool = True
    key_size: int | None = None
    scaled_attention: bool = False
    row_sizes: tuple[int, ...] = ()
    lifted_by_user: bool = False
    delta: tuple[int, ...] | None = None
    delta_row_sizes: tuple[int, ...] = ()
    stacks: tuple[int, ...] = ()
    finite: tuple[int, ...] = ()
    uses: frozenset[Use] = dataclasses.field(default=frozenset(), compare=False)
    place: Place | None = None
    line: SourceLine | None = dataclasses.field(default=None, compare=False)
    model: Compared = dataclasses.field(default=Compared.TARGET, compare=False)
    of_tree: bool = False
    makes_logits: bool = dataclasses.field(default=False, compare=False)
    adapters: str = dataclasses.field(default="", compare=False)

    @property
    def call(self) -> str:
        """Returns the function whose arguments declare what it is."""
        return "haiku_mup.plan" if self.of_tree else "Mup"

    def declaration(self, fans: Fans) -> str:
        """Returns the code that declares its fan axes to be these."""
        return as_declaration(self.name, fans, self.call, self.adapters)

    @property
    def content(self) -> Hashable:
        """Returns what the comparison with another record depends on: equal contents give equal factors."""
        return (self.shape, self.moments, self.fans, self.layer, self.inexact, self.key_size,
                self.scaled_attention, self.row_sizes, self.delta, self.delta_row_sizes, self.finite)

    @property
    def is_guess(self) -> bool:
        """Returns whether nothing but a guess tells its fan axes and its kind."""
        return not self.fans.known and self.layer is None and bool(self.shape)

    @property
    def is_weight(self) -> bool:
        """Returns whether it is the matrix of a layer that multiplies by it once, such as hk.Linear."""
        return (len(self.shape) == 2 and self.layer is None and not self.row_sizes and self.fans.known
                and bool(self.fans.fan_in and self.fans.fan_out))

    @property
    def module(self) -> str:
        """Returns the name of the module that owns it, without the prefix of a lift."""
        return self.local[:-len(self.leaf) - 1]

    @property
    def in_tree(self) -> str:
        """Returns the name of that module in the parameter tree."""
        return self.name[:-len(self.leaf) - 1]

    def error(self, base: "Record | None", text: str) -> MupError:
        """Returns the error about this parameter, of a target or a delta, and the base's."""
        return MupError.about(self.name, base and base.shape, self.shape, text, self.line, model=self.model)


class CapturedBase(NamedTuple):
    """The model that others are compared with.

    Attributes:
      records: of its parameters, by name, with the shapes of a delta where there was one.
      states: of state that is drawn, by name.
      branch_calls: how often one init calls haiku_mup.residual, by the path of the module that does.
    """

    records: Mapping[str, Record]
    states: Mapping[str, Record] = types.MappingProxyType({})
    branch_calls: Mapping[str, int] = types.MappingProxyType({})


def get_shapes(params: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, tuple[int, ...]]]:
    """Returns the shapes of a tree of arrays.

    Args:
      params: a tree of arrays, or of other values with a shape, as `jax.eval_shape` returns it.

    Returns:
      The same tree, with a tuple of ints for each array.

    >>> params = {"linear": {"w": jax.ShapeDtypeStruct((2, 3), "float32"), "b": jnp.zeros(3)}}
    >>> haiku_mup.get_shapes(params)
    {'linear': {'b': (3,), 'w': (2, 3)}}
    """
    shapes: dict[str, dict[str, tuple[int, ...]]] = jax.tree.map(lambda p: tuple(p.shape), params)
    return shapes
