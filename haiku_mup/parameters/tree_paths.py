"""Names of the leaves of any tree: their paths, as a user would write them."""
import weakref
from typing import Any

import jax
import optax

Path = tuple[Any, ...]      # JAX's keys
_BOXES = ("Variable", "AxisMetadata")       # of NNX and of Linen


def path_name(path: Path) -> str:
    """Returns a path as one writes it: attributes and keys behind dots, numbers in brackets.

    >>> tree = {"layers": [{"weight": 1}], "mlp/~/linear": {"w": 2}, "a.b": 3}
    >>> [path_name(path) for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]]
    ["['a.b']", 'layers[0].weight', 'mlp/~/linear.w']
    """
    return "".join(map(_part, path)).removeprefix(".")


def _part(key: Any) -> str:
    """Returns what a key of a path adds to the name."""
    for attribute in ("name", "key", "idx"):        # of an attribute, a mapping, a sequence
        if hasattr(key, attribute):
            value = getattr(key, attribute)
            plain = isinstance(value, str) and value and not set(".[]") & set(value)
            return f".{value}" if plain else f"[{value!r}]"
    return f"[{key}]"


def named_paths(tree: Any) -> list[tuple[str, Any]]:
    """Returns (name, leaf) of a tree, in the order of its leaves.

    An optax.MaskedNode is a leaf. A parameter that Flax boxes, with metadata beside it, has its box's name.

    >>> named_paths({"layers": [{"weight": 1, "bias": None}]})
    [('layers[0].weight', 1)]
    """
    found = []
    for path, x in jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_end)[0]:
        name = path_name(path)
        if not _is_box(type(x)):
            found.append((name, x))
            continue
        inner = jax.tree_util.tree_flatten_with_path(x, is_leaf=is_masked)[0]
        found += [(name if len(inner) == 1 else path_name((*path, *rest)), leaf) for rest, leaf in inner]
    return found


def is_masked(x: Any) -> bool:
    """Returns whether optax put a placeholder here; to be used as `is_leaf`."""
    return isinstance(x, optax.MaskedNode)


def _is_end(x: Any) -> bool:
    return is_masked(x) or _is_box(type(x))


_boxes: weakref.WeakKeyDictionary[type, bool] = weakref.WeakKeyDictionary()


def _is_box(cls: type) -> bool:
    """Returns whether a class is one of Flax's that hold an array and metadata; without importing Flax."""
    found = _boxes.get(cls)
    if found is None:       # once a class: trees have thousands of nodes
        found = _boxes[cls] = any(base.__module__.startswith("flax.") and base.__name__ in _BOXES
                                  for base in cls.__mro__)
    return found


def is_nnx_module(tree: Any) -> bool:
    """Returns whether a tree is a module of Flax NNX; without importing Flax."""
    return any(cls.__module__.startswith("flax.nnx") and cls.__name__ == "Module" for cls in type(tree).__mro__)


def box_kinds(tree: Any) -> list[tuple[str, str | None]]:
    """Returns (name, class) of Flax's boxes in a tree; None in place of the class of a parameter's.

    NNX keeps running means (BatchStat) and states of random generators in boxes of their own.
    """
    found: list[tuple[str, str | None]] = []
    for path, x in jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_end)[0]:
        names = {base.__name__ for base in type(x).__mro__}
        if _is_box(type(x)):
            is_parameter = bool({"Param", "AxisMetadata"} & names) or type(x).__name__ == "Variable"
            found.append((path_name(path), None if is_parameter else type(x).__name__))
    return found
