"""Trees of parameters as optimizers see them: leaves by name, and a factor for each name."""
from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax

from haiku_mup.errors import MupError
from haiku_mup.optimizers.tree_names import active_names
from haiku_mup.parameters.row_factors import Factor, scaled
from haiku_mup.parameters.scaling import ParameterScaling
from haiku_mup.parameters.tree_paths import is_masked

ByName = Callable[[str], Factor]        # from a parameter's name, "module/name", to its factor


def named_leaves(tree: Any) -> list[tuple[str, Any]]:
    """Returns (name, leaf) of a parameter tree, in the order of its leaves.

    An optax.MaskedNode is a leaf, and None, which stands for a frozen parameter, is none.

    Args:
      tree: a mapping from modules to mappings from names, or mappings from keys of the user's to such trees;
        any tree where names are paths.

    Raises:
      MupError: another tree.

    >>> params = {"actor": {"mlp/linear": {"w": 1, "b": None}}, "critic": {"v": {"w": 2}}}
    >>> [name for name, _ in named_leaves(params)]
    ['mlp/linear/w', 'v/w']
    """
    return active_names().leaves(tree)


def unmasked_shapes(tree: Any) -> Any:
    """Returns the shapes of a tree of parameters without masked and frozen ones, of Haiku's as plain dicts."""
    shapes = jax.tree.map(lambda x: x if is_masked(x) else jax.ShapeDtypeStruct(x.shape, x.dtype), tree,
                          is_leaf=is_masked)
    return selected(shapes, lambda name, x: not is_masked(x))


def selected(tree: Any, keep: Callable[[str, Any], bool]) -> Any:
    """Returns the part of a tree of parameters that has the leaves for which `keep(name, leaf)` holds.

    >>> tree = {"actor": {"linear": {"w": 1, "b": 2}}, "critic": {"linear_1": {"w": 3}}}
    >>> selected(tree, lambda name, x: name == "linear/b")
    {'actor': {'linear': {'b': 2}}}
    """
    return active_names().part(tree, keep)


def by_name(factors: Mapping[str, Factor]) -> ByName:
    """Returns a function from a parameter's name to its factor; it raises for names that nobody captured."""
    def factor(name: str) -> Factor:
        if name not in factors:
            raise _foreign(name, factors)
        return factors[name]

    return factor


def multiply_by_name(factor: ByName, tree: Any) -> Any:
    """Multiplies each leaf by its name's factor. Masked leaves and those with factor 1 stay as they are."""
    leaves = [x if isinstance(x, (optax.MaskedNode, jax.ShapeDtypeStruct)) else scaled(x, factor(name))
              for name, x in named_leaves(tree)]
    return jax.tree.unflatten(jax.tree.structure(tree, is_leaf=is_masked), leaves)


def check_params(scalings: Mapping[str, ParameterScaling], params: Any) -> None:
    """Checks that parameters are the target's.

    Raises:
      MupError: other names, or other widths.
    """
    for name, leaf in named_leaves(params):
        if is_masked(leaf):
            continue
        if name not in scalings:
            raise _foreign(name, scalings)
        shape, target = tuple(leaf.shape), scalings[name].target.shape
        axes = iter(shape)      # `in` moves it on: the target's axes must be found in their order
        if not all(n in axes for n in target):          # a stack may put axes before, behind, between
            raise MupError.about(name, scalings[name].base.shape, target, f"the optimizer was given {shape}; "
                                 f"give it the target's parameters, or {active_names().other_width}")


def _foreign(name: str, known: Mapping[str, Any]) -> MupError:
    """Returns the error for a name that was not captured."""
    return MupError(f"{name!r}: not among the target's parameters ({', '.join(list(known)[:3])}, …); "
                    f"{active_names().foreign}")
