"""What an optimizer's state says."""
import contextlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import jax

from haiku_mup.errors import MupError
from haiku_mup.optimizers.trees import is_masked, named_leaves
from haiku_mup.optimizers.wrapper import extra_args, inside


def states(optimizer: Any, tree: Any) -> list[Any]:
    """All the named tuples in the state that an optimizer makes for parameters of these shapes, if it does."""
    try:
        with inside():
            return list(_tuples(jax.eval_shape(extra_args(optimizer).init, tree)))
    except Exception:       # it wants other parameters than these
        return []


def _tuples(state: Any) -> Iterator[Any]:
    if isinstance(state, tuple) and hasattr(state, "_fields"):
        yield state
    parts = state.values() if isinstance(state, Mapping) else state if isinstance(state, (tuple, list)) else ()
    for part in parts:
        yield from _tuples(part)


def names(states: Iterable[Any], name: str) -> set[str]:
    """The names of those states that are of a parameter: in which it isn't masked."""
    return {type(state).__name__ for state in states if not any(name in masked for masked in _masks(state))}


def shapes(tree: Any) -> dict[str, dict[str, Any]]:
    """The shapes of a tree of parameters, a dict of dicts, without what is masked."""
    return {module: {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in bundle.items()
                     if not is_masked(x)} for module, bundle in tree.items() if not is_masked(bundle)}


def samples(optimizer: Any, tree: Any, names: Collection[str]) -> dict[str, dict[str, Any]]:
    """The part of a tree that has a parameter of each group which an optimizer treats apart: quick to try.

    Groups are told by the masks in its state (optax.partition, optax.masked). Of each, the parameter of the
    highest rank among those with these names. The whole tree, where a group has no state to tell it by.
    """
    every = states(optimizer, tree)
    groups: dict[frozenset[int], tuple[int, str]] = {}
    masks = [masked for state in every for masked in _masks(state)]
    if not all(any(map(any, map(_masks, _tuples(state)))) for state in every if _named(state, "MaskedState")):
        return dict(tree)
    for name, x in named_leaves(tree):
        if name in names:
            group = frozenset(i for i, masked in enumerate(masks) if name in masked)
            groups[group] = max(groups.get(group, (-1, "")), (len(x.shape), name))
    chosen = {name for _, name in groups.values()}
    return {module: kept for module, bundle in tree.items()
            if (kept := {n: x for n, x in bundle.items() if f"{module}/{n}" in chosen})}


def _named(x: Any, name: str) -> bool:
    return type(x).__name__ == name


def _masks(state: Any) -> Iterator[set[str]]:
    """The parameters that each tree in a named tuple has left out."""
    for part in state:
        if isinstance(part, Mapping) and all(isinstance(x, Mapping) for x in part.values()):
            with contextlib.suppress(MupError):         # a tree of something else than arrays, as sm3 has
                masked = {name for name, x in named_leaves(part) if is_masked(x)}
                if masked:
                    yield masked
