"""Fan-in and fan-out axes of a parameter, and the ways in which a user declares them."""
import contextlib
import contextvars
import enum
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import haiku as hk

from haiku_mup.errors import MupError, MupWarning
from haiku_mup.parameters.globs import matching

Axes: TypeAlias = int | Sequence[int]


class Fans(NamedTuple):
    """Axes of one layer's parameter, without any stack axis in front.

    Axes in none of them are not widths, such as those of a convolution's kernel.

    Attributes:
      fan_in: axes that a product with activations sums over.
      fan_out: axes of the activations that come out.
      known: False for a guess, where nobody declared the axes and the table of layer types does not have them.
      lookup: axes that may grow and count for nothing, such as the rows of a lookup table, or experts.
    """

    fan_in: tuple[int, ...]
    fan_out: tuple[int, ...]
    known: bool = True
    lookup: tuple[int, ...] = ()


class FanWord(enum.StrEnum):
    """A parameter's axes by what they are, in `Mup(finite=...)`.

    Attributes:
      IN: its fan-in axes.
      OUT: its fan-out axes.
    """

    IN = "in"
    OUT = "out"


FiniteAxes: TypeAlias = FanWord | tuple[int, ...]


class _OpenBlock:
    """A `with fans(...)` that is open.

    Attributes:
      module: the module in which it was opened; it holds for this one's parameters alone.
      fans: what it declares.
      met: for each parameter made inside, whether that module made it.
    """

    def __init__(self, module: str, fans: Fans):
        self.module, self.fans = module, fans
        self.met: set[bool] = set()


_open_block: contextvars.ContextVar[_OpenBlock | None] = contextvars.ContextVar("fans", default=None)


@contextlib.contextmanager
def fans(fan_in: Axes, fan_out: Axes, lookup: Axes = ()) -> Iterator[None]:
    """Declares which axes are fan-in and fan-out, around the `hk.get_parameter` of a parameter of your own.

    It holds for parameters that the current module makes itself, not for those of layers inside.
    `Mup(fans=...)` does the same from outside, and takes precedence.

    Args:
      fan_in: axes that the product with activations sums over: a number or several, of one layer (without
        stack axes); negative ones count from the end.
      fan_out: axes of the activations that come out.
      lookup: axes that may grow and count for nothing, such as the rows of a table.

    Warns:
      MupWarning: as it ends, if layers inside made parameters, and the current module made none.

    >>> def heads(x):                               # [..., d] -> [..., heads, key_size]
    ...     with haiku_mup.fans(fan_in=0, fan_out=(1, 2)):
    ...         init = hk.initializers.VarianceScaling(fan_in_axes=[0])
    ...         w = hk.get_parameter("w", (x.shape[-1], 4, 8), init=init)
    ...     return jnp.einsum("...d,dhk->...hk", x, w)
    """
    block = _OpenBlock(hk.experimental.current_name(), as_fans((fan_in, fan_out, lookup)))
    token = _open_block.set(block)
    try:
        yield
    finally:
        _open_block.reset(token)
    if block.met == {False}:
        warnings.warn(f"{block.module!r}: haiku_mup.fans(...) is around layers, but holds only for parameters "
                      "that the current module makes itself; put it around hk.get_parameter, or use "
                      "Mup(fans=...)", MupWarning, stacklevel=3)


def parse_fans(given: Mapping[str, Sequence[Axes]] | None) -> dict[str, Fans]:
    """Returns the value of `Mup(fans=...)`, checked, as {glob: Fans}.

    Raises:
      MupError: a value that is not (fan_in_axes, fan_out_axes), with a third item for lookups.
    """
    if not isinstance(given or {}, Mapping):
        raise MupError(f"fans: {given!r}: give {{glob over 'module/name': (fan_in_axes, fan_out_axes)}}")
    found = {}
    for glob, value in (given or {}).items():
        if not isinstance(glob, str) or not isinstance(value, (tuple, list)) or len(value) not in (2, 3):
            raise MupError(f"fans: {glob!r}: {value!r}: give (fan_in_axes, fan_out_axes)")
        found[glob] = as_fans(value)
    return found


def as_fans(axes: Sequence[Axes]) -> Fans:
    """Returns (fan_in_axes, fan_out_axes), or these and lookup_axes, as `Fans`.

    Raises:
      MupError: another number of items; axes that are no whole numbers.

    >>> as_fans((0, (1, 2)))
    Fans(fan_in=(0,), fan_out=(1, 2), known=True, lookup=())
    """
    if not isinstance(axes, (tuple, list)) or len(axes) not in (2, 3):
        raise MupError(f"fans: {axes!r}: give (fan_in_axes, fan_out_axes)")
    items = (*axes, ())[:3]
    groups = [(x,) if isinstance(x, int) else x for x in items]
    if not all(isinstance(group, (tuple, list)) and all(type(axis) is int for axis in group)
               for group in groups):
        raise MupError(f"fans: {items}: axes are whole numbers, or tuples of them")
    fan_in, fan_out, lookup = map(tuple, groups)
    return Fans(fan_in, fan_out, lookup=lookup)


def as_declaration(name: str, fans: Fans, call: str = "Mup", beside: str = "") -> str:
    """Returns the code that declares a parameter's fans, as arguments of `Mup` or of `haiku_mup.plan`.

    Args:
      name: the parameter's name.
      fans: its fan axes.
      call: the function that takes them.
      beside: the code of the adapters that the user gives it; "" for none.

    >>> as_declaration("own/w", Fans((1,), (0, 2), lookup=(3,)))
    "Mup(fans={'own/w': (1, (0, 2), 3)})"
    >>> as_declaration("mix", Fans((1,), (0,)), "haiku_mup.plan", "haiku_mup.equinox")
    "haiku_mup.plan(fans=[haiku_mup.equinox, {'mix': (1, 0)}])"
    """
    groups = [fans.fan_in, fans.fan_out, *[fans.lookup] * bool(fans.lookup)]
    axes = ", ".join(str(group[0]) if len(group) == 1 else str(group) for group in groups)
    globs = f"{{{name!r}: ({axes})}}"
    return f"{call}(fans=[{beside}, {globs}])" if beside else f"{call}(fans={globs})"


def parse_finite(given: Mapping[str, Axes | str] | None) -> dict[str, FiniteAxes]:
    """Returns the value of `Mup(finite=...)`, checked.

    Raises:
      MupError: a value that is neither "in" nor "out" nor axes.

    >>> parse_finite({"linear/w": "in", "table": 0})
    {'linear/w': <FanWord.IN: 'in'>, 'table': (0,)}
    """
    if not isinstance(given or {}, Mapping):
        raise MupError(f"finite: {given!r}: give {{glob over 'module/name': \"in\", \"out\" or axes}}")
    found: dict[str, FiniteAxes] = {}
    for glob, value in (given or {}).items():
        axes = (value,) if type(value) is int else value
        if isinstance(glob, str) and value in tuple(FanWord):
            found[glob] = FanWord(value)
        elif isinstance(glob, str) and isinstance(axes, (tuple, list)) and all(type(a) is int for a in axes):
            found[glob] = tuple(axes)
        else:
            raise MupError(f"finite: {glob!r}: {value!r}: give \"in\", \"out\", or axes: whole numbers")
    return found


def finite_axes(declared: Sequence[FiniteAxes], fans: Fans, name: str,
                shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the axes of a parameter that are not widths, whatever their sizes, counted from 0.

    Args:
      declared: what is said of it.
      fans: its fan axes.
      name: "module/name", for errors.
      shape: its shape in one layer.

    Raises:
      MupError: axes that the shape doesn't have.
    """
    if not declared:
        return ()
    rank, found = len(shape), set[int]()
    for axes in declared:
        if isinstance(axes, FanWord):
            axes = fans.fan_in if axes == FanWord.IN else fans.fan_out
        if any(not -rank <= axis < rank for axis in axes):
            raise MupError(f"{name!r}: shape {shape}: finite axes {axes} name one that it doesn't have; count "
                           "the axes of one layer, without stack axes")
        found |= {axis % rank for axis in axes}
    return tuple(sorted(found))


def declared_fans(globs: Mapping[str, Fans], name: str, shape: tuple[int, ...],
                  call: str = "Mup") -> Fans | None:
    """Returns the fans that the user declares for a parameter: by a glob, else by an open `fans` block.

    Args:
      globs: {glob: Fans}.
      name: "module/name" in the parameter tree.
      shape: its shape in one layer.
      call: the function that the globs were given to.

    Returns:
      Its fans, with axes counted from 0; None if nobody declares them.

    Raises:
      MupError: two globs that differ; axes that the shape doesn't have, or that appear twice.
    """
    found = {globs[glob] for glob in matching(name, globs)}
    if len(found) > 1:
        raise MupError(f"{name!r}: several globs of {call}(fans=...) match it, and differ: "
                       f"{', '.join(map(repr, matching(name, globs)))}; let one match")
    block = _open_block.get()
    if block:
        own = block.module == hk.experimental.current_name()
        block.met.add(own)
        if own and not found:
            found = {block.fans}
    return normalized(found.pop(), name, shape) if found else None


def normalized(fans: Fans, name: str, shape: tuple[int, ...]) -> Fans:
    """Returns the fans with axes counted from 0.

    Raises:
      MupError: axes that the shape doesn't have, or that appear twice.
    """
    rank, axes = len(shape), [*fans.fan_in, *fans.fan_out, *fans.lookup]
    if any(not -rank <= axis < rank for axis in axes) or len({a % rank for a in axes}) < len(axes):
        raise MupError(f"{name!r}: shape {shape}: declared fan-in {fans.fan_in} and fan-out {fans.fan_out} "
                       "name an axis that it doesn't have, or one twice; count the axes of one layer, "
                       "without stack axes")
    fan_in, fan_out, lookup = (tuple(axis % rank for axis in group)
                               for group in (fans.fan_in, fans.fan_out, fans.lookup))
    return Fans(fan_in, fan_out, lookup=lookup)
