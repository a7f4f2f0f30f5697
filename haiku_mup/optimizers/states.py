"""The named tuples in an optimizer's state: their names, and the parameters that each has masked."""
import contextlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import jax

from haiku_mup.errors import MupError
from haiku_mup.optimizers.trees import is_masked, named_leaves, selected
from haiku_mup.optimizers.wrapper import extra_args, inside


def find_states(optimizer: Any, tree: Any) -> list[Any]:
    """Returns all named tuples in the state that an optimizer makes for parameters of these shapes.

    The list is empty if it makes no state for them.
    """
    try:
        with inside():
            return list(_named_tuples(jax.eval_shape(extra_args(optimizer).init, tree)))
    except Exception:       # it needs other parameters than these
        return []


def _named_tuples(state: Any) -> Iterator[Any]:
    """Yields the named tuples in a state, outer ones first."""
    if isinstance(state, tuple) and hasattr(state, "_fields"):
        yield state
    inner = state.values() if isinstance(state, Mapping) else state if isinstance(state, (tuple, list)) else ()
    for x in inner:
        yield from _named_tuples(x)


def class_names(states: Iterable[Any], parameter: str | None = None) -> set[str]:
    """Returns the names of the states' classes; of those alone in which a parameter isn't masked, if given."""
    return {type(state).__name__ for state in states
            if parameter is None or not any(parameter in masked for masked in _masks(state))}


def representative_parameters(optimizer: Any, tree: Any, names: Collection[str]) -> dict[str, dict[str, Any]]:
    """Returns one parameter of each group that an optimizer treats differently, to try it on fewer.

    The masks in its state tell groups apart (optax.partition, optax.masked). Each group is represented by its
    parameter of the highest rank, among those with these names. If a masked optimizer has no state by which to
    tell its group, the result is the whole tree.
    """
    states = find_states(optimizer, tree)
    masks = [masked for state in states for masked in _masks(state)]
    if not all(any(map(any, map(_masks, _named_tuples(state)))) for state in states
               if type(state).__name__ == "MaskedState"):
        return dict(tree)
    groups: dict[frozenset[int], tuple[int, str]] = {}      # by the numbers of masks: rank and name
    for name, x in named_leaves(tree):
        if name in names:
            group = frozenset(i for i, masked in enumerate(masks) if name in masked)
            groups[group] = max(groups.get(group, (-1, "")), (len(x.shape), name))
    chosen = {name for _, name in groups.values()}
    return selected(tree, lambda name, _: name in chosen)


def _masks(state: Any) -> Iterator[set[str]]:
    """Yields the names of the masked parameters in each tree of a named tuple that has some."""
    for tree in state:
        if isinstance(tree, Mapping) and all(isinstance(x, Mapping) for x in tree.values()):
            with contextlib.suppress(MupError):         # sm3 has a tree of lists of arrays
                masked = {name for name, x in named_leaves(tree) if is_masked(x)}
                if masked:
                    yield masked
