"""The context in force: who sees parameters as they are made, and what a layer multiplies by."""
import contextlib
import contextvars
import functools
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import haiku as hk
import jax

from haiku_mup.errors import MupError, MupWarning
from haiku_mup.parameters.haiku_layers import layer_type
from haiku_mup.parameters.place import Branch
from haiku_mup.tracing import getters as uses
from haiku_mup.tracing import haiku_internals as naming
from haiku_mup.tracing.getters import during

# A ContextVar is not in the key of JAX's caches: a function traced in one context would be reused in
# another, and its creators never run. A user context is. None is the standard parametrization.
_user_context = jax.make_user_context(default_value=None)
_applied_context: contextvars.ContextVar["AppliedContext | None"] = contextvars.ContextVar(
    "apply_mup", default=None)
# The wrapped model that runs.
_running_model: contextvars.ContextVar["RunningModel | None"] = contextvars.ContextVar(
    "running model", default=None)
# The branch of haiku_mup.residual that is being computed.
_branch: contextvars.ContextVar[Branch | None] = contextvars.ContextVar("branch", default=None)
_MARK, _ORIGINAL = "_haiku_mup", "_original_fn"     # attributes of functions: ours, Haiku's
# (parameter, shape) of a layer -> the `warned` of its target's Mup.
_latest: dict[tuple[str, tuple[int, ...]], set[str]] = {}


class CreatedParameter(NamedTuple):
    """A parameter that a creator has created: whether the tree has it shows as apply_mup() ends.

    Attributes:
      names: "module/name" with the prefix of hk.lift and layer_stack, as the tree has it; a transparent
        layer_stack has several.
      leaf: the last part of them.
      array: itself, as the creator returned it.
      value: what the active context wants back, or the error to raise.
    """

    names: tuple[str, ...]
    leaf: str
    array: Any
    value: Any


class ActiveContext(uses.Uses, Protocol):
    """What a Mup puts in force around an init or an apply. Hashable: it is in JAX's cache keys.

    Attributes:
      transform_depth: where it captures, how many of Haiku's transforms are around it, the model's included.
      lifts: whether the model has parameters that a user's function lifts.
      warned: the kinds of warning that its Mup has given.
    """

    transform_depth: int
    warned: set[str]

    @property
    def lifts(self) -> bool: ...

    def create(self, next_creator, shape, dtype, init, context, enclosing) -> tuple[Any, CreatedParameter]:
        """Makes a parameter, as an hk.custom_creator does, and says what it made."""

    def keep(self, created: CreatedParameter) -> None:
        """Called for each parameter that is in the tree as apply_mup() ends."""

    def matrix_read(self, context: Any) -> None:
        """Called when an embedding's matrix is read other than by a lookup."""

    def branch(self, branch: Branch) -> float:
        """What a branch of haiku_mup.residual is multiplied by, once it has been computed."""

    def multiplier(self, name: str, shape: tuple[int, ...]) -> float:
        """What the layer of parameter `name` multiplies its product by."""

    def tied_multiplier(self) -> float:
        """What a readout multiplies by that was given the matrix of an embedding."""


class AppliedContext:
    """An apply_mup() that is open, and has an active context to serve.

    Attributes:
      active: the context that it serves.
      outside: how many lifts there are around it.
      created: what it has seen, each with its name in the tree around the apply_mup(), and whether it is lifted
        on the way there.
    """

    def __init__(self, active: ActiveContext):
        self.active = active
        self.outside = naming.depth()
        self.created: list[tuple[CreatedParameter, str, bool]] = []

    def note(self, created: CreatedParameter, context: Any) -> None:
        name = naming.stored_names(context, self.outside)[0] if self.outside else created.names[0]
        self.created.append((created, name, naming.depth() > self.outside))


def active_context() -> ActiveContext | None:
    """The context in force in this thread."""
    active: ActiveContext | None = _user_context.value
    return active


def entered(active: ActiveContext | None):
    """A context manager in which `active`, or none, is in force, for this thread."""
    return _user_context(active)


class RunningModel:
    """A wrapped model that runs.

    Attributes:
      transform_depth: how many of Haiku's transforms are around it, and it itself.
    """

    def __init__(self, transform_depth: int):
        self.transform_depth = transform_depth


def bound(active: ActiveContext, function, inside: bool = False):
    """`function` with the active context in force, and so whatever Haiku transforms anew from it.

    Args:
      active: the context.
      function: an init, an apply, or a function that Haiku transforms.
      inside: whether it is the latter, and so called inside of a transform.
    """
    @functools.wraps(function)
    def wrapped(*args, **kwargs):
        def guarded():
            with _guarded(active, running):
                return function(*args, **kwargs)

        running = RunningModel(naming.transforms() + (0 if inside else 2))
        with entered(active), during(_applied_context, None), during(_running_model, running):
            return guarded() if inside else hk.transform(guarded).apply({}, None)   # getters need a transform

    original = getattr(function, _ORIGINAL, None)
    if original is not None:
        setattr(wrapped, _ORIGINAL, bound(active, original, inside=True))
    setattr(wrapped, _MARK, True)
    return wrapped


@contextlib.contextmanager
def _guarded(active: ActiveContext, running: RunningModel) -> Iterator[None]:
    """A wrapped model's parameters have their factors wherever it reads them, before any getter of its own."""
    def getter(next_getter, value, context):
        if _running_model.get() is not running:          # another wrapped model, inside this one
            return next_getter(value)
        return uses.read(active, running.transform_depth, next_getter, value, context, functools.partial(
            warn_once, active.warned, "stray"))

    def interceptor(next_method, args, kwargs, context):
        if _running_model.get() is not running or _applied_context.get() is not None:
            return next_method(*args, **kwargs)
        return uses.call(active, next_method, args, kwargs, context)

    with hk.custom_getter(getter), hk.intercept_methods(interceptor):
        yield


def is_bound(function: Any) -> bool:
    """Whether `bound` made it, or what Haiku made from it."""
    return hasattr(function, _MARK) or hasattr(getattr(function, _ORIGINAL, None), _MARK)


@contextlib.contextmanager
def apply_mup() -> Iterator[None]:
    """Puts the parameters that are made below it in μP; use it inside the transformed function.

    In `Mup.init_base` it records every parameter's shape and std, in `Mup.init_target` and in the init
    of a wrapped model it rescales the draws; elsewhere it does nothing. One inside another is one. What is made
    inside has its factors wherever the wrapped model uses it.

    Raises:
      MupError: as it ends, in an `init_target`, for a parameter that can't be right in μP; in a wrapped
        model, for a parameter that was not captured.

    >>> def fn(x):
    ...     with haiku_mup.apply_mup():
    ...         return hk.Linear(3)(x)
    >>> params = hk.transform(fn).init(jax.random.PRNGKey(0), jnp.ones(2))
    >>> haiku_mup.get_shapes(params)
    {'linear': {'b': (3,), 'w': (2, 3)}}
    """
    active, outer = active_context(), _applied_context.get()
    if active is None:
        with _unwrapped():
            yield
        return
    if outer is not None and active is outer.active:
        yield
        return

    mine, running = AppliedContext(active), _running_model.get()
    transform_depth = _transform_depth(active)

    def creator(next_creator, shape, dtype, init, context):
        # Another Mup's model inside ours, or one that is initialised for itself.
        if active_context() not in (active, None) or _applied_context.get() is not mine or \
                naming.apart(transform_depth):
            return next_creator(shape, dtype, init)
        with entered(None):     # JAX would trace every draw anew for each context, and keep it for ever
            array, what = active.create(next_creator, shape, dtype, init, context, uses.enclosing.get())
        mine.note(what, context)
        return array

    def getter(next_getter, value, context):
        if _applied_context.get() is not mine or running is not None:
            return next_getter(value)
        call, lookup = uses.enclosing.get(), layer_type(context.module).scaled_outputs
        if lookup and (call is None or call.module is not context.module):
            active.matrix_read(context)
        _note_latest(active, context)
        return uses.read(active, transform_depth, next_getter, value, context, lambda text: None)

    def interceptor(next_method, args, kwargs, context):
        if _applied_context.get() is not mine:
            return next_method(*args, **kwargs)
        return uses.call(active, next_method, args, kwargs, context)

    with during(_applied_context, mine):
        with hk.custom_creator(creator), hk.custom_getter(getter), hk.intercept_methods(interceptor):
            yield
        _keep(mine, hk.get_params() if mine.created else {})


@contextlib.contextmanager
def _unwrapped() -> Iterator[None]:
    """What apply_mup() does outside of μP: it warns where the model that runs should have factors."""
    def getter(next_getter, value, context):
        name, shape = context.full_name, tuple(map(int, context.original_shape))
        _warn_unwrapped(name, shape, f"{name!r}: target {shape}")
        return next_getter(value)

    if not _latest or not naming.transforms():
        yield
        return
    with hk.custom_getter(getter):
        yield


def _note_latest(active: ActiveContext, context: hk.GetterContext) -> None:
    """Remembers that a parameter was initialised with the factors that it has in a target."""
    name, shape = context.full_name, tuple(map(int, context.original_shape))
    if not active.forward_factors(name, shape).plain:
        _latest[name, shape] = active.warned
    else:
        _latest.pop((name, shape), None)


def _keep(mine: AppliedContext, params: hk.Params) -> None:
    """Hands over what the tree has: an inner hk.transform may have made more, for itself."""
    found = [(what, _stored(what, name, lifted, params)) for what, name, lifted in mine.created]
    certain = {what.names for what, stored in found if stored is what.array}
    for what, stored in found:
        if stored is None or (what.names in certain and stored is not what.array):
            continue
        if isinstance(what.value, MupError):
            raise what.value
        mine.active.keep(what)


def _stored(what: CreatedParameter, name: str, lifted: bool, params: hk.Params) -> Any:
    """The array that the tree has for it, or None.

    Below a lift the tree has another array, with stack axes anywhere; elsewhere a name that fits but not the
    shape belongs to somebody else.
    """
    array = params.get(name[:-len(what.leaf) - 1], {}).get(what.leaf)
    return array if array is not None and (lifted or array.shape == what.array.shape) else None


def multiplier(name: str, shape: tuple[int, ...]) -> float:
    """What the layer of parameter `name` (without a lift's prefix) multiplies by: 1 outside of μP."""
    active = active_context()
    if active is not None:
        return 1.0 if _foreign(active) else active.multiplier(name, shape)
    _warn_unwrapped(name, shape, f"{name!r}: target {shape}")
    return 1.0


def _warn_unwrapped(name: str, shape: tuple[int, ...], where: str) -> None:
    """Warns where a plain model is applied that was last initialised as a target."""
    if hk.running_init():
        initialised(set(), name, shape, 1.0)
    elif (name, shape) in _latest:
        warn_once(_latest[name, shape], "unwrapped", f"{where}: this model was initialised in Mup.init_target, "
                  "and is applied without its multipliers; apply mup.wrap_model(model) instead")


def tied_multiplier() -> float:
    """What a SharedReadout multiplies by that was given an array: 1 outside of μP."""
    active = active_context()
    return 1.0 if active is None or _foreign(active) else active.tied_multiplier()


def _foreign(active: ActiveContext) -> bool:
    """Whether a model of its own runs, and surely no part of the active context's that is lifted."""
    return naming.apart(_transform_depth(active)) != "" and not active.lifts


def _transform_depth(active: ActiveContext) -> int:
    running = _running_model.get()
    return active.transform_depth if running is None else running.transform_depth


def branch() -> Branch | None:
    """The branch of haiku_mup.residual that is being computed."""
    return _branch.get()


def branched(function: Callable[[Any], Any], x: Any) -> tuple[Any, float]:
    """What a branch of haiku_mup.residual makes of x, and what to multiply it by: 1 outside of μP."""
    site, active = naming.site(), active_context()
    mine = Branch(site, naming.in_tree(site.module), _branch.get())
    with during(_branch, mine):
        out = function(x)
    if active is not None:
        return out, 1.0 if _foreign(active) else active.branch(mine)
    _warn_unwrapped(str(site), (), f"{site.module!r}: haiku_mup.residual")
    return out, 1.0


def initialised(warned: set[str], name: str, shape: tuple[int, ...], value: float) -> None:
    """Remembers the latest init of a layer: in a target context with multiplier `value`, or plain."""
    if value != 1:
        _latest[name, shape] = warned
    else:
        _latest.pop((name, shape), None)


def warn_once(warned: set[str], kind: str, text: str) -> None:
    """Warns, the first time for this kind of doubt; `warned` is a Mup's set of kinds."""
    if kind not in warned:
        warnings.warn(text, MupWarning, stacklevel=_users_frame())
        warned.add(kind)


def _users_frame() -> int:
    """How many frames above `warn_once` the user's own line is."""
    depth, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in (
            "haiku_mup", "haiku", "jax", "contextlib", "functools"):
        depth, frame = depth + 1, frame.f_back
    return depth
