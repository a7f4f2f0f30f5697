"""What a parameter is called in the parameter tree, which only partly shows where it is made."""
import functools
import sys
import types
import weakref
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import haiku as hk

from haiku_mup.errors import MupError
from haiku_mup.parameters.place import Branch, Place, Site, Stack

# Functions of Haiku's that call an init or an apply for themselves -> what of Haiku's they are.
_CALLERS = {("haiku._src.lift", "__call__"): "lift",
            ("haiku._src.layer_stack", "per_layer_init_fn"): "layer_stack",
            ("haiku._src.layer_stack", "layer"): "layer_stack"}
INIT, APPLY = "init", "apply"
_TRANSFORMS = {f"transform_with_state.<locals>.{what}_fn": what for what in (INIT, APPLY)}
_CALLING, _TRANSFORMING = {name for _, name in _CALLERS}, {f"{what}_fn" for what in (INIT, APPLY)}
_homes: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()   # module -> its parameter's name


def place(names: tuple[str, ...], leaf: str, branch: Branch | None) -> Place:
    """Where the parameter is that is being made, which the tree calls by these names."""
    first, *others = (name[:-len(leaf) - 1] for name in names)
    parts = [first.split("/"), *(other.split("/") for other in others)]
    varied = tuple(i for i, same in enumerate(zip(*parts)) if len(set(same)) > 1)
    return Place(first, varied, stacks(), branch)


def site() -> Site:
    """Where the model that is being traced is."""
    return Site(hk.experimental.current_name(), stacks())


def stacks() -> tuple[Stack, ...]:
    """The layer_stacks around this call, outermost first; read off Python's own stack, as names are."""
    found = []
    for frame in _frames("__call__"):
        if frame.f_globals.get("__name__") == "haiku._src.layer_stack":
            stack: Any = frame.f_locals["self"]
            lift = frame.f_locals["params_and_state_fn"]        # a lambda around the module of hk.lift
            prefix = next((cell.cell_contents.prefix_name for cell in lift.__closure__ or ()
                           if hasattr(cell.cell_contents, "prefix_name")), stack._name)
            found.append(Stack(prefix, int(stack._count), stack._transparency_map is not None))
    return tuple(reversed(found))


def stored_names(context_: hk.GetterContext, outside: int = 0) -> tuple[str, ...]:
    """The names of a parameter in the tree: one, but for a transparent layer_stack.

    Args:
      context_: what Haiku tells a creator.
      outside: how many of the outermost levels not to count, for a tree that is itself below them.
    """
    leaf = leaf_name(context_)
    modules: tuple[str, ...] = (context_.full_name[:-len(leaf) - 1],)
    levels = _levels()
    for level in levels[:len(levels) - outside]:
        modules = tuple(name for module in modules for name in level(module))
    return tuple(f"{module}/{leaf}" for module in modules)


def in_tree(module: str) -> str:
    """The name in the tree of a module that is called this here; the first, in a transparent layer_stack."""
    for level in _levels():
        module = level(module)[0]
    return module


def depth() -> int:
    """How many levels of lifts and transparent stacks there are around this call."""
    return len(_levels())


def _levels() -> list[Callable[[str], list[str]]]:
    """For each lift and transparent layer_stack around, innermost first, what it makes of a module's name.

    They are read off Python's own stack: `context.lifted_prefix_name` tells of no transparency map, has a
    prefix twice under hk.remat, and knows nothing of where a wrapped model begins that is lifted itself.
    """
    levels: list[Callable[[str], list[str]]] = []
    for frame in _frames("__call__", "scanned_init_fn"):
        where, what = frame.f_globals.get("__name__"), frame.f_code.co_name
        if where == "haiku._src.lift" and what == "__call__":
            levels.append(functools.partial(_prefixed, frame.f_locals["self"].prefix_name))
        elif where == "haiku._src.layer_stack" and what == "scanned_init_fn":
            stack: Any = frame.f_locals["self"]
            if stack._transparency_map is not None:
                levels.append(functools.partial(_flat, stack))
    return levels


def _frames(*functions: str) -> Iterator[types.FrameType]:
    """The frames of the model that is being traced, in functions of these names, innermost first."""
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None and (code := frame.f_code).co_qualname != "bound.<locals>.wrapped":
        if code.co_name in functions:
            yield frame
        frame = frame.f_back


def _prefixed(prefix: str, module: str) -> list[str]:
    return [f"{prefix}/{module}" if prefix else module]


def _flat(stack: Any, module: str) -> list[str]:
    return [stack._transparency_map.stacked_to_flat(module, i) for i in range(stack._count)]


# --- whose a parameter is ---

class _Transform(NamedTuple):
    """An init or an apply of a transformed function that runs.

    Attributes:
      what: `INIT` or `APPLY`.
      parameters: the ids of its parameters.
      by: what of Haiku's called it, one of `_CALLERS`; "" for a user's function.
    """

    what: str
    parameters: Callable[[], set[int]]
    by: str


def transforms() -> int:
    """How many of Haiku's transforms run here."""
    return len(_transforms())


def apart(transform_depth: int) -> str:
    """Whether what runs here is a model that a user's function calls, with parameters of its own.

    Args:
      transform_depth: how many of the outermost transforms are around the model that asks, and it itself.

    Returns:
      `INIT` in an init that no hk.lift calls; `APPLY` in an apply with parameters of which the transform
      around has none, though it may have what they were made from; "" elsewhere.
    """
    running = _transforms()
    for around, one in pairwise(reversed(running[:max(0, len(running) - transform_depth + 1)])):
        if not one.by and not one.parameters() & around.parameters():
            return one.what
    return ""


def is_lifted_by_user(transform_depth: int) -> bool:
    """Whether the parameter that is being made is lifted by a user's function, which calls an apply with it."""
    running = _transforms()
    return any(one.by == "lift" for one in running[:max(0, len(running) - transform_depth)])


def _transforms() -> list[_Transform]:
    """Those that run here, innermost first, read off Python's own stack."""
    found: list[_Transform] = []
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        what = _TRANSFORMS.get(code.co_qualname) if code.co_name in _TRANSFORMING else None
        if what and frame.f_globals.get("__name__") == "haiku._src.transform":
            found.append(_Transform(what, functools.partial(_parameters, frame.f_locals["ctx"]), ""))
        elif code.co_name in _CALLING and found and not found[-1].by:
            by = _CALLERS.get((frame.f_globals.get("__name__", ""), code.co_name), "")
            found[-1] = found[-1]._replace(by=by)
        frame = frame.f_back
    return found


def _parameters(ctx: Any) -> set[int]:
    return {id(x) for leaves in ctx.collect_params().values() for x in leaves.values()}


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
