"""The stds of a tree's parameters: measured on its arrays, or declared."""
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import haiku as hk
import jax
import numpy as np

from haiku_mup.errors import MupError
from haiku_mup.parameters.fans import Fans
from haiku_mup.parameters.finite_sizes import fan_sizes
from haiku_mup.parameters.globs import matching
from haiku_mup.parameters.initializers import Moments, moments
from haiku_mup.parameters.tree_layout import known_std

UNKNOWN = Moments(math.nan, 0.0, drawn=True)
# The squares of stds as functions of fan-in and fan-out, each but for a constant.
_SIZES: dict[str, Callable[[float, float], float]] = {
    "constant": lambda fan_in, fan_out: 1.0,
    "fan_in": lambda fan_in, fan_out: fan_in,
    "fan_out": lambda fan_in, fan_out: fan_out,
    "fan_avg": lambda fan_in, fan_out: (fan_in + fan_out) / 2,
}
# A number, a word of `_SIZES`, or an initializer (key, shape, dtype) -> array.
Std: TypeAlias = float | str | Callable[..., Any]


def parse_stds(given: Mapping[str, Std] | None) -> dict[str, Std]:
    """Returns the value of `plan(stds=...)`, checked.

    Raises:
      MupError: anything but stds by globs.
    """
    if not isinstance(given or {}, Mapping):
        raise MupError(f"stds: {given!r}: give {{glob over paths: std}}")
    for glob, std in (given or {}).items():
        number = isinstance(std, (int, float)) and not isinstance(std, bool) and 0 <= std < math.inf
        if not (number or callable(std) or isinstance(std, str) and std in _SIZES):
            raise MupError(f"stds: {glob!r}: {std!r}: give a number, one of {', '.join(map(repr, _SIZES))}, or "
                           "an initializer, as those of jax.nn.initializers")
    return dict(given or {})


def declared_std(stds: Mapping[str, Std], name: str) -> Std | None:
    """Returns what is declared of a parameter's std; None for nothing.

    Raises:
      MupError: two globs match it.
    """
    found = matching(name, stds)
    if len(found) > 1:
        raise MupError(f"stds: {name!r}: several globs match it: {', '.join(map(repr, found))}; let one match")
    return stds[found[0]] if found else None


def measured_moments(x: Any) -> Moments:
    """Returns the moments of a parameter's n entries: its std is known up to the share 1 / √(2n).

    An array of one value is none that is drawn. Of shapes and of traced arrays nothing is known.

    >>> measured_moments(np.array([1.0, -1.0, 1.0, -1.0]))
    Moments(std=1.0, mean=0.0, drawn=True, error=0.35355339059327373)
    >>> measured_moments(np.zeros(4))
    Moments(std=0.0, mean=0.0, drawn=False, error=0.0)
    """
    if isinstance(x, (jax.ShapeDtypeStruct, jax.core.Tracer)) or not hasattr(x, "__array__"):
        return UNKNOWN
    if isinstance(x, jax.Array) and not x.is_fully_addressable:     # sharded over processes
        import jax.numpy as jnp

        low, high, mean, std = (float(f(x.astype(np.float32))) for f in (jnp.min, jnp.max, jnp.mean, jnp.std))
    else:
        entries = np.asarray(x)
        entries = entries.astype(np.complex128 if np.iscomplexobj(entries) else np.float64)
        if not entries.size:
            return Moments(0.0, 0.0, drawn=False)
        same = bool((entries == entries.flat[0]).all())
        low, high = (0.0, 0.0) if same else (0.0, 1.0)
        mean, std = float(abs(entries.mean())), float(entries.std())
    if low == high:
        return Moments(0.0, abs(mean), drawn=False)
    return Moments(std, abs(mean), drawn=True, error=1 / math.sqrt(2 * x.size))


def declared_moments(std: Std, fans: Fans, base: tuple[Any, Moments], target: tuple[Any, Moments],
                     ) -> tuple[Moments, Moments]:
    """Returns the moments of a parameter at base and target, of which its std is declared.

    Args:
      std: what is declared.
      fans: its fan axes.
      base, target: its shape and dtype in one layer, and the moments of its entries. Of a word, such as
        "fan_in", the base's std is the one that is measured there, and 1 / √fan_in where nothing is.
    """
    (b, was), (t, now) = base, target
    if not isinstance(std, str):
        one = (lambda x: _of_initializer(std, x)) if callable(std) else (
            lambda x: Moments(float(std), 0.0, drawn=std > 0))
        return one(b), one(t)
    at_base, at_target = (_SIZES[std](*fan_sizes(fans, x.shape))**-0.5 for x in (b, t))
    scale = at_base if math.isnan(was.std) else was.std
    return known_std(was, scale), known_std(now, scale * (at_target / at_base))


def _of_initializer(init: Callable[..., Any], x: Any) -> Moments:
    """Returns the moments of what an initializer (key, shape, dtype) draws for a shape."""
    return moments(lambda shape, dtype: init(hk.next_rng_key(), shape, dtype), x.shape, x.dtype)
