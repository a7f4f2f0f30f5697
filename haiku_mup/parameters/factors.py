"""Numbers that multiply a parameter: one for all of it, or one for each block of its rows."""
import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from haiku_mup.errors import MupError


class Rows(NamedTuple):
    """One number for each of a parameter's blocks of rows, such as those of an LSTM's [x, h].

    Attributes:
      values: the numbers.
      sizes: how many rows each is for.
      rank: how many axes one layer's parameter has; its rows are the first of them.
    """

    values: tuple[float, ...]
    sizes: tuple[int, ...]
    rank: int

    def array(self) -> np.ndarray:
        """[rows, 1, …, 1], which broadcasts to the parameter.

        >>> Rows((1.0, 0.5), (2, 1), rank=2).array().tolist()
        [[1.0], [1.0], [0.5]]
        """
        return np.repeat(self.values, self.sizes).reshape(-1, *(1,) * (self.rank - 1))


Factor: TypeAlias = float | Rows


def each(values: Iterable[float], sizes: Iterable[int], rank: int) -> Factor:
    """One number where the blocks agree, else `Rows`."""
    values = tuple(values)
    return values[0] if len(set(values)) == 1 else Rows(values, tuple(sizes), rank)


def mapped(function: Callable[[float], float], factor: Factor) -> Factor:
    """function(x) of each number.

    >>> mapped(lambda x: 1 / x, Rows((1.0, 0.5), (2, 1), rank=2)).values
    (1.0, 2.0)
    """
    if isinstance(factor, Rows):
        return factor._replace(values=tuple(map(function, factor.values)))
    return function(factor)


def plain(factor: Factor) -> float | np.ndarray:
    """What a user multiplies by: a Python float, or an array that broadcasts to the parameter."""
    return factor.array() if isinstance(factor, Rows) else factor


def scaled(x: Any, factor: Factor) -> Any:
    """`x` times a factor, in the floating dtype of `x`; `x` itself where the factor is 1.

    A stack may put axes in front of those of one layer.

    Raises:
      MupError: `Rows` of another number of rows than `x` has.
    """
    if not isinstance(factor, jax.core.Tracer) and factor == 1:     # a tuned output_mult may be traced
        return x
    y = x * (_fitted(factor, jnp.shape(x)) if isinstance(factor, Rows) else factor)
    inexact = hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.inexact)
    return y.astype(x.dtype) if inexact and y.dtype != x.dtype else y       # as for NumPy's bfloat16


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def steered(x: Any, factor: Factor) -> Any:
    """`x`, whose gradient is multiplied by a factor.

    >>> jax.grad(lambda x: steered(x, 3.0)**2)(1.0)
    Array(6., dtype=float32, weak_type=True)
    """
    return x


@steered.defjvp
def _steered(factor, primals, tangents):
    return primals[0], scaled(tangents[0], factor)


def _fitted(factor: Rows, shape: tuple[int, ...]) -> np.ndarray:
    """The factor's array, with an axis for each that the shape has in front."""
    rows, stacked = sum(factor.sizes), len(shape) - factor.rank
    if stacked < 0 or shape[stacked] != rows:
        raise MupError(f"a factor for {rows} rows of a parameter with {factor.rank} axes does not fit shape "
                       f"{shape}; stacks of layers must be in front")
    return np.expand_dims(factor.array(), tuple(range(stacked)))
