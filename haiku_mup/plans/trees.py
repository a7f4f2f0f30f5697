"""The user's trees beside a plan: whether they have its parameters, and another tree made of them."""
from collections.abc import Callable, Mapping
from typing import Any

import jax

from haiku_mup.errors import MupError
from haiku_mup.parameters.scaling import ParameterScaling
from haiku_mup.parameters.tree_paths import is_masked, is_nnx_module, named_paths


def check_params(scalings: Mapping[str, ParameterScaling], params: Any) -> None:
    """Raises for a tree that lacks parameters, or has them in other shapes."""
    found = {name: x for name, x in named_paths(params) if name in scalings}
    if missing := [name for name in scalings if name not in found]:
        raise MupError(f"{missing[0]!r}: not in the tree; give the target's parameters")
    for name, x in found.items():
        base, target = scalings[name].base, scalings[name].target
        if not is_masked(x) and tuple(x.shape) != (*target.stacks, *target.shape):
            raise MupError.about(name, base.shape, target.shape, f"the tree has {tuple(x.shape)}; give it the "
                                 "target's parameters")


def check_no_nnx_module(tree: Any, method: str, remedy: str) -> None:
    """Raises for a module of Flax NNX: a copy of it would not change in place as the module does."""
    if is_nnx_module(tree):
        raise MupError(f"plan.{method}: a module of NNX is changed in place, and this would be a copy, whose "
                       f"running averages are lost: {remedy}; in functional code give it nnx.state(model, "
                       "nnx.Param)")


def mapped(scalings: Mapping[str, ParameterScaling], tree: Any,
           value: Callable[[ParameterScaling, Any], Any]) -> Any:
    """Returns a tree with value(scaling, x) in place of each parameter of a plan, and all else as it is."""
    leaves = [value(scalings[name], x) if name in scalings and not is_masked(x) else x
              for name, x in named_paths(tree)]
    return jax.tree.unflatten(jax.tree.structure(tree, is_leaf=is_masked), leaves)
