"""The mean and standard deviation of an initializer, read off its attributes or measured on draws."""
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from haiku_mup.parameters.traced_numbers import traced_value

Initializer = Callable[[Sequence[int], Any], jax.Array]
ENTRIES = 2**16     # drawn to measure an unknown initializer: its std is then known to 0.3 %


class Moments(NamedTuple):
    """Moments of the entries that an initializer returns for one shape.

    Attributes:
      std: standard deviation of an entry (0 for a constant); nan if it depends on what init is given.
      mean: absolute value of an entry's mean.
      drawn: False if two keys give the same array: zeros, constants, Identity, a given array.
      error: relative standard error of `std`; 0 if it is known exactly.
    """

    std: float
    mean: float
    drawn: bool
    error: float = 0.0

    @property
    def centred(self) -> bool:
        """Returns whether the mean is zero, as far as draws can tell."""
        if not self.drawn:      # a given array that is not constant may have any mean
            return self.std > 0 or self.mean == 0 or math.isnan(self.std)
        noise = 8 * self.error * math.sqrt(2)       # error = 1 / √(2 n): 8 / √n
        return not abs(self.mean) > max(noise, 1e-6) * self.std


def same_std(was: Moments, now: Moments) -> bool:
    """Returns whether two stds of one shape may be equal: within five standard errors, or both traced."""
    if math.isnan(was.std) and math.isnan(now.std):
        return True
    return was.drawn and abs(was.std - now.std) <= 5 * (was.error + now.error) * now.std


def moments(init: Initializer, shape: Sequence[int], dtype: Any) -> Moments:
    """Returns the moments of what `init(shape, dtype)` returns.

    Haiku's own initializers, `jnp.zeros` and `jnp.ones` are read off their attributes, and nothing is
    allocated. Any other callable is drawn, one array at a time, until there are `ENTRIES` entries.

    >>> moments(hk.initializers.RandomNormal(0.02), (8, 4), jnp.float32)
    Moments(std=0.02, mean=0.0, drawn=True, error=0.0)
    """
    return known_moments(init, shape) or _measure(init, tuple(shape), dtype)


def known_moments(init: Initializer, shape: Sequence[int]) -> Moments | None:
    """Returns the moments that attributes tell; None for a callable that has to be drawn."""
    if init is jnp.zeros or init is jnp.ones:
        return Moments(0.0, float(init is jnp.ones), drawn=False)
    function, attributes = _KNOWN.get(type(init), (None, ()))
    settings = [_setting(getattr(init, a)) for a in attributes]
    if function is None or any(s is _ARRAY for s in settings):
        return None
    std, mean, drawn, _ = function(tuple(shape), *settings)
    return Moments(float(std), float(mean), drawn)


_ARRAY = object()


def _setting(x: Any) -> Any:
    """Returns an attribute as a number if it is a scalar, nan if unknown, and as `_ARRAY` if it is an array."""
    if isinstance(x, jax.core.Tracer):
        known = traced_value(x)
        if known is None:
            return math.nan if x.size == 1 else _ARRAY
        x = known
    if isinstance(x, (np.ndarray, np.generic, jax.Array)):
        return x.item() if x.size == 1 else _ARRAY
    return x


# --- any other callable: draws, with the same keys every time, freed as they come ---

@dataclasses.dataclass(frozen=True, kw_only=True)
class _Sample:
    """Statistics of a draw, which is then free to go: sums in double precision, and the first entries."""

    size: int
    total: complex
    square: float
    low: float
    high: float
    head: np.ndarray


def _measure(init: Initializer, shape: tuple[int, ...], dtype: Any) -> Moments:
    """Returns the moments of draws, concrete ones even inside a trace."""
    size = math.prod(shape)
    with jax.ensure_compile_time_eval():
        # Two draws tell a constant from a random array, but for arrays so small that two may agree by chance.
        few = [_sample(_draw(init, seed, shape, dtype)) for seed in range(2 if size > 2**5 else 2**5)]
        if any(isinstance(x, jax.core.Tracer) for x in few):        # from outside of this block
            return Moments(math.nan, math.nan, drawn=any(x is not few[0] for x in few))
        if any(not np.array_equal(x.head, few[0].head) for x in few):
            count = -(-ENTRIES // size) - len(few)
            return _pooled([*few, *map(_sample, _draws(init, len(few), count, shape, dtype))])
    return _moments_of_array(few[0])


def _moments_of_array(x: _Sample) -> Moments:
    """Returns the moments of an array that is the same for every key."""
    if x.size == 0 or x.low == x.high:
        return Moments(0.0, float(abs(x.total)) / max(1, x.size), drawn=False)
    mean = float(abs(x.total / x.size))
    return Moments(math.sqrt(max(0.0, x.square / x.size - mean**2)), mean, drawn=False)


def _sample(x: Any) -> Any:
    """Returns the `_Sample` of a draw; a tracer as it is."""
    if isinstance(x, jax.core.Tracer):
        return x
    x = np.asarray(x).ravel()
    total, square, low, high = 0.0, 0.0, math.inf, -math.inf
    for block in np.split(x, range(2**20, x.size, 2**20)):      # double precision of all at once could be large
        block = block.astype(np.complex128 if np.iscomplexobj(x) else np.float64)
        total, square = total + block.sum(), square + (abs(block)**2).sum()
        low, high = min(low, abs(block).min(initial=low)), max(high, abs(block).max(initial=high))
    return _Sample(size=x.size, total=total, square=square, low=low, high=high, head=x[:ENTRIES].copy())


def _pooled(samples: Sequence[_Sample]) -> Moments:
    """Returns the moments of several draws together."""
    size = sum(s.size for s in samples)
    mean = float(abs(sum(s.total for s in samples))) / size
    std = math.sqrt(max(0.0, sum(s.square for s in samples) / size - mean**2))
    return Moments(std, mean, drawn=True, error=1 / math.sqrt(2 * size))


def _draw(init: Initializer, seed: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    x = hk.transform(lambda: init(shape, dtype)).apply({}, jax.random.PRNGKey(seed))
    return _concrete(x)


def _concrete(x: Any) -> Any:
    """Returns a draw as an array, if traced numbers in it are known; else the tracer."""
    if not isinstance(x, jax.core.Tracer):
        return jnp.asarray(x)
    known = traced_value(x)
    return x if known is None else known


def _draws(init: Initializer, first: int, count: int, shape: tuple[int, ...], dtype: Any) -> Iterator[Any]:
    """Yields more draws: many small ones in one vmap, unless the initializer can't be vmapped."""
    if count > 2**9:
        seeds = np.arange(first, first + 2**math.ceil(math.log2(count)))    # few sizes: few compilations
        try:
            many = _concrete(jax.vmap(lambda seed: _draw(init, seed, shape, dtype))(seeds))
        except Warning:         # that was made an error
            raise
        except Exception:       # an initializer may use its key in a way that vmap cannot follow
            many = np.zeros(2)
        if not np.array_equal(many[0], many[1]):
            yield many
            return
    for seed in range(first, first + min(count, 2**10)):
        yield _draw(init, seed, shape, dtype)


# --- Haiku's initializers: one function each, from the shape and the attributes to the moments ---

def _constant(shape, value):
    return Moments(0.0, abs(value), drawn=False)


def _identity(shape, gain):
    rows, columns = shape[-2:] if len(shape) > 1 else (1, 1)
    mean = gain / max(rows, columns)
    return Moments(math.sqrt(gain * mean - mean**2), mean, drawn=False)


def _normal(shape, stddev, mean):
    return Moments(abs(stddev), abs(mean), drawn=True)


def _truncated_normal(shape, stddev, mean, lower, upper):
    std, shift = _truncated(lower, upper)
    return Moments(abs(stddev) * std, abs(mean + stddev * shift), drawn=True)


@functools.lru_cache(maxsize=2**6)      # a model has the same bounds for all its weights
def _truncated(lower: float, upper: float) -> tuple[float, float]:
    """Returns the std and the mean of a standard normal cut to [lower, upper]."""
    def phi(z):                         # φ, its density; Φ, its distribution, is (1 + erf(z / √2)) / 2
        return math.exp(-z * z / 2) / math.sqrt(2 * math.pi)

    inside = (math.erf(upper / math.sqrt(2)) - math.erf(lower / math.sqrt(2))) / 2
    shift = (phi(lower) - phi(upper)) / inside
    tails = sum(sign * z * phi(z) for sign, z in ((1, lower), (-1, upper)) if math.isfinite(z))
    return math.sqrt(1 + tails / inside - shift**2), shift


def _uniform(shape, minval, maxval):
    return Moments(abs(maxval - minval) / math.sqrt(12), abs(maxval + minval) / 2, drawn=True)


def _variance_scaling(shape, scale, mode, fan_in_axes):
    fan_in, fan_out = _fans(shape, fan_in_axes)
    n = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[mode]
    return Moments(math.sqrt(scale / max(1.0, n)), 0.0, drawn=True)


def _fans(shape, fan_in_axes):
    """Returns fan-in and fan-out as VarianceScaling counts them: axes that are neither are a kernel."""
    if len(shape) < 2:
        return (*shape, 1)[:1] * 2
    if len(shape) > 2 and fan_in_axes is not None:
        return (math.prod(shape[i] for i in fan_in_axes),
                math.prod(n for i, n in enumerate(shape) if i not in fan_in_axes))
    kernel = math.prod(shape[:-2])
    return shape[-2] * kernel, shape[-1] * kernel


def _uniform_scaling(shape, scale):
    return Moments(abs(scale) / math.sqrt(math.prod(shape[:-1])), 0.0, drawn=True)


def _orthogonal(shape, scale, axis):
    rows = shape[axis]                      # the longer side has unit vectors, spread evenly
    return Moments(abs(scale) / math.sqrt(max(rows, math.prod(shape) // rows)), 0.0, drawn=True)


_KNOWN: dict[Any, tuple[Callable[..., Moments], tuple[str, ...]]] = {
    hk.initializers.Constant: (_constant, ("constant",)),
    hk.initializers.Identity: (_identity, ("gain",)),
    hk.initializers.RandomNormal: (_normal, ("stddev", "mean")),
    hk.initializers.TruncatedNormal: (_truncated_normal, ("stddev", "mean", "lower", "upper")),
    hk.initializers.RandomUniform: (_uniform, ("minval", "maxval")),
    hk.initializers.VarianceScaling: (_variance_scaling, ("scale", "mode", "fan_in_axes")),
    hk.initializers.UniformScaling: (_uniform_scaling, ("scale",)),
    hk.initializers.Orthogonal: (_orthogonal, ("scale", "axis")),
}
