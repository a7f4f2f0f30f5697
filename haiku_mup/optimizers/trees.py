"""Parameter trees as optimizers see them: leaves by name, and factors for each."""
from collections.abc import Callable, Mapping
from typing import Any

import haiku as hk
import jax
import optax

from haiku_mup.errors import MupError
from haiku_mup.parameters.factors import Factor, scaled
from haiku_mup.parameters.scaling import ParameterScaling

ByName = Callable[[str], Factor]        # a parameter's name, "module/name" -> what multiplies it


def by_name(values: Mapping[str, Factor]) -> ByName:
    """A function from a parameter's name to its factor; it raises for names that nobody captured."""
    def factor(name: str) -> Factor:
        if name not in values:
            raise _foreign(name, values)
        return values[name]

    return factor


def _foreign(name: str, known: Mapping[str, Any]) -> MupError:
    return MupError(f"{name!r}: not among the target's parameters ({', '.join(list(known)[:3])}, …); give "
                    "the optimizer the parameters of the model that init_target captured, and make them "
                    "all inside apply_mup()")


def check_params(entries: Mapping[str, ParameterScaling], params: Any) -> None:
    """Raises for parameters that are not the target's: other names, or other widths."""
    for name, leaf in named_leaves(params):
        if is_masked(leaf):
            continue
        if name not in entries:
            raise _foreign(name, entries)
        shape, target = tuple(leaf.shape), entries[name].target.shape
        axes = iter(shape)
        if not all(n in axes for n in target):          # a stack may put axes before, behind, between
            raise MupError.about(name, entries[name].base.shape, target, f"the optimizer was given {shape}; "
                                 "give it the target's parameters, or make a new Mup() for this width")


def named_leaves(tree: Any) -> list[tuple[str, Any]]:
    """(name, leaf) of a parameter tree, in the order of its leaves. An optax.MaskedNode is a leaf.

    Raises:
      MupError: the tree is no mapping from modules to mappings from names.
    """
    if isinstance(tree, Mapping) and not isinstance(tree, dict):
        tree = hk.data_structures.to_mutable_dict(tree)     # Haiku's own mapping has no paths
    leaves = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_masked)[0]
    return [(_name(path, leaf), leaf) for path, leaf in leaves]


def _name(path: tuple[Any, ...], leaf: Any) -> str:
    if isinstance(leaf, optax.MaskedNode) and len(path) < 2:    # a whole module, or tree, is masked
        return ""
    if len(path) != 2 or not all(isinstance(k, jax.tree_util.DictKey) for k in path):
        raise MupError(f"{jax.tree_util.keystr(path)!r}: a parameter's place in the tree must be "
                       "[module][name], as in Haiku's params; give the optimizer such a tree, or a "
                       "part of it")
    return f"{path[0].key}/{path[1].key}"


def is_masked(x: Any) -> bool:
    """Whether optax put a placeholder here; to be used as `is_leaf`."""
    return isinstance(x, optax.MaskedNode)


def scale_by_names(factor: ByName, tree: Any) -> Any:
    """Each leaf times its name's factor; masked ones and those with factor 1 as they are."""
    leaves = [x if isinstance(x, (optax.MaskedNode, jax.ShapeDtypeStruct)) else scaled(x, factor(name))
              for name, x in named_leaves(tree)]
    return jax.tree.unflatten(jax.tree.structure(tree, is_leaf=is_masked), leaves)
