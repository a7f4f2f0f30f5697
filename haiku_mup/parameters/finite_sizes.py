"""Gives the base the target's finite sizes, such as its numbers of features and classes.

A size that is declared to be finite is no width, though it differs between base and target. Nothing is scaled
by it. So the target is compared with the base that has the target's finite sizes and its own widths. The std
that the initializer would have there follows from the two that are known, by the way in which they differ.
"""
import dataclasses
import math
from collections.abc import Callable, Sequence

from haiku_mup.errors import MupError
from haiku_mup.parameters.fans import Fans
from haiku_mup.parameters.initializers import Moments
from haiku_mup.parameters.record import Record

# The stds of initializers as functions of fan-in and fan-out, each but for a constant.
_STD_BY_FANS: tuple[Callable[[float, float], float], ...] = (
    lambda fan_in, fan_out: 1.0,
    lambda fan_in, fan_out: fan_in**-0.5,
    lambda fan_in, fan_out: fan_out**-0.5,
    lambda fan_in, fan_out: (fan_in + fan_out)**-0.5,
    lambda fan_in, fan_out: max(fan_in, fan_out)**-0.5,
)


def with_finite_sizes_of(target: Record, base: Record, error: Callable[[str], MupError]) -> Record:
    """Returns the base with the target's finite sizes, and the std that it would be drawn with.

    Args:
      target: the target's record, whose `finite` axes count.
      base: the base's record.
      error: makes an error about the parameter.

    Raises:
      MupError: stds that differ in a way that neither fan explains.
    """
    axes = [a for a in target.finite if base.shape[a] != target.shape[a]]
    if not axes:
        return base

    def replaced(shape: Sequence[int]) -> tuple[int, ...]:
        return tuple(target.shape[a] if a in axes else n for a, n in enumerate(shape))

    if base.row_sizes and 0 in axes:        # the first block is of inputs, and no other can be finite
        rows, delta_rows = (target.row_sizes[:1] + sizes[1:]
                            for sizes in (base.row_sizes, base.delta_row_sizes))
        shape = (sum(rows), *replaced(base.shape)[1:])
        delta = None if base.delta is None else (sum(delta_rows), *replaced(base.delta)[1:])
    else:
        rows, delta_rows, shape = base.row_sizes, base.delta_row_sizes, replaced(base.shape)
        delta = None if base.delta is None else replaced(base.delta)
    return dataclasses.replace(base, shape=shape, delta=delta, row_sizes=rows, delta_row_sizes=delta_rows,
                               moments=_moments(base, target, shape, error))


def _moments(base: Record, target: Record, shape: tuple[int, ...], error: Callable[[str], MupError]) -> Moments:
    """Returns the moments of the base's initializer for another shape."""
    was, now = base.moments, target.moments
    if not (was.drawn and now.drawn and was.std > 0 and now.std > 0):
        return was
    (at_base, at_target, wanted) = (fan_sizes(target.fans, s) for s in (base.shape, target.shape, shape))
    for relative_std in _STD_BY_FANS:
        expected = was.std * relative_std(*at_target) / relative_std(*at_base)
        if math.isclose(now.std, expected, rel_tol=1e-6 + 5 * (was.error + now.error)):
            return was._replace(std=was.std * relative_std(*wanted) / relative_std(*at_base))
    if len(shape) < 2:          # a bias that is drawn by its layer's fan-in
        return was
    raise error(f"the initializer's std is {was.std:.3g} at the base and {now.std:.3g} at the {target.model}, "
                "which neither its fan-in nor its fan-out explains, so how it depends on the finite sizes is "
                "unknown; use an initializer that goes by the fan-in, such as "
                "hk.initializers.VarianceScaling(), or one std")


def fan_sizes(fans: Fans, shape: Sequence[int]) -> tuple[float, float]:
    """Returns the sizes of fan-in and fan-out as initializers count them: any other axis is a kernel's."""
    kernel = math.prod(n for axis, n in enumerate(shape) if axis not in (*fans.fan_in, *fans.fan_out))
    return tuple(kernel * math.prod(shape[axis] for axis in axes)      # type: ignore[return-value]
                 for axes in (fans.fan_in, fans.fan_out))
