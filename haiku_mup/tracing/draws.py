"""Tells standard parameters from those of a target: by the arrays themselves, and by how a model was used.

A plain model may be applied to standard parameters while a Mup has captured the same model: it is right, where
the same call with the target's parameters would lack their multipliers. A layer sees neither: it has a name and
a shape. So each array that an init returns is remembered for as long as it lives. Under jit, the arrays are the
arguments of JAX's functions on Python's stack. Arrays that no init has returned, such as those that training
or a jitted init makes, are taken for standard ones where a plain model of these names and shapes has been
initialised before, or applied to others than a target's, or initialised abstractly since the capture.
"""
import weakref
from collections.abc import Iterable
from typing import Any

import haiku as hk
import jax

from haiku_mup.tracing.jax_internals import arguments_of_jax, is_abstract

# {id: a reference to the array, which takes the entry away as the array goes}.
_Arrays = dict[int, weakref.ref[Any]]
_standard: _Arrays = {}
_of_targets: _Arrays = {}
_used_plainly: set[int] = set()         # hashes of the names and shapes of parameter trees


def note_drawn(arrays: Iterable[Any], in_mup: bool) -> None:
    """Remembers arrays that an init has made."""
    for array in arrays:
        if _is_concrete(array):
            _remember(_of_targets if in_mup else _standard, array)


def note_standard(params: hk.Params) -> None:
    """Remembers the parameters of a plain model whose init or apply ended without a warning."""
    leaves = jax.tree.leaves(params)
    if hk.running_init():
        note_drawn(leaves, in_mup=False)
    if not is_abstract() and not any(id(x) in _of_targets for x in (*leaves, *arguments_of_jax())):
        _used_plainly.add(_key(params))


def are_standard(params: hk.Params, initialized_since: bool) -> bool:
    """Returns whether the parameters of the model that runs are standard ones, as far as that can be known.

    Args:
      params: these.
      initialized_since: whether a plain model with such a parameter was initialised since the capture.
    """
    arrays = [x for x in jax.tree.leaves(params) if _is_concrete(x)]
    if any(id(x) in _of_targets for x in arrays):
        return False
    found = arrays or list(arguments_of_jax())
    if any(id(x) in _standard for x in found):
        return True
    known = initialized_since or _key(params) in _used_plainly
    return known and not any(id(x) in _of_targets for x in found)


def _remember(arrays: _Arrays, array: Any) -> None:
    key = id(array)
    arrays[key] = weakref.ref(array, lambda _: arrays.pop(key, None))


def _is_concrete(x: Any) -> bool:
    return isinstance(x, jax.Array) and not isinstance(x, jax.core.Tracer)


def _key(params: hk.Params) -> int:
    return hash(frozenset((module, name, x.shape) for module, leaves in params.items()
                          for name, x in leaves.items()))
