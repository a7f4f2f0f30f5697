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
import jax.numpy as jnp
import numpy as np

from haiku_mup import naming
from haiku_mup.errors import MupError, MupWarning
from haiku_mup.scale import Factor, Rows, scaled, steered
from haiku_mup.shapes import READOUT, Used, layer_kind

# Layers whose weights "w" are used in a product with their inputs, which is multiplied in place of the weights.
PRODUCTS = (hk.Linear, hk.ConvND, hk.ConvNDTranspose)

# A ContextVar is not in the key of JAX's caches: a function traced in one context would be reused in
# another, and its creators never run. A user context is. None is the standard parametrization.
_scope = jax.make_user_context(default_value=None)
_applied: contextvars.ContextVar["_Applied | None"] = contextvars.ContextVar("apply_mup", default=None)
# The attention, LSTM or embedding that is being called, and its inputs.
_enclosing: contextvars.ContextVar[tuple[hk.MethodContext, Any] | None] = contextvars.ContextVar(
    "enclosing", default=None)
# The branch of haiku_mup.residual that is being computed.
_branch: contextvars.ContextVar[naming.Branch | None] = contextvars.ContextVar("branch", default=None)
# The layer that is being called, and by what it multiplies its inputs or outputs in place of its weights.
_product: contextvars.ContextVar[tuple[hk.Module | None, Factor]] = contextvars.ContextVar(
    "product", default=(None, 1.0))
_MARK, _ORIGINAL = "_haiku_mup", "_original_fn"     # attributes of functions: ours, Haiku's
# (parameter, shape) of a layer -> the `warned` of its target's Mup.
_latest: dict[tuple[str, tuple[int, ...]], set[str]] = {}


class Made(NamedTuple):
    """A parameter that a creator has made: whether the tree has it shows as apply_mup() ends.

    Attributes:
      names: "module/name" with the prefix of hk.lift and layer_stack, as the tree has it; a transparent
        layer_stack has several.
      leaf: the last part of them.
      array: itself, as the creator returned it.
      value: what the scope wants back, or the error to raise.
    """

    names: tuple[str, ...]
    leaf: str
    array: Any
    value: Any


class Scope(Protocol):
    """What a Mup puts in force around an init or an apply. Hashable: it is in JAX's cache keys."""

    def create(self, next_creator, shape, dtype, init, context, enclosing) -> tuple[Any, Made]:
        """Makes a parameter, as an hk.custom_creator does, and says what it made."""

    def keep(self, made: Made) -> None:
        """Called for each parameter that is in the tree as apply_mup() ends."""

    def matrix_read(self, context: Any) -> None:
        """Called when an embedding's matrix is read other than by a lookup."""

    def branch(self, branch: naming.Branch) -> float:
        """What a branch of haiku_mup.residual is multiplied by, once it has been computed."""

    def used(self, name: str, shape: tuple[int, ...]) -> Used:
        """What happens to the parameter of this name (without a lift's prefix) and shape where it is used."""

    def multiplier(self, name: str, shape: tuple[int, ...]) -> float:
        """What the layer of parameter `name` multiplies its product by."""

    def tied_multiplier(self) -> float:
        """What a readout multiplies by that was given the matrix of an embedding."""


class _Applied:
    """An apply_mup() that is open, and has a scope to serve.

    Attributes:
      scope: whom it serves.
      outside: how many lifts there are around it.
      made: what it has seen, each with its name in the tree around the apply_mup(), and whether it is lifted
        on the way there.
    """

    def __init__(self, scope: Scope):
        self.scope = scope
        self.outside = naming.depth()
        self.made: list[tuple[Made, str, bool]] = []

    def note(self, made: Made, context: Any) -> None:
        name = naming.stored_names(context, self.outside)[0]
        self.made.append((made, name, naming.depth() > self.outside))


def current() -> Scope | None:
    """The scope in force in this thread."""
    scope: Scope | None = _scope.value
    return scope


def entered(scope: Scope | None):
    """A context manager in which `scope`, or none, is in force, for this thread."""
    return _scope(scope)


def bound(scope: Scope, function):
    """`function` with the scope in force, and so whatever Haiku transforms anew from it."""
    @functools.wraps(function)
    def wrapped(*args, **kwargs):
        with entered(scope):
            return function(*args, **kwargs)

    original = getattr(function, _ORIGINAL, None)
    if original is not None:
        setattr(wrapped, _ORIGINAL, bound(scope, original))
    setattr(wrapped, _MARK, True)
    return wrapped


def is_bound(function: Any) -> bool:
    """Whether `bound` made it, or what Haiku made from it."""
    return hasattr(function, _MARK) or hasattr(getattr(function, _ORIGINAL, None), _MARK)


@contextlib.contextmanager
def apply_mup() -> Iterator[None]:
    """Puts the parameters that are made below it in μP; use it inside the transformed function.

    In `Mup.init_base` it records every parameter's shape and std, in `Mup.init_target` and in the init
    of a wrapped model it rescales the draws; elsewhere it does nothing. One inside another is one.

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
    scope, outer = current(), _applied.get()
    if scope is None or (outer is not None and scope is outer.scope):
        yield
        return

    mine = _Applied(scope)

    def creator(next_creator, shape, dtype, init, context):
        if current() not in (scope, None) or _applied.get() is not mine:    # another Mup's model inside ours
            return next_creator(shape, dtype, init)
        with entered(None):     # JAX would trace every draw anew for each scope, and keep it for ever
            array, what = scope.create(next_creator, shape, dtype, init, context, _enclosing.get())
        mine.note(what, context)
        return array

    def getter(next_getter, value, context):
        call, _ = _enclosing.get() or (None, None)
        if _applied.get() is mine and isinstance(context.module, hk.Embed) and (
                call is None or call.module is not context.module):
            scope.matrix_read(context)
        return next_getter(_used(scope, value, context) if _applied.get() is mine else value)

    token = _applied.set(mine)
    try:
        with hk.custom_creator(creator), hk.custom_getter(getter), \
                hk.intercept_methods(functools.partial(_call, mine)):
            yield
        _keep(mine, hk.get_params() if mine.made else {})
    finally:
        _applied.reset(token)


def _keep(mine: _Applied, params: hk.Params) -> None:
    """Hands over what the tree has: an inner hk.transform may have made more, for itself."""
    found = [(what, _stored(what, name, lifted, params)) for what, name, lifted in mine.made]
    certain = {what.names for what, stored in found if stored is what.array}
    for what, stored in found:
        if stored is None or (what.names in certain and stored is not what.array):
            continue
        if isinstance(what.value, MupError):
            raise what.value
        mine.scope.keep(what)


def _stored(what: Made, name: str, lifted: bool, params: hk.Params) -> Any:
    """The array that the tree has for it, or None.

    Below a lift the tree has another array, with stack axes anywhere; elsewhere a name that fits but not the
    shape belongs to somebody else.
    """
    array = params.get(name[:-len(what.leaf) - 1], {}).get(what.leaf)
    return array if array is not None and (lifted or array.shape == what.array.shape) else None


def _used(scope: Scope, value: Any, context: hk.GetterContext) -> Any:
    """A parameter as it is used: multiplied, unless its layer multiplies activations in its place."""
    if not isinstance(value, (jax.Array, np.ndarray, np.generic)):
        return value
    shape, leaf = tuple(map(int, context.original_shape)), naming.leaf_name(context)
    used, (layer, done) = scope.used(context.full_name, shape), _product.get()
    value = value if used.gradient == 1 else steered(value, used.gradient)
    if layer is None or layer is not context.module or leaf not in ("w", "embeddings"):
        itself = layer_kind(context.module, leaf) == READOUT        # a subclass that doesn't call its class's
        return scaled(value, used.multiplier if itself else used.forward)
    if done != used.forward:
        raise MupError.about(context.full_name, None, shape, f"its factor in the forward pass is {used.forward}"
                             f", and its layer multiplied its inputs by {done}; give it inputs like those that "
                             "it was captured with")
    return value


def _call(mine: _Applied, next_method, args, kwargs, context):
    """Tells the creator in which LSTM, attention or embedding it is; multiplies what a product is given."""
    module = context.module
    if context.method_name != "__call__" or _applied.get() is not mine:
        return next_method(*args, **kwargs)
    if context.orig_class in PRODUCTS:
        return _multiplied(mine.scope, next_method, args, kwargs, module)
    if not isinstance(module, (hk.MultiHeadAttention, hk.LSTM, hk.Embed)):
        return next_method(*args, **kwargs)
    inputs = args[0] if args else kwargs.get("inputs")
    with _set(_enclosing, (context, inputs)):
        if context.orig_class is hk.Embed:
            return _looked_up(mine.scope, next_method, args, kwargs, module)
        return next_method(*args, **kwargs)


@contextlib.contextmanager
def _set(variable: contextvars.ContextVar[Any], value: Any) -> Iterator[None]:
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


def _multiplied(scope: Scope, next_method, args, kwargs, module: Any) -> Any:
    """What Haiku's own layer makes of its inputs times what its weights are to be multiplied by."""
    if not args:
        args = (kwargs.pop("inputs"),) if "inputs" in kwargs else ()
    factor = scope.used(f"{module.module_name}/w", weight_shape(module, *args[:1])).forward
    with _set(_product, (module, factor)):
        return next_method(*(_channels(x, factor) for x in args[:1]), *args[1:], **kwargs)


def _channels(inputs: Any, factor: Factor) -> Any:
    """Inputs times a factor, or one for each of the weight's rows, which are the inputs' last axis."""
    if isinstance(factor, Rows):
        rows = factor.array().reshape(*(1,) * (inputs.ndim - 1), -1)
        return inputs * jnp.asarray(rows, inputs.dtype)
    return scaled(inputs, factor)


def _looked_up(scope: Scope, next_method, args, kwargs, module: hk.Embed) -> Any:
    """The rows that an embedding looks up, multiplied."""
    shape = (int(module.vocab_size or 0), int(module.embed_dim or 0))
    factor = scope.used(f"{module.module_name}/embeddings", shape).forward
    with _set(_product, (module, factor)):
        return scaled(next_method(*args, **kwargs), factor)


def weight_shape(module: Any, inputs: Any = 0.0) -> tuple[int, ...]:
    """The shape of the weights that a linear or convolutional layer has for these inputs; () for none."""
    shape = jnp.shape(inputs)
    if len(shape) < (1 if isinstance(module, hk.Linear) else 2):
        return ()
    if isinstance(module, hk.Linear):
        return (shape[-1], module.output_size)
    batched = len(shape) > module.num_spatial_dims + 1
    channels = shape[module.channel_index if batched or module.channel_index < 0 else 0]
    if isinstance(module, hk.ConvNDTranspose):
        return (*module.kernel_shape, module.output_channels, channels)
    return (*module.kernel_shape, channels // module.feature_group_count, module.output_channels)


def multiplier(name: str, shape: tuple[int, ...]) -> float:
    """What the layer of parameter `name` (without a lift's prefix) multiplies by: 1 outside of μP."""
    scope = current()
    if scope is not None:
        return scope.multiplier(name, shape)
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
    scope = current()
    return 1.0 if scope is None else scope.tied_multiplier()


def branch() -> naming.Branch | None:
    """The branch of haiku_mup.residual that is being computed."""
    return _branch.get()


def branched(function: Callable[[Any], Any], x: Any) -> tuple[Any, float]:
    """What a branch of haiku_mup.residual makes of x, and what to multiply it by: 1 outside of μP."""
    site, scope = naming.site(), current()
    mine = naming.Branch(site, naming.in_tree(site.module), _branch.get())
    with _set(_branch, mine):
        out = function(x)
    if scope is not None:
        return out, scope.branch(mine)
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
