"""Reads Haiku's private names and Python's frames: what runs around a line of a model."""
import dataclasses
import functools
import os
import sys
import types
import weakref
from collections.abc import Callable, Mapping
from enum import StrEnum
from itertools import pairwise
from typing import Any, NamedTuple

import haiku as hk
import jax

from haiku_mup.errors import MupError, SourceLine
from haiku_mup.parameters.place import Branch, Place, Site, Stack

# Python's stack while a parameter is made. `Nesting` walks down it once, and takes what the arrows name. Haiku
# has no other place for it: `context.lifted_prefix_name` knows nothing of transparent stacks, has a prefix
# twice under hk.remat, and doesn't end where a wrapped model begins.
#
#   creator of apply_mup()                       sys._getframe(1)
#   hk.get_parameter
#   hk.Linear.__call__
#   block                                        → the line of the user's model: the first outside of libraries
#   transform_with_state.<locals>.init_fn        → a transform, whose caller is …
#   _LayerStack.__call__.<locals>.per_layer_init_fn      → … layer_stack
#   _LayerStack.__call__.<locals>.scanned_init_fn        → names of each layer, where the stack is transparent
#   LiftingModule.__call__                       → prefix of names; where a user lifts, the transform's caller
#   _LayerStack.__call__                         → a layer_stack, with its number of layers
#   net                                          the user's function
#   transform_with_state.<locals>.init_fn        → a transform: the model's own
#   bind.<locals>.wrapped                        ends names and stacks, if a wrapped model runs
#   jax.eval_shape, `with mup.init_target():`, …
_LIFT, _LAYER_STACK, _TRANSFORM = "haiku._src.lift", "haiku._src.layer_stack", "haiku._src.transform"
ORIGINAL = "_original_fn"       # attribute of an init or an apply: the function that Haiku transformed
_homes: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()   # module -> its parameter's name


class TransformedFunction(StrEnum):
    """The function of a transformed model that runs."""

    INIT = "init"
    APPLY = "apply"


class Caller(StrEnum):
    """The part of Haiku that calls an init or an apply for itself."""

    LIFT = "lift"
    LAYER_STACK = "layer_stack"


@dataclasses.dataclass(slots=True)
class Transform:
    """An init or an apply that runs.

    Attributes:
      function: which of the two.
      context: Haiku's context of it, which holds its parameters.
      caller: the part of Haiku that calls it; None where a user's function does.
    """

    function: TransformedFunction
    context: Any
    caller: Caller | None = None

    @property
    def parameters(self) -> set[int]:
        """Returns the ids of its parameters."""
        return {id(x) for leaves in self.context.collect_params().values() for x in leaves.values()}


class Nesting:
    """The transforms, lifts and layer_stacks around a line of a model. Not to be kept: it holds parameters.

    Attributes:
      transforms: those that run, innermost first, down to the bottom of Python's stack.
      renamings: for each lift and transparent layer_stack around, innermost first, a function from a module's
        name below it to the names above it: one, or one for each layer. They end where a wrapped model begins.
      stacks: the layer_stacks around, outermost first, down to the same place.
      line: the innermost line of the user's.
    """

    __slots__ = ("_in_model", "line", "renamings", "stacks", "transforms")

    def __init__(self) -> None:
        self.transforms: list[Transform] = []
        self.renamings: list[Callable[[str], list[str]]] = []
        self.stacks: tuple[Stack, ...] = ()
        self.line: SourceLine | None = None
        self._in_model = True               # not yet outside of the wrapped model that runs
        line: SourceLine | None = None
        frame: types.FrameType | None = sys._getframe(1)
        while frame is not None:            # some hundred frames, once a parameter: no more than this for each
            code = frame.f_code
            if line is None and not is_library(code.co_filename):
                line = SourceLine(code.co_filename, frame.f_lineno, code.co_qualname)
            if (name := code.co_qualname) in _FRAMES:
                module, take = _FRAMES[name]
                if frame.f_globals.get("__name__") == module:
                    take(self, frame)
            frame = frame.f_back
        self.line = line or users_line()

    def _take_init(self, frame: types.FrameType) -> None:
        self.transforms.append(Transform(TransformedFunction.INIT, frame.f_locals["ctx"]))

    def _take_apply(self, frame: types.FrameType) -> None:
        self.transforms.append(Transform(TransformedFunction.APPLY, frame.f_locals["ctx"]))

    def _take_caller(self, caller: Caller) -> None:
        if self.transforms and self.transforms[-1].caller is None:
            self.transforms[-1].caller = caller

    def _take_layer(self, frame: types.FrameType) -> None:
        self._take_caller(Caller.LAYER_STACK)

    def _take_lift(self, frame: types.FrameType) -> None:
        self._take_caller(Caller.LIFT)
        if self._in_model:
            self.renamings.append(functools.partial(_prefixed, frame.f_locals["self"].prefix_name))

    def _take_layers_names(self, frame: types.FrameType) -> None:
        stack: Any = frame.f_locals["self"]
        if self._in_model and stack._transparency_map is not None:
            self.renamings.append(functools.partial(_unstacked, stack))

    def _take_stack(self, frame: types.FrameType) -> None:
        if self._in_model:
            stack: Any = frame.f_locals["self"]
            lift = frame.f_locals["params_and_state_fn"]        # a lambda around the module of hk.lift
            prefix = next((cell.cell_contents.prefix_name for cell in lift.__closure__ or ()
                           if hasattr(cell.cell_contents, "prefix_name")), stack._name)
            self.stacks = (Stack(prefix, int(stack._count), stack._transparency_map is not None), *self.stacks)

    def _take_wrapped_model(self, frame: types.FrameType) -> None:
        self._in_model = False

    # --- names in the parameter tree ---

    def modules_in_tree(self, module: str, lifts_around: int = 0) -> tuple[str, ...]:
        """Returns the names in the tree of a module: one, or one for each layer of a transparent layer_stack.

        Args:
          module: its name as Haiku has it on this line.
          lifts_around: how many of the outermost lifts and transparent stacks not to count, for a tree that is
            itself below them.
        """
        names: tuple[str, ...] = (module,)
        for renaming in self.renamings[:len(self.renamings) - lifts_around]:
            names = tuple(above for name in names for above in renaming(name))
        return names

    def stored_names(self, context: hk.GetterContext, leaf: str, lifts_around: int = 0) -> tuple[str, ...]:
        """Returns the names in the tree of a parameter, "module/name", as `modules_in_tree` does.

        Args:
          context: what Haiku tells of the parameter.
          leaf: its own name.
          lifts_around: see `modules_in_tree`.
        """
        full: str = context.full_name
        if len(self.renamings) == lifts_around:
            return (full,)
        modules = self.modules_in_tree(full[:-len(leaf) - 1], lifts_around)
        return tuple(f"{module}/{leaf}" for module in modules)

    def place(self, names: tuple[str, ...], leaf: str, branch: Branch | None) -> Place:
        """Returns where the parameter is made that the tree calls by these names."""
        modules = [name[:-len(leaf) - 1] for name in names]
        varied: tuple[int, ...] = ()
        if len(modules) > 1:
            parts = zip(*(module.split("/") for module in modules))
            varied = tuple(i for i, same in enumerate(parts) if len(set(same)) > 1)
        return Place(modules[0], varied, self.stacks, branch)

    def site(self) -> Site:
        """Returns the place in the model's code, which is the same at init and at apply."""
        return Site(hk.experimental.current_name(), self.stacks)

    @property
    def stacked_layers(self) -> tuple[int, ...]:
        """Returns how many layers the stacks have that put an axis in front of a parameter's own."""
        return tuple(stack.layers for stack in self.stacks if not stack.transparent)

    # --- whose a parameter is ---

    def foreign_transform(self, transform_depth: int) -> TransformedFunction | None:
        """Returns the running function of another model that a user's function calls with its own parameters.

        Args:
          transform_depth: how many of the outermost transforms are around the model that asks, its own
            included.

        Returns:
          `INIT` in an init that no hk.lift calls; `APPLY` in an apply with parameters of which the transform
          around it has none, though it may have what they were made from; None elsewhere.
        """
        inner = self.transforms[:max(0, len(self.transforms) - transform_depth + 1)]
        for around, transform in pairwise(reversed(inner)):
            if transform.caller is None and not transform.parameters & around.parameters:
                return transform.function
        return None

    def is_lifted_by_user(self, transform_depth: int) -> bool:
        """Returns whether a user's function lifts the parameter that is made, and calls an apply with it."""
        inner = self.transforms[:max(0, len(self.transforms) - transform_depth)]
        return any(transform.caller == Caller.LIFT for transform in inner)


# {qualified name of a function: (its module, what to take from its frame)}.
_FRAMES = {
    "transform_with_state.<locals>.init_fn": (_TRANSFORM, Nesting._take_init),
    "transform_with_state.<locals>.apply_fn": (_TRANSFORM, Nesting._take_apply),
    "LiftingModule.__call__": (_LIFT, Nesting._take_lift),
    "_LayerStack.__call__": (_LAYER_STACK, Nesting._take_stack),
    "_LayerStack.__call__.<locals>.per_layer_init_fn": (_LAYER_STACK, Nesting._take_layer),
    "_LayerStack.__call__.<locals>.layer": (_LAYER_STACK, Nesting._take_layer),
    "_LayerStack.__call__.<locals>.scanned_init_fn": (_LAYER_STACK, Nesting._take_layers_names),
    "bind.<locals>.wrapped": (f"{__package__}.wrapped_model", Nesting._take_wrapped_model),
}


def _prefixed(prefix: str, module: str) -> list[str]:
    """Returns the name of a module outside of a lift."""
    return [f"{prefix}/{module}" if prefix else module]


def _unstacked(stack: Any, module: str) -> list[str]:
    """Returns the names that a transparent layer_stack gives to the same module of each layer."""
    return [stack._transparency_map.stacked_to_flat(module, i) for i in range(stack._count)]


# --- the line of the user's model ---

def users_line() -> SourceLine | None:
    """Returns the innermost line of the user's that runs, else the innermost of this package's models."""
    return _innermost(lambda file: not is_library(file)) or _innermost(_is_model)


def _innermost(accepts: Callable[[str], bool]) -> SourceLine | None:
    """Returns the innermost line that runs in a file that a function accepts."""
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if accepts(code.co_filename):
            return SourceLine(code.co_filename, frame.f_lineno, code.co_qualname)
        frame = frame.f_back
    return None


_PACKAGE = os.path.dirname(os.path.dirname(__file__)) + os.sep
_LIBRARIES = (_PACKAGE, *(os.path.dirname(str(module.__file__)) + os.sep for module in (hk, jax)), "<frozen ")
_STANDARD = os.path.dirname(os.__file__) + os.sep


@functools.cache
def is_library(file: str) -> bool:
    """Returns whether a file belongs to this package, Haiku, JAX or Python's standard library."""
    installed = "site-packages" in file or "dist-packages" in file      # below the standard library's folder
    return file.startswith(_LIBRARIES) or (file.startswith(_STANDARD) and not installed)


def _is_model(file: str) -> bool:
    """Returns whether a file is one of this package's models."""
    return file.startswith(f"{_PACKAGE}models{os.sep}")


# --- modules and parameters ---

def leaf_name(context: hk.GetterContext) -> str:
    """Returns the parameter's own name, which may hold slashes."""
    module = context.module
    owner = "~" if module is None else module.module_name
    full: str = context.full_name
    return full[len(owner) + 1:] if full.startswith(owner + "/") else full.rpartition("/")[2]


def check_home(name: str, module: Any) -> None:
    """Raises where a SharedEmbed is asked for its matrix at a second place, and would make another one.

    Args:
      name: the matrix's name in the parameter tree.
      module: the SharedEmbed.

    Raises:
      MupError: it has made its matrix under another name, outside of the layer_stack or lift that is around.
    """
    home = _homes.setdefault(module, name)
    if home != name:
        raise MupError(f"{name!r}: this SharedEmbed already has its matrix at {home!r}, and would make "
                       "an untied copy here; read it outside of the layer_stack or lift, and close over "
                       "it: weights = embed.get_weights()")


# --- what runs ---

class RunningInit(NamedTuple):
    """The function of an init that runs, and its arguments."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


def running_init() -> RunningInit | None:
    """Returns the innermost init that runs."""
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None:
        if (frame.f_code.co_qualname == "transform_with_state.<locals>.init_fn"
                and frame.f_globals.get("__name__") == _TRANSFORM):
            given = frame.f_locals
            return RunningInit(given["f"], given["args"], given["kwargs"])
        frame = frame.f_back
    return None


# --- creators ---

def other_creators(next_creator: Callable[..., Any]) -> Callable[..., Any] | None:
    """Returns what `next_creator`, which works once, calls: the user's creators that are inside; None for none.

    Haiku keeps those that are left in a stack, in the closure of the function that it gives to a creator.
    """
    kept = dict(zip(next_creator.__code__.co_freevars, next_creator.__closure__ or ()))
    if "stack" not in kept or "context" not in kept or not kept["stack"].cell_contents:
        return None
    stack, context = kept["stack"].cell_contents.clone(), kept["context"].cell_contents

    def create(shape: Any, dtype: Any, init: Any) -> Any:
        left = stack.clone()

        def next_one(shape: Any, dtype: Any, init: Any) -> Any:
            return left.popleft()(next_one, shape, dtype, init, context) if left else init(shape, dtype)

        return next_one(shape, dtype, init)

    return create


# --- transformed functions ---

def original_function(function: Any) -> Callable[..., Any] | None:
    """Returns the function that Haiku transformed into an init or an apply; None for any other function."""
    return getattr(function, ORIGINAL, None)


def is_lift(module: hk.Module) -> bool:
    """Returns whether a module is that of hk.lift, whose call returns parameters."""
    return type(module).__module__ == _LIFT


def flax_prefix(module: Any) -> str | None:
    """Returns the prefix of the names of Flax's parameters that a lift has; None for any other module."""
    init = getattr(module, "_init_fn", None)
    of_flax = is_lift(module) and getattr(init, "__module__", None) == "haiku._src.flax.transform_flax"
    return str(module.prefix_name) if of_flax else None


def lacks_state(error: Exception) -> bool:
    """Returns whether an error says that a plain hk.transform has no place for state."""
    return type(error).__name__ == "NonEmptyStateError"
