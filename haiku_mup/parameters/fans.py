"""Fan-in and fan-out axes of a parameter, and how a user declares them."""
import contextlib
import contextvars
import fnmatch
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
    spot = _Spot(hk.experimental.current_name(), as_fans((fan_in, fan_out, lookup)))
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
        found[glob] = as_fans(value)
    return found


def as_fans(axes: Sequence[Axes]) -> Fans:
    """Returns (fan_in_axes, fan_out_axes), or these and lookup_axes, as `Fans`.

    Raises:
      MupError: another number of them; axes that are no whole numbers.

    >>> as_fans((0, (1, 2)))
    Fans(fan_in=(0,), fan_out=(1, 2), known=True, lookup=())
    """
    if not isinstance(axes, (tuple, list)) or len(axes) not in (2, 3):
        raise MupError(f"fans: {axes!r}: give (fan_in_axes, fan_out_axes)")
    parts = [(x,) if isinstance(x, int) else x for x in (*axes, ())[:3]]
    if not all(isinstance(part, (tuple, list)) and all(type(axis) is int for axis in part) for part in parts):
        raise MupError(f"fans: {tuple((*axes, ())[:3])}: axes are whole numbers, or tuples of such")
    return Fans(tuple(parts[0]), tuple(parts[1]), lookup=tuple(parts[2]))


def matching(name: str, patterns: Iterable[str]) -> list[str]:
    """The globs that match a name: `*` is any text, slashes too.

    >>> matching("net/~/logits", ["*/logits", "other/*"])
    ['*/logits']
    """
    return [pattern for pattern in patterns if fnmatch.fnmatchcase(name, pattern)]


def declared(globs: Mapping[str, Fans], name: str, shape: tuple[int, ...]) -> Fans | None:
    """Returns the fans that the user declares of a parameter: by a glob, else by an open `fans` block.

    Args:
      globs: {glob: Fans}.
      name: "module/name" in the parameter tree.
      shape: its shape in one layer.

    Returns:
      Its fans, with axes counted from 0; None where nobody declares them.

    Raises:
      MupError: two globs that differ; axes that the shape doesn't have, or that appear twice.
    """
    found = {globs[glob] for glob in matching(name, globs)}
    if len(found) > 1:
        raise MupError(f"{name!r}: several globs of Mup(fans=...) match it, and differ: "
                       f"{', '.join(map(repr, matching(name, globs)))}; let one match")
    spot = _spot.get()
    if spot:
        spot.met.add(spot.owner == hk.experimental.current_name())
        if not found and spot.owner == hk.experimental.current_name():
            found = {spot.fans}
    return normalized(found.pop(), name, shape) if found else None


def normalized(fans: Fans, name: str, shape: tuple[int, ...]) -> Fans:
    """Returns the fans with axes counted from 0.

    Raises:
      MupError: axes that the shape doesn't have, or that appear twice.
    """
    rank, every = len(shape), [*fans.fan_in, *fans.fan_out, *fans.lookup]
    if any(not -rank <= axis < rank for axis in every) or len({a % rank for a in every}) < len(every):
        raise MupError(f"{name!r}: shape {shape}: declared fan-in {fans.fan_in} and fan-out {fans.fan_out} "
                       "name an axis that it doesn't have, or one twice; axes are those of one layer, "
                       "without stack axes")
    fan_in, fan_out, lookup = (tuple(a % rank for a in part) for part in (
        fans.fan_in, fans.fan_out, fans.lookup))
    return Fans(fan_in, fan_out, lookup=lookup)
