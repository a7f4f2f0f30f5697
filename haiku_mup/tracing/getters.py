"""What happens to a parameter where it is used: it is multiplied, or what its layer is given in its place."""
import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from haiku_mup.errors import MupError
from haiku_mup.parameters.factors import Factor, Rows, mapped, scaled, steered
from haiku_mup.parameters.scaling import READOUT, ForwardFactors, layer_kind
from haiku_mup.tracing import haiku_internals as naming

# Layers whose weights "w" are used in a product with their inputs, which is multiplied in place of the weights.
PRODUCTS = (hk.Linear, hk.ConvND, hk.ConvNDTranspose)

# The attention, LSTM or embedding that is being called, and its inputs.
enclosing: contextvars.ContextVar[tuple[hk.MethodContext, Any] | None] = contextvars.ContextVar(
    "enclosing", default=None)
# The layer that is being called, and by what it multiplies its inputs or outputs in place of its weights.
_product: contextvars.ContextVar[tuple[hk.Module | None, Factor]] = contextvars.ContextVar(
    "product", default=(None, 1.0))


class Uses(Protocol):
    """What knows how parameters are used: a part of what a `context.ActiveContext` is."""

    def forward_factors(self, name: str, shape: tuple[int, ...]) -> ForwardFactors:
        """What happens to the parameter of this name (without a lift's prefix) and shape where it is used."""

    def lifted(self, name: str, shape: tuple[int, ...]) -> bool:
        """Whether this may be a parameter that the user lifted, and that a model of its own is called with."""

    def stray(self, name: str, shape: tuple[int, ...]) -> str:
        """What to say where the model has a parameter that nobody captured, if anything."""


def read(active: Uses, transform_depth: int, next_getter: Callable[[Any], Any], value: Any,
         context: hk.GetterContext, warn: Callable[[str], None]) -> Any:
    """A parameter as it is used: multiplied, unless its layer multiplies activations in its place.

    Other getters run between: what they see, and give, is the parameter as Table 8 keeps it, in every form.

    Args:
      active: which knows its factors.
      transform_depth: how many of Haiku's transforms that run are around the model, or it itself.
      next_getter: what the other getters make of a value.
      value: as it is stored.
      context: what Haiku tells a getter.
      warn: called with what to say of a parameter that nobody captured.

    Raises:
      MupError: another model's parameter that looks like one of this; a layer that couldn't apply a factor.
    """
    name, shape = context.full_name, tuple(map(int, context.original_shape))
    if not isinstance(value, (jax.Array, np.ndarray, np.generic)):
        return next_getter(value)
    factors = active.forward_factors(name, shape)
    if factors == ForwardFactors():
        text = active.stray(name, shape)
        if text and not naming.apart(transform_depth):
            warn(text)
        return next_getter(value)
    apart = naming.apart(transform_depth)
    if apart == naming.INIT or (apart and factors.plain):
        return next_getter(value)
    if apart and not active.lifted(name, shape):
        raise MupError.about(name, None, shape, "a model that was transformed apart is called inside this one "
                             "with parameters of its own, and this one of them has the name and the shape of a "
                             "parameter that has factors here; rename its modules, or call it outside, or, "
                             "where it is in μP, too, wrap it: mup.wrap_model(inner)")
    factor, stored = _factor(factors, shape, context), factors.stored
    value = value if factors.gradient == 1 else steered(value, factors.gradient)
    shown = scaled(value, stored)
    found = next_getter(shown)
    if found is shown:
        return scaled(value, factor)
    return found if factor == stored else scaled(scaled(found, mapped(lambda x: 1 / x, stored)), factor)


def _factor(factors: ForwardFactors, shape: tuple[int, ...], context: hk.GetterContext) -> Factor:
    """What a parameter is multiplied by as it is read: 1, where its layer multiplies activations."""
    leaf, (layer, done) = naming.leaf_name(context), _product.get()
    if layer is None or layer is not context.module or leaf not in ("w", "embeddings"):
        itself = layer_kind(context.module, leaf) == READOUT        # a subclass that doesn't call its class's
        return factors.multiplier if itself else factors.forward
    if done != factors.forward:
        raise MupError.about(context.full_name, None, shape, "its factor in the forward pass is "
                             f"{factors.forward}, and its layer multiplied its inputs by {done}; give it "
                             "inputs like those that it was captured with")
    return 1.0


def call(active: Uses, next_method, args, kwargs, context: hk.MethodContext) -> Any:
    """Calls a method of a module; multiplies what a product is given, or an embedding gives.

    Meanwhile `enclosing` has the LSTM, attention or embedding.
    """
    module = context.module
    if context.method_name != "__call__":
        return next_method(*args, **kwargs)
    if context.orig_class in PRODUCTS:
        return _multiplied(active, next_method, args, kwargs, module)
    if not isinstance(module, (hk.MultiHeadAttention, hk.LSTM, hk.Embed)):
        return next_method(*args, **kwargs)
    inputs = args[0] if args else kwargs.get("inputs")
    with during(enclosing, (context, inputs)):
        if context.orig_class is hk.Embed:
            return _looked_up(active, next_method, args, kwargs, module)
        return next_method(*args, **kwargs)


@contextlib.contextmanager
def during(variable: contextvars.ContextVar[Any], value: Any) -> Iterator[None]:
    """A context in which a variable has a value."""
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


def _multiplied(active: Uses, next_method, args, kwargs, module: Any) -> Any:
    """What Haiku's own layer makes of its inputs times what its weights are to be multiplied by."""
    if not args:
        args = (kwargs.pop("inputs"),) if "inputs" in kwargs else ()
    factor = active.forward_factors(f"{module.module_name}/w", weight_shape(module, *args[:1])).forward
    with during(_product, (module, factor)):
        return next_method(*(_channels(x, factor) for x in args[:1]), *args[1:], **kwargs)


def _channels(inputs: Any, factor: Factor) -> Any:
    """Inputs times a factor, or one for each of the weight's rows, which are the inputs' last axis."""
    if isinstance(factor, Rows):
        rows = factor.array().reshape(*(1,) * (inputs.ndim - 1), -1)
        return inputs * jnp.asarray(rows, inputs.dtype)
    return scaled(inputs, factor)


def _looked_up(active: Uses, next_method, args, kwargs, module: hk.Embed) -> Any:
    """The rows that an embedding looks up, multiplied."""
    shape = (int(module.vocab_size or 0), int(module.embed_dim or 0))
    factor = active.forward_factors(f"{module.module_name}/embeddings", shape).forward
    with during(_product, (module, factor)):
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
