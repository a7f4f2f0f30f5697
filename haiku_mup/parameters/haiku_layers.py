"""The table of layer types: one record for each Haiku class holds all that μP needs to know of it.

To add a layer type, write one `LayerType` and call `register`. The records of Haiku's layers are in
`HAIKU_LAYERS`; those of haiku_mup.layers are beside their classes. A class inherits the records of its bases,
and its own record adds to them.
"""
import dataclasses
import enum
import functools
import math
import weakref
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import haiku as hk
import jax.numpy as jnp

from haiku_mup.errors import MupError
from haiku_mup.parameters.fans import Axes, Fans, FiniteAxes, as_fans, normalized

Shape: TypeAlias = tuple[int, ...]
# (fan_in_axes, fan_out_axes) or (fan_in_axes, fan_out_axes, lookup_axes), or a function of the shape.
FansOf: TypeAlias = tuple[Axes, Axes] | tuple[Axes, Axes, Axes] | Callable[[Shape], Fans]


class LayerKind(enum.StrEnum):
    """Layers other than Haiku's plain ones: most multiply by more than their weight's forward factor.

    Attributes:
      READOUT: an output layer that multiplies its inputs itself.
      NAMED: an output layer that `Mup(readouts=...)` names.
      TIED: an embedding whose matrix is an output layer's weights, too.
      PROJECTION: a layer that multiplies its inputs itself, and is an output or hidden, as its shapes say.
      FLAX: a layer of Flax's, whose parameters Haiku doesn't draw.
    """

    READOUT = "readout"
    NAMED = "named"
    TIED = "tied"
    PROJECTION = "projection"
    FLAX = "flax"


READOUT, NAMED, TIED, PROJECTION, FLAX = LayerKind
SCALING_INPUTS = (READOUT, PROJECTION)          # kinds that multiply their inputs themselves
OUTPUTS = (READOUT, NAMED, PROJECTION)          # kinds that may be outputs


@dataclasses.dataclass(frozen=True)
class Weight:
    """A parameter that a layer's `__call__` uses once, so that activations can be multiplied in its place.

    The layer must compute a product of the parameter and the activations, to which it may add terms without the
    parameter, such as a bias. Multiplying activations saves an array of the parameter's size.

    Attributes:
      leaf: the parameter's own name.
      shape: its shape in one layer, from the module and the activations that its `__call__` is given.
      argument: which positional argument of `__call__` holds these activations. Where rows have factors of
        their own, the last axis of the activations must be the parameter's first.
      keyword: the name of that argument.
    """

    leaf: str
    shape: Callable[[Any, Any], Shape]
    argument: int = 0
    keyword: str = "inputs"


@dataclasses.dataclass(frozen=True)
class Attention:
    """Dot-product attention that projects its queries and keys by linear layers.

    Attributes:
      key_size: the size of a head's queries and keys, from the module.
      queries: the name, below the module's, of the layer that projects queries, with a parameter "w".
      keys: the name of the layer that projects keys.
      scales_logits: whether the layer itself multiplies its logits by μP's factor.
    """

    key_size: Callable[[Any], int]
    queries: str = "query"
    keys: str = "key"
    scales_logits: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class LayerType:
    """The facts about a subclass of hk.Module that μP needs.

    Attributes:
      cls: the class. Its subclasses inherit the record.
      fans: {parameter: (fan_in_axes, fan_out_axes)}, as in `Mup(fans=...)`, or a function from the shape to
        `Fans`. Axes are those of one layer; negative ones count from the end.
      other_fans: the same for parameters that `fans` does not name.
      kinds: {parameter: `READOUT`, `PROJECTION` or `TIED`}, for layers that multiply by μP's factor themselves.
      scaled_inputs: the weight of a layer that computes a product with its inputs; the inputs are multiplied in
        its place. The class must define `__call__` itself.
      scaled_outputs: the table of a layer that looks up its outputs; the outputs are multiplied in its place.
      row_sizes: {name below the module's: function}. ``function(module, *args, **kwargs)`` of a call returns
        the sizes of the blocks that make up the parameter's first axis, such as those of x and h in a matrix
        that multiplies [x, h].
      attention: for a layer that attends, its key size and the names of its projections.
      finite: {parameter: axes, as in `Mup(finite=...)`}: no widths, though their sizes may differ.

    >>> class Outer(hk.Module):                     # [..., d] -> [..., heads, size]
    ...     def __call__(self, x):
    ...         init = hk.initializers.VarianceScaling(fan_in_axes=(2,))
    ...         w = hk.get_parameter("w", (4, 8, x.shape[-1]), init=init)
    ...         return jnp.einsum("...d,hkd->...hk", x, w)
    >>> register(LayerType(Outer, fans={"w": (-1, (0, 1))}))
    >>> hk.testing.transform_and_run(lambda: fans_of(Outer(), "w", (4, 8, 16)))()
    Fans(fan_in=(2,), fan_out=(0, 1), known=True, lookup=())
    >>> unregister(Outer).fans
    {'w': (-1, (0, 1))}
    """

    cls: type[hk.Module]
    _: dataclasses.KW_ONLY
    fans: Mapping[str, FansOf] = dataclasses.field(default_factory=dict)
    other_fans: FansOf | None = None
    kinds: Mapping[str, LayerKind] = dataclasses.field(default_factory=dict)
    scaled_inputs: Weight | None = None
    scaled_outputs: Weight | None = None
    row_sizes: Mapping[str, Callable[..., tuple[int, ...]]] = dataclasses.field(default_factory=dict)
    attention: Attention | None = None
    finite: Mapping[str, FiniteAxes] = dataclasses.field(default_factory=dict)

    def extended(self, record: "LayerType") -> "LayerType":
        """Returns this record with the additions of a subclass's record."""
        found: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            inherited, added = getattr(self, field.name), getattr(record, field.name)
            found[field.name] = {**inherited, **added} if isinstance(added, Mapping) else (
                inherited if added is None else added)
        return LayerType(found.pop("cls"), **found)

    @functools.cached_property
    def encloses(self) -> bool:
        """Returns whether a call of the layer gives facts about the parameters made or read in it."""
        return bool(self.row_sizes or self.attention or self.scaled_outputs)


# --- the table ---

_records: dict[type, LayerType] = {}        # one a class
# Merged with the records of the bases. Weak, since a model may define its classes each time it is traced.
_merged: weakref.WeakKeyDictionary[type, LayerType] = weakref.WeakKeyDictionary()
_haikus: weakref.WeakKeyDictionary[type, bool] = weakref.WeakKeyDictionary()
_UNKNOWN = LayerType(hk.Module)


def register(record: LayerType) -> None:
    """Adds a record to the table.

    Args:
      record: the record of a class.

    Raises:
      MupError: the class has a record, or is not a subclass of hk.Module; its fans are neither axes nor a
        function.
    """
    cls = record.cls
    if not (isinstance(cls, type) and issubclass(cls, hk.Module)):
        raise MupError(f"LayerType: {cls!r} is not a subclass of hk.Module")
    if cls in _records:
        raise MupError(f"LayerType: {cls.__name__} has a record already; unregister it first")
    for fans in (*record.fans.values(), record.other_fans):
        if fans is not None and not callable(fans):
            as_fans(fans)
    _records[cls] = record
    _forget()


def unregister(cls: type[hk.Module]) -> LayerType:
    """Takes the record of just this class out of the table, and returns it.

    Raises:
      MupError: a class that has none.
    """
    if cls not in _records:
        raise MupError(f"LayerType: {cls!r} has no record")
    record = _records.pop(cls)
    _forget()
    return record


def _forget() -> None:
    """Clears what was derived from the records."""
    _merged.clear()
    _fans_of.cache_clear()


def record_of(cls: type) -> LayerType | None:
    """Returns the record of just this class, without those of its bases, if there is one."""
    return _records.get(cls)


def layer_type(module: hk.Module | None) -> LayerType:
    """Returns the record of a module's class, merged with those of its bases."""
    cls = type(module)
    found = _merged.get(cls)
    if found is None:       # once a class: a model makes thousands of parameters by a few of them
        records = [_records[base] for base in reversed(cls.__mro__) if base in _records]
        found = _merged[cls] = functools.reduce(LayerType.extended, records) if records else _UNKNOWN
    return found


def is_haikus(module: hk.Module | None) -> bool:
    """Returns whether the module's class is one of Haiku's or of this package, or a subclass of one."""
    cls = type(module)
    found = _haikus.get(cls)
    if found is None:
        found = _haikus[cls] = any(_is_haikus_class(base) for base in cls.__mro__ if base is not hk.Module)
    return found


def is_haikus_parameter(module: hk.Module | None, leaf: str) -> bool:
    """Returns whether a layer of Haiku's or of this package makes a parameter, and not a subclass of it.

    >>> class Core(hk.Linear):
    ...     pass
    >>> hk.testing.transform_and_run(lambda: [is_haikus_parameter(Core(3), leaf) for leaf in ("w", "out")])()
    [True, False]
    """
    return is_haikus(module) and any(
        _is_haikus_class(cls) and (leaf in record.fans or record.other_fans is not None)
        for cls in type(module).__mro__ if (record := _records.get(cls)))


def _is_haikus_class(cls: type) -> bool:
    return cls.__module__.startswith(("haiku.", "haiku_mup."))


def weight_leaves() -> set[str]:
    """Returns the names of the weights that layers multiply their inputs with."""
    return {record.scaled_inputs.leaf for record in _records.values() if record.scaled_inputs}


def weight_shape(module: hk.Module, inputs: Any) -> Shape:
    """Returns the shape of the weights that a layer has for these inputs; () for inputs that have no channels.

    >>> hk.testing.transform_and_run(lambda: weight_shape(hk.Linear(3), jnp.ones((5, 2))))()
    (2, 3)
    """
    weight = layer_type(module).scaled_inputs
    return weight.shape(module, inputs) if weight else ()


def fans_of(module: hk.Module | None, leaf: str, shape: Shape) -> Fans:
    """Returns the fan axes of a parameter as the table has them, or a guess.

    The guess: vectors, however many axes of size 1 they have, are fan-out; all else is (…, in, out).

    Args:
      module: the module that owns it; None at top level.
      leaf: its own name: "w", "b", "scale", ….
      shape: its shape in one layer.

    >>> fans_of(None, "w", (64, 128))
    Fans(fan_in=(0,), fan_out=(1,), known=False, lookup=())
    """
    return _fans_of(layer_type(module), leaf, shape)


@functools.lru_cache(maxsize=2**12)
def _fans_of(layer: LayerType, leaf: str, shape: Shape) -> Fans:
    rank, declared = len(shape), layer.fans.get(leaf, layer.other_fans)
    if callable(declared):
        return declared(shape)
    if declared is not None:
        fans = as_fans(declared)
        if rank > 1 or all(-rank <= axis < rank for axis in (*fans.fan_in, *fans.fan_out, *fans.lookup)):
            return normalized(fans, f"{layer.cls.__name__}/{leaf}", shape)
    if rank < 2:
        return vector(shape)._replace(known=False)
    if rank > 2 and math.prod(shape) == max(shape):         # (1, c, 1, 1); but (d, 1) is a matrix
        return vector(shape)._replace(known=False)
    return Fans((rank - 2,), (rank - 1,), known=False)


def vector(shape: Shape) -> Fans:
    """Returns the fans of a bias or a gain: every axis is fan-out.

    >>> vector((8, 1, 1))
    Fans(fan_in=(), fan_out=(0, 1, 2), known=True, lookup=())
    """
    return Fans((), tuple(range(len(shape))))


# --- Haiku's layers ---

def _linear_weight(module: hk.Linear, inputs: Any) -> Shape:
    shape = jnp.shape(inputs)
    return (shape[-1], module.output_size) if shape else ()


def _kernel(module: hk.ConvND, inputs: Any) -> Shape:
    channels = _channels(module, jnp.shape(inputs))
    each_group = tuple(n // module.feature_group_count for n in channels)
    return channels and (*module.kernel_shape, *each_group, module.output_channels)


def _transposed_kernel(module: hk.ConvNDTranspose, inputs: Any) -> Shape:
    channels = _channels(module, jnp.shape(inputs))
    return channels and (*module.kernel_shape, module.output_channels, *channels)


def _channels(module: Any, shape: Shape) -> Shape:
    """Returns (channels,) of a convolution's inputs, or ()."""
    if len(shape) < 2:
        return ()
    batched = len(shape) > module.num_spatial_dims + 1
    return (shape[module.channel_index if batched or module.channel_index < 0 else 0],)


def _lookup_table(module: hk.Embed, ids: Any) -> Shape:
    return int(module.vocab_size or 0), int(module.embed_dim or 0)


def _lstm_rows(module: hk.LSTM, inputs: Any, *args: Any, **kwargs: Any) -> tuple[int, int]:
    """Returns the sizes of x and h, whose concatenation an LSTM multiplies by its one matrix."""
    return inputs.shape[-1], module.hidden_size


_MATRIX: FansOf = (-2, -1)                                  # (*kernel, in, out)
_TRANSPOSED: FansOf = (-1, -2)                              # (*kernel, out, in)

HAIKU_LAYERS = (
    LayerType(hk.Linear, fans={"w": _MATRIX, "b": vector}, scaled_inputs=Weight("w", _linear_weight)),
    # A bias is (out, 1, 1) where channels come first. A depthwise kernel is (*kernel, 1, out): its fan-in is
    # the kernel alone, and never grows.
    LayerType(hk.ConvND, fans={"w": _MATRIX, "b": vector}, scaled_inputs=Weight("w", _kernel)),
    LayerType(hk.ConvNDTranspose, fans={"w": _TRANSPOSED, "b": vector},
              scaled_inputs=Weight("w", _transposed_kernel)),
    *(LayerType(cls, fans={"w": _MATRIX, "b": vector})
      for cls in (hk.DepthwiseConv1D, hk.DepthwiseConv2D, hk.DepthwiseConv3D)),
    LayerType(hk.GRU, fans={"w_i": _MATRIX, "w_h": _MATRIX, "b": vector}),
    LayerType(hk.LSTM, row_sizes={"linear/w": _lstm_rows}),
    LayerType(hk.Embed, fans={"embeddings": ((), 1, 0)}, scaled_outputs=Weight("embeddings", _lookup_table)),
    # (d, codes), whose codes are compared with activations; the second one's is state.
    *(LayerType(cls, fans={"embeddings": ((), 0, 1)})
      for cls in (hk.nets.VectorQuantizer, hk.nets.VectorQuantizerEMA)),
    LayerType(hk.MultiHeadAttention, attention=Attention(lambda module: module.key_size)),
    # Vectors, however many axes they have.
    *(LayerType(cls, other_fans=vector)
      for cls in (hk.LayerNorm, hk.RMSNorm, hk.BatchNorm, hk.GroupNorm, hk.InstanceNorm, hk.Bias)),
)
for _record in HAIKU_LAYERS:
    register(_record)
