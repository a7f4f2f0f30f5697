"""What a parameter is called in the parameter tree, which only partly shows where it is made."""
import sys
import types
import weakref
from typing import Any

import haiku as hk

from haiku_mup.errors import MupError

_homes: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()   # module -> its parameter's name


def stored_names(context_: hk.GetterContext) -> tuple[str, ...]:
    """The names of a parameter in the tree: one, but for a transparent layer_stack."""
    prefix, stack = context_.lifted_prefix_name or "", _transparent_stack()
    if stack is None:
        return (prefix + context_.full_name,)
    leaf = leaf_name(context_)
    module = context_.full_name[:-len(leaf) - 1]
    return tuple(f"{prefix}{stack._transparency_map.stacked_to_flat(module, i)}/{leaf}"
                 for i in range(stack._count))


def _transparent_stack() -> Any:
    """The innermost layer_stack, if it is a transparent one that makes its parameters just now.

    Haiku tells nobody but the stack itself, which is above us on Python's own stack, how it will name them.
    """
    frame: types.FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code.co_name == "scanned_init_fn":
            stack: Any = frame.f_locals.get("self")
            if hasattr(stack, "_transparency_map"):
                return stack if stack._transparency_map is not None else None
        frame = frame.f_back
    return None


def leaf_name(context_: hk.GetterContext) -> str:
    """The parameter's own name, which may hold slashes."""
    module = context_.module
    owner = "~" if module is None else module.module_name
    full: str = context_.full_name
    return full[len(owner) + 1:] if full.startswith(owner + "/") else full.rpartition("/")[2]


def check_home(name: str, module: Any) -> None:
    """A SharedEmbed that is asked for its matrix inside a layer_stack would silently make another."""
    home = _homes.setdefault(module, name)
    if home != name:
        raise MupError(f"{name!r}: this SharedEmbed has its matrix at {home!r} already, and would make "
                       "an untied copy here; read it outside of the layer_stack or lift, and close over "
                       "it: weights = embed.get_weights()")
