"""Which axes of a parameter are its fan-in and which its fan-out: declared, by Haiku's layers, or guessed."""
import contextlib
import contextvars
import fnmatch
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import haiku as hk

from haiku_mup.errors import MupError, MupWarning

Axes: TypeAlias = int | Sequence[int]


class Fans(NamedTuple):
    """Axes of one layer's parameter, without any stack axis in front.

    Axes in neither are no widths: a convolution's kernel, the rows of a lookup table.

    Attributes:
      fan_in: axes that a product with activations sums over.
      fan_out: axes of the activations that come out.
      known: False where the layer is not one of Haiku's and nobody declared them: the axes are a guess.
      lookup: axes that may grow and count for nothing: rows of a table, experts.
    """

    fan_in: tuple[int, ...]
    fan_out: tuple[int, ...]
    known: bool = True
    lookup: tuple[int, ...] = ()


# Vectors however many axes they have; then matrices, with what their rows and columns are.
_VECTORS = (hk.LayerNorm, hk.RMSNorm, hk.BatchNorm, hk.GroupNorm, hk.InstanceNorm, hk.Bias)
_MATRICES = {
    hk.Linear: {"w"}, hk.ConvND: {"w"}, hk.GRU: {"w_i", "w_h"},     # (*kernel, in, out)
    hk.DepthwiseConv1D: {"w"}, hk.DepthwiseConv2D: {"w"}, hk.DepthwiseConv3D: {"w"},
}


def layer_fans(module: hk.Module | None, name: str, shape: tuple[int, ...]) -> Fans:
    """The fan axes of parameter `name` of `module`.

    A depthwise kernel is (*kernel, 1, out): its fan-in is the kernel alone, and never grows.

    Args:
      module: the hk.Module that owns it; None at top level.
      name: its last name: "w", "b", "scale", ….
      shape: its shape in one layer.

    >>> layer_fans(None, "w", (64, 128))
    Fans(fan_in=(0,), fan_out=(1,), known=False, lookup=())
    """
    rank = len(shape)
    matrix = Fans((rank - 2,), (rank - 1,))
    if rank < 2 or isinstance(module, _VECTORS):
        return Fans((), tuple(range(rank)), known=is_haikus(module))
    if isinstance(module, (*_MATRICES, hk.ConvNDTranspose)) and name == "b":
        return Fans((), tuple(range(rank)))             # (out, 1, 1) where channels come first
    if isinstance(module, hk.ConvNDTranspose) and name == "w":
        return Fans((rank - 1,), (rank - 2,))           # (*kernel, out, in)
    if isinstance(module, hk.Embed) and name == "embeddings":
        return Fans((), (1,), lookup=(0,))              # (vocab, d)
    if isinstance(module, hk.nets.VectorQuantizer) and name == "embeddings":
        return Fans((), (0,), lookup=(1,))              # (d, codes)
    if any(isinstance(module, layer) and name in names for layer, names in _MATRICES.items()):
        return matrix
    if rank > 2 and math.prod(shape) == max(shape):     # (1, c, 1, 1); but (d, 1) is a matrix
        return Fans((), tuple(range(rank)), known=False)
    return matrix._replace(known=False)


def is_haikus(module: hk.Module | None) -> bool:
    """Whether it is a layer of Haiku's or ours, or a subclass of one."""
    return any(cls is not hk.Module and cls.__module__.startswith(("haiku.", "haiku_mup."))
               for cls in type(module).__mro__)


# --- declared by the user ---

class _Spot:
    """A `fans` block that is open: whose parameters it is for, and whether those it met were."""

    def __init__(self, owner: str, fans: Fans):
        self.owner, self.fans = owner, fans
        self.met: set[bool] = set()


_spot: contextvars.ContextVar[_Spot | None] = contextvars.ContextVar("fans", default=None)


@contextlib.contextmanager
def fans(fan_in: Axes, fan_out: Axes, lookup: Axes = ()) -> Iterator[None]:
    """Says which axes are fan-in and fan-out, around the `hk.get_parameter` of a parameter of one's own.

    It holds for parameters that the present module makes itself, not for those of layers inside.
    `Mup(fans=...)` does the same from outside, and has the last word.

    Args:
      fan_in: axes that the product with activations sums over: a number or several, of one layer (without
        stack axes), negative ones counted from the end.
      fan_out: axes of the activations that come out.
      lookup: axes that may grow and count for nothing, such as the rows of a table.

    >>> def heads(x):                               # [..., d] -> [..., heads, key_size]
    ...     with haiku_mup.fans(fan_in=0, fan_out=(1, 2)):
    ...         init = hk.initializers.VarianceScaling(fan_in_axes=[0])
    ...         w = hk.get_parameter("w", (x.shape[-1], 4, 8), init=init)
    ...     return jnp.einsum("...d,dhk->...hk", x, w)
    """
    spot = _Spot(hk.experimental.current_name(), _as_fans(fan_in, fan_out, lookup))
    token = _spot.set(spot)
    try:
        yield
    finally:
        _spot.reset(token)
    if spot.met == {False}:
        warnings.warn(f"{spot.owner!r}: haiku_mup.fans(...) is around layers, and holds only for parameters "
                      "that the present module makes itself; put it around hk.get_parameter, or use "
                      "Mup(fans=...)", MupWarning, stacklevel=3)


def globs(declared: Mapping[str, Sequence[Axes]] | None) -> dict[str, Fans]:
    """`Mup(fans=...)`, checked: {glob: Fans}.

    Raises:
      MupError: a value that is not (fan_in_axes, fan_out_axes), with a third for lookups.
    """
    if not isinstance(declared or {}, Mapping):
        raise MupError(f"fans: {declared!r}: give {{glob over 'module/name': (fan_in_axes, fan_out_axes)}}")
    found = {}
    for glob, value in (declared or {}).items():
        if not isinstance(glob, str) or not isinstance(value, (tuple, list)) or len(value) not in (2, 3):
            raise MupError(f"fans: {glob!r}: {value!r}: give (fan_in_axes, fan_out_axes)")
        found[glob] = _as_fans(*value)
    return found


def _as_fans(fan_in: Axes, fan_out: Axes, lookup: Axes = ()) -> Fans:
    parts = [(x,) if isinstance(x, int) else x for x in (fan_in, fan_out, lookup)]
    if not all(isinstance(part, (tuple, list)) and all(type(axis) is int for axis in part) for part in parts):
        raise MupError(f"fans: {(fan_in, fan_out, lookup)}: axes are whole numbers, or tuples of such")
    return Fans(tuple(parts[0]), tuple(parts[1]), lookup=tuple(parts[2]))


def matching(name: str, patterns: Iterable[str]) -> list[str]:
    """The globs that match a name: `*` is any text, slashes too.

    >>> matching("net/~/logits", ["*/logits", "other/*"])
    ['*/logits']
    """
    return [pattern for pattern in patterns if fnmatch.fnmatchcase(name, pattern)]


def find(declared: Mapping[str, Fans], name: str, module: hk.Module | None, leaf: str,
         shape: tuple[int, ...]) -> Fans:
    """The fans of a parameter: those declared by a glob, else at the spot, else its layer's.

    Args:
      declared: {glob: Fans}.
      name: "module/name" in the parameter tree.
      module: the hk.Module that makes it, just now.
      leaf: the last part of its name.
      shape: its shape in one layer.

    Raises:
      MupError: two globs that differ; axes that the shape doesn't have, or that appear twice.
    """
    found = {declared[glob] for glob in matching(name, declared)}
    if len(found) > 1:
        raise MupError(f"{name!r}: several globs of Mup(fans=...) match it, and differ: "
                       f"{', '.join(map(repr, matching(name, declared)))}; let one match")
    spot = _spot.get()
    if spot:
        spot.met.add(spot.owner == hk.experimental.current_name())
        if not found and spot.owner == hk.experimental.current_name():
            found = {spot.fans}
    return _checked(found.pop(), name, shape) if found else layer_fans(module, leaf, shape)


def _checked(fans: Fans, name: str, shape: tuple[int, ...]) -> Fans:
    """The same axes, from 0 on."""
    rank, every = len(shape), [*fans.fan_in, *fans.fan_out, *fans.lookup]
    if any(not -rank <= axis < rank for axis in every) or len({a % rank for a in every}) < len(every):
        raise MupError(f"{name!r}: shape {shape}: declared fan-in {fans.fan_in} and fan-out {fans.fan_out} "
                       "name an axis that it doesn't have, or one twice; axes are those of one layer, "
                       "without stack axes")
    fan_in, fan_out, lookup = (tuple(a % rank for a in part) for part in (
        fans.fan_in, fans.fan_out, fans.lookup))
    return Fans(fan_in, fan_out, lookup=lookup)
