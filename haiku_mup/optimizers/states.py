"""The named tuples in an optimizer's state: their names, and the parameters that each has masked."""
import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from haiku_mup.errors import MupError
from haiku_mup.optimizers.tree_names import active_names
from haiku_mup.optimizers.trees import named_leaves, selected
from haiku_mup.optimizers.wrapper import extra_args, inside
from haiku_mup.parameters.tree_paths import is_masked


class NamedState(NamedTuple):
    """A named tuple in an optimizer's state.

    Attributes:
      name: of its class.
      masks: for each tree in it that has some, the names of its masked parameters.
      has_masks_inside: whether it, or a named tuple in it, has masks.
    """

    name: str
    masks: list[set[str]]
    has_masks_inside: bool


class States:
    """All named tuples in the state that an optimizer makes for parameters of these shapes, outer ones first.

    There are none if it makes no state for them.
    """

    def __init__(self, optimizer: Any, tree: Any):
        try:
            with inside():
                self._states = _read(jax.eval_shape(extra_args(optimizer).init, tree))
        except Exception:       # it needs other parameters than these
            self._states = []

    def class_names(self, parameter: str | None = None) -> set[str]:
        """Returns the names of the states' classes; if given, of those alone that don't mask a parameter."""
        return {state.name for state in self._states
                if parameter is None or not any(parameter in masked for masked in state.masks)}

    def representative_parameters(self, tree: Any, names: Sequence[str]) -> Any:
        """Returns one parameter of each group that the optimizer treats differently, to try it on fewer.

        The masks tell groups apart (optax.partition, optax.masked), and so do ranks, since optimizers treat
        vectors in ways of their own. If a masked optimizer has no state by which to tell its group, the result
        is the whole tree.

        Args:
          tree: of parameters' shapes.
          names: of the parameters to choose from, the last ones first.
        """
        if not all(state.has_masks_inside for state in self._states if state.name == "MaskedState"):
            return tree
        return _one_of_each_group(tree, names, [masked for state in self._states for masked in state.masks])

    @property
    def treat_all_alike(self) -> bool:
        """Returns whether there are states, and none of them masks some of the parameters."""
        return bool(self._states) and not any(
            state.name == "MaskedState" or state.has_masks_inside for state in self._states)


def states_and_parameters(optimizer: Any, tree: Any, names: Sequence[str]) -> tuple[States, Any]:
    """Returns an optimizer's states, and one parameter of each group that it treats differently.

    To save time it first makes the state of one parameter of each rank alone. Only if something in that state
    is masked does it make the state of all parameters, which may take as long as tracing the model.

    Args:
      optimizer: an optax optimizer.
      tree: of parameters' shapes.
      names: of the parameters to choose from, the last ones first.

    >>> import optax
    >>> tree = {"linear": {name: jax.ShapeDtypeStruct((2,), "float32") for name in "abc"}}
    >>> states_and_parameters(optax.adam(1e-3), tree, ["linear/a", "linear/b"])[1]
    {'linear': {'b': ShapeDtypeStruct(shape=(2,), dtype=float32)}}
    """
    some = _one_of_each_group(tree, names, [])
    states = States(optimizer, some)
    if states.treat_all_alike:
        return states, some
    states = States(optimizer, tree)
    return states, states.representative_parameters(tree, names)


def _one_of_each_group(tree: Any, names: Sequence[str], masks: Sequence[set[str]]) -> Any:
    """Returns one parameter, the last of these names, of each rank and each combination of masks."""
    ranks = {name: len(x.shape) for name, x in named_leaves(tree) if not is_masked(x)}
    groups = {(ranks[name], *(i for i, masked in enumerate(masks) if name in masked)): name
              for name in names if name in ranks}
    chosen = set(groups.values())
    return selected(tree, lambda name, _: name in chosen)


def _read(state: Any) -> list[NamedState]:
    """Returns the named tuples in a state, outer ones first."""
    inner = state.values() if isinstance(state, Mapping) else state if isinstance(state, (tuple, list)) else ()
    found = [named for x in inner for named in _read(x)]
    if isinstance(state, tuple) and hasattr(state, "_fields"):
        masks = list(_masks(state))
        found.insert(0, NamedState(type(state).__name__, masks,
                                   bool(masks) or any(named.has_masks_inside for named in found)))
    return found


def _masks(state: Any) -> Iterator[set[str]]:
    """Yields the names of the masked parameters in each tree of a named tuple that has some."""
    for tree in state:
        if active_names().may_be_parameters(tree):
            with contextlib.suppress(MupError):         # sm3 has a tree of lists of arrays
                masked = {name for name, x in named_leaves(tree) if is_masked(x)}
                if masked:
                    yield masked
