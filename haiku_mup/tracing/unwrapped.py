"""Warns where a plain model is applied that a Mup's target was: its multipliers are missing then."""
import contextlib
from collections.abc import Iterator, Mapping

import haiku as hk

from haiku_mup.tracing.draws import are_standard, note_standard
from haiku_mup.tracing.haiku_internals import Nesting
from haiku_mup.tracing.warn_once import warn_once

# {(name, shape): the `warned` of the Mup} of layers and parameters whose latest init was in a target context,
# with multipliers or forward factors.
_latest: dict[tuple[str, tuple[int, ...]], set[str]] = {}
# Those of them that a plain model has initialised since, if only abstractly, as a sweep's programs do.
_initialized_since: set[tuple[str, tuple[int, ...]]] = set()
# {hash of a parameter tree's names and shapes: whether its latest capture as a target has multipliers}.
_captured: dict[int, bool] = {}


def note_initialized(warned: set[str], name: str, shape: tuple[int, ...], has_factors: bool) -> None:
    """Remembers the latest init of a layer or a parameter in a capture.

    Args:
      warned: the kinds of warning that the Mup has given which the init was for.
      name, shape: what the layer knows of itself.
      has_factors: whether it is to be applied with factors.
    """
    _initialized_since.discard((name, shape))
    if has_factors:
        _latest[name, shape] = warned
    else:
        _latest.pop((name, shape), None)


def warn_unwrapped(name: str, shape: tuple[int, ...], subject: str) -> None:
    """Warns where a layer is applied without its factors, but for standard parameters; notes an init.

    Args:
      name, shape: what the layer knows of itself.
      subject: what to call it in the warning.
    """
    if (name, shape) not in _latest:
        return
    if hk.running_init():
        _initialized_since.add((name, shape))
    elif (params := hk.get_params()) and not are_standard(params, (name, shape) in _initialized_since):
        text = (f"{subject}: this model was initialised in Mup.init_target, and is applied without its "
                "multipliers; apply mup.wrap_model(model) instead")
        warn_once(_latest[name, shape], "unwrapped", text)


@contextlib.contextmanager
def unwrapped_reads() -> Iterator[None]:
    """Returns a context manager that warns of parameters which a plain model reads without their factors."""
    def getter(next_getter, value, context):
        """Warns as a parameter is read."""
        name, shape = context.full_name, tuple(map(int, context.original_shape))
        warn_unwrapped(name, shape, f"{name!r}: target {shape}")
        return next_getter(value)

    if not Nesting().transforms:
        yield
        return
    with hk.custom_getter(getter) if _latest else contextlib.nullcontext():
        yield
    note_standard(hk.get_params())


# --- whole trees of parameters, as files hold them ---

def note_captured(shapes: Mapping[str, tuple[int, ...]], has_multipliers: bool) -> None:
    """Remembers whether the latest target with just these parameters has multipliers."""
    _captured[_key(shapes)] = has_multipliers


def has_multipliers(shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Returns whether the latest target with just these parameters, of any Mup, has multipliers.

    Args:
      shapes: of parameters, by name, with their stack axes in front.

    >>> has_multipliers({"linear/w": (2, 3)})
    False
    """
    return _captured.get(_key(shapes), False)


def _key(shapes: Mapping[str, tuple[int, ...]]) -> int:
    return hash(frozenset(shapes.items()))
