"""Names of the leaves of parameter trees: Haiku's "module/name", or paths in any other tree."""
import contextlib
import contextvars
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, Self, TypeVar

import haiku as hk
import jax
import optax

from haiku_mup.errors import MupError
from haiku_mup.parameters.scaling import ParameterScaling
from haiku_mup.parameters.tree_paths import is_masked, named_paths

Keep = Callable[[str, Any], bool]       # from a leaf's name and the leaf
F = TypeVar("F", bound=Callable[..., Any])


class TreeNames(Protocol):
    """The way in which the leaves of a tree are named.

    Attributes:
      foreign: what an error says of a leaf that is not among the target's parameters.
      other_width: what it says of a parameter of another shape than the target's.
    """

    foreign: str
    other_width: str

    def leaves(self, tree: Any) -> list[tuple[str, Any]]:
        """Returns (name, leaf), in the order of leaves. An optax.MaskedNode is a leaf, None is none."""

    def part(self, tree: Any, keep: Keep) -> Any:
        """Returns the tree without the leaves for which `keep` doesn't hold."""

    def may_be_parameters(self, tree: Any) -> bool:
        """Returns whether an entry of an optimizer's state may be a tree like the parameters."""

    def tree(self, scalings: Mapping[str, ParameterScaling], value: Callable[[ParameterScaling], Any]) -> Any:
        """Returns a tree like the parameters, with a value for each."""


class HaikuNames:
    """Names as Haiku's: the last two keys of a mapping of mappings, "module/name".

    >>> HaikuNames().leaves({"actor": {"mlp/linear": {"w": 1}}})
    [('mlp/linear/w', 1)]
    """

    foreign = ("give the optimizer the parameters of the model that init_target captured, and make them all "
               "inside apply_mup()")
    other_width = "make a new Mup() for this width"

    def leaves(self, tree: Any) -> list[tuple[str, Any]]:
        """Returns (name, leaf); raises MupError for a tree of other nodes."""
        if isinstance(tree, Mapping) and not isinstance(tree, dict):
            tree = hk.data_structures.to_mutable_dict(tree)     # Haiku's own mapping has no paths
        leaves = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_masked)[0]
        return [(_haiku_name(path, leaf), leaf) for path, leaf in leaves]

    def part(self, tree: Any, keep: Keep) -> dict[str, Any]:
        """Returns the modules that have such leaves, as dicts."""
        def of_module(module: str, tree: Mapping[str, Any]) -> dict[str, Any]:
            found = {key: of_module(key, x) if isinstance(x, Mapping) else x for key, x in tree.items()
                     if isinstance(x, Mapping) or (x is not None and keep(f"{module}/{key}", x))}
            return {key: x for key, x in found.items() if not (isinstance(x, Mapping) and not x)}

        return of_module("", tree)

    def may_be_parameters(self, tree: Any) -> bool:
        """Returns whether an entry of an optimizer's state is a mapping of mappings."""
        return isinstance(tree, Mapping) and all(isinstance(x, Mapping) for x in tree.values())

    def tree(self, scalings: Mapping[str, ParameterScaling],
             value: Callable[[ParameterScaling], Any]) -> dict[str, dict[str, Any]]:
        """Returns {module: {name: value}}."""
        tree: dict[str, dict[str, Any]] = {}
        for _, scaling in sorted(scalings.items()):
            tree.setdefault(scaling.target.in_tree, {})[scaling.target.leaf] = value(scaling)
        return tree


def _haiku_name(path: tuple[Any, ...], leaf: Any) -> str:
    """Returns "module/name" of a leaf; "" of a masked module or of a masked tree."""
    if isinstance(leaf, optax.MaskedNode) and len(path) < 2:
        return ""
    if len(path) < 2 or not all(isinstance(k, jax.tree_util.DictKey) for k in path):
        raise MupError(f"{jax.tree_util.keystr(path)!r}: a parameter's place in the tree must be "
                       "[module][name], as in Haiku's params; give the optimizer such a tree, a part of it, "
                       "or a mapping of such trees; put optax.flatten inside: "
                       "mup.wrap_optimizer(optax.flatten(…)); for other trees use haiku_mup.plan")
    *_, module, name = path
    return f"{module.key}/{name.key}"


@dataclasses.dataclass(frozen=True)
class PathNames:
    """Names of any tree: whole paths, such as "layers[0].weight".

    Attributes:
      structure: of the target's parameters.
      order: their names, in the order of the structure's leaves.

    >>> PathNames.of({"layers": [1, 2]}).part({"layers": [1, 2]}, lambda name, x: name == "layers[1]")
    {'layers': [None, 2]}
    """

    foreign = ("give the optimizer the tree that haiku_mup.plan was given as the target, or a part of it; of a "
               "module of Equinox its arrays, eqx.filter(model, eqx.is_inexact_array)")
    other_width = "make a plan for this width"

    structure: Any
    order: tuple[str, ...]

    @classmethod
    def of(cls, tree: Any) -> Self:
        """Returns the names of a target's parameters."""
        return cls(jax.tree.structure(tree), tuple(name for name, _ in named_paths(tree)))

    def leaves(self, tree: Any) -> list[tuple[str, Any]]:
        """Returns (path, leaf)."""
        return named_paths(tree)

    def part(self, tree: Any, keep: Keep) -> Any:
        """Returns a tree of the same nodes, in which None takes the place of other leaves."""
        leaves = [x if keep(name, x) else None for name, x in named_paths(tree)]
        return jax.tree.unflatten(jax.tree.structure(tree, is_leaf=is_masked), leaves)

    def may_be_parameters(self, tree: Any) -> bool:
        """Returns True: any tree may be."""
        return True

    def tree(self, scalings: Mapping[str, ParameterScaling], value: Callable[[ParameterScaling], Any]) -> Any:
        """Returns a tree of the target's nodes."""
        return jax.tree.unflatten(self.structure, [value(scalings[name]) for name in self.order])


HAIKU_NAMES = HaikuNames()
_active: contextvars.ContextVar[TreeNames] = contextvars.ContextVar("names of leaves", default=HAIKU_NAMES)


def active_names() -> TreeNames:
    """Returns the names that the running optimizer's trees have."""
    return _active.get()


@contextlib.contextmanager
def naming(names: TreeNames) -> Iterator[None]:
    """Returns a context manager in which the leaves of trees have these names."""
    token = _active.set(names)
    try:
        yield
    finally:
        _active.reset(token)


def with_names(names: TreeNames, function: F) -> F:
    """Returns a function that runs with these names; itself for Haiku's, which are the default."""
    if names is HAIKU_NAMES:
        return function

    @functools.wraps(function)
    def named(*args, **kwargs):
        """Calls the function."""
        with naming(names):
            return function(*args, **kwargs)

    return named        # type: ignore[return-value]
