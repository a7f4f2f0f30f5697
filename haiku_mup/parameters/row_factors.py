"""Factors that multiply a parameter: one number for all of it, or one for each block of its rows."""
import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from haiku_mup.errors import MupError


class RowFactors(NamedTuple):
    """One number for each block of a parameter's rows, such as the blocks for x and h in an LSTM's [x, h].

    Attributes:
      values: the numbers.
      sizes: the number of rows in each block.
      rank: the number of axes of one layer's parameter. Its rows are the first of them.
    """

    values: tuple[float, ...]
    sizes: tuple[int, ...]
    rank: int

    def array(self) -> np.ndarray:
        """Returns an array [rows, 1, …, 1], which broadcasts to the parameter.

        >>> RowFactors((1.0, 0.5), (2, 1), rank=2).array().tolist()
        [[1.0], [1.0], [0.5]]
        """
        return np.repeat(self.values, self.sizes).reshape(-1, *(1,) * (self.rank - 1))


Factor: TypeAlias = float | RowFactors


def from_blocks(values: Iterable[float], sizes: Iterable[int], rank: int) -> Factor:
    """Returns one number if the blocks agree, else `RowFactors`."""
    values = tuple(values)
    return values[0] if len(set(values)) == 1 else RowFactors(values, tuple(sizes), rank)


def map_factor(function: Callable[[float], float], factor: Factor) -> Factor:
    """Applies a function to each number of a factor.

    >>> map_factor(lambda x: 1 / x, RowFactors((1.0, 0.5), (2, 1), rank=2)).values
    (1.0, 2.0)
    """
    if isinstance(factor, RowFactors):
        return factor._replace(values=tuple(map(function, factor.values)))
    return function(factor)


def broadcastable(factor: Factor) -> float | np.ndarray:
    """Returns a Python float, or an array that broadcasts to the parameter."""
    return factor.array() if isinstance(factor, RowFactors) else factor


def scaled(x: Any, factor: Factor) -> Any:
    """Multiplies `x` by a factor in the floating dtype of `x`; returns `x` itself if the factor is 1.

    Stacks of layers may put axes in front of those of one layer.

    Raises:
      MupError: `RowFactors` with another number of rows than `x` has.
    """
    if not isinstance(factor, jax.core.Tracer) and factor == 1:     # a tuned output_mult may be traced
        return x
    inexact = hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.inexact)
    if inexact and isinstance(factor, float) and isinstance(x, jax.Array) and not x.weak_type:
        product: jax.Array = jax.lax.mul(x, np.asarray(factor, x.dtype))    # x * factor, and faster to trace
        return product
    y = x * (_expanded(factor, jnp.shape(x)) if isinstance(factor, RowFactors) else factor)
    return y.astype(x.dtype) if inexact and y.dtype != x.dtype else y       # as for NumPy's bfloat16


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def scale_gradient(x: Any, factor: Factor) -> Any:
    """Returns `x` in the forward pass; multiplies the gradient by `factor`.

    >>> jax.grad(lambda x: scale_gradient(x, 3.0)**2)(1.0)
    Array(6., dtype=float32, weak_type=True)
    """
    return x


@scale_gradient.defjvp
def _scale_tangent(factor, primals, tangents):
    # Linear in the tangent, so that its transpose, the gradient, is multiplied by the same factor.
    return primals[0], scaled(tangents[0], factor)


def _expanded(factor: RowFactors, shape: tuple[int, ...]) -> np.ndarray:
    """Returns the factor's array with an axis for each that the shape has in front of one layer's."""
    rows, stacked = sum(factor.sizes), len(shape) - factor.rank
    if stacked < 0 or shape[stacked] != rows:
        raise MupError(f"a factor for {rows} rows of a parameter with {factor.rank} axes does not fit shape "
                       f"{shape}; stacks of layers must be in front")
    return np.expand_dims(factor.array(), tuple(range(stacked)))
