"""What happens to a parameter where it is used: it is multiplied, or what its layer is given in its place."""
import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from haiku_mup.errors import MupError
from haiku_mup.parameters.factors import Factor, RowFactors, map_factor, scale_gradient, scaled
from haiku_mup.parameters.haiku_layers import READOUT, Weight, layer_type, record_of
from haiku_mup.parameters.scaling import ForwardFactors
from haiku_mup.tracing import haiku_internals as naming


class Call(NamedTuple):
    """A call of a layer that tells something of the parameters below it.

    Attributes:
      module: the layer.
      orig_class: the class that defines the method.
      args, kwargs: the arguments.
    """

    module: Any
    orig_class: type
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class _Product(NamedTuple):
    """A layer that is being called, and multiplies activations in place of its weight.

    Attributes:
      module: the layer.
      leaf: its weight's own name.
      factor: what the activations are multiplied by.
    """

    module: hk.Module
    leaf: str
    factor: Factor


# The innermost call of a layer that `LayerType.encloses`.
enclosing: contextvars.ContextVar[Call | None] = contextvars.ContextVar("enclosing", default=None)
_product: contextvars.ContextVar[_Product | None] = contextvars.ContextVar("product", default=None)


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
    value = value if factors.gradient == 1 else scale_gradient(value, factors.gradient)
    shown = scaled(value, stored)
    found = next_getter(shown)
    if found is shown:
        return scaled(value, factor)
    return found if factor == stored else scaled(scaled(found, map_factor(lambda x: 1 / x, stored)), factor)


def _factor(factors: ForwardFactors, shape: tuple[int, ...], context: hk.GetterContext) -> Factor:
    """Returns what a parameter is multiplied by as it is read: 1, where its layer multiplies activations."""
    leaf, product = naming.leaf_name(context), _product.get()
    if product is None or product.module is not context.module or product.leaf != leaf:
        itself = layer_type(context.module).kinds.get(leaf) == READOUT
        # Itself, where a subclass doesn't call its base's method.
        return factors.multiplier if itself else factors.forward
    if product.factor != factors.forward:
        raise MupError.about(context.full_name, None, shape, "its factor in the forward pass is "
                             f"{factors.forward}, and its layer multiplied its inputs by {product.factor}; "
                             "give it inputs like those that it was captured with")
    return 1.0


def call(active: Uses, next_method, args, kwargs, context: hk.MethodContext) -> Any:
    """Calls a method of a module; multiplies inputs or outputs in place of a weight, where it has one."""
    if context.method_name != "__call__":
        return next_method(*args, **kwargs)
    if not layer_type(context.module).encloses:
        return _called(active, next_method, args, kwargs, context)
    with during(enclosing, Call(context.module, context.orig_class, args, kwargs)):
        return _called(active, next_method, args, kwargs, context)


def _called(active: Uses, next_method, args, kwargs, context: hk.MethodContext) -> Any:
    record = record_of(context.orig_class)      # not a base's: a subclass may do other things with its inputs
    if record is None:
        return next_method(*args, **kwargs)
    if record.scaled_inputs:
        return _inputs_scaled(active, next_method, args, kwargs, context.module, record.scaled_inputs)
    if record.scaled_outputs:
        return _outputs_scaled(active, next_method, args, kwargs, context.module, record.scaled_outputs)
    return next_method(*args, **kwargs)


@contextlib.contextmanager
def during(variable: contextvars.ContextVar[Any], value: Any) -> Iterator[None]:
    """A context in which a variable has a value."""
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


def _inputs_scaled(active: Uses, next_method, args, kwargs, module: Any, weight: Weight) -> Any:
    """Calls a layer with its inputs multiplied by its weight's factor."""
    inputs = _activations(args, kwargs, weight)
    if inputs is None:
        return next_method(*args, **kwargs)
    factor = active.forward_factors(f"{module.module_name}/{weight.leaf}", weight.shape(module, inputs)).forward
    if weight.keyword in kwargs:
        kwargs = kwargs | {weight.keyword: _channels(inputs, factor)}
    else:
        args = (*args[:weight.argument], _channels(inputs, factor), *args[weight.argument + 1:])
    with during(_product, _Product(module, weight.leaf, factor)):
        return next_method(*args, **kwargs)


def _outputs_scaled(active: Uses, next_method, args, kwargs, module: Any, weight: Weight) -> Any:
    """Calls a layer and multiplies its outputs by its weight's factor."""
    shape = weight.shape(module, _activations(args, kwargs, weight))
    factor = active.forward_factors(f"{module.module_name}/{weight.leaf}", shape).forward
    with during(_product, _Product(module, weight.leaf, factor)):
        return scaled(next_method(*args, **kwargs), factor)


def _activations(args, kwargs, weight: Weight) -> Any:
    """Returns the activations that a call is given; None where it is given none, and will fail by itself."""
    if weight.keyword in kwargs:
        return kwargs[weight.keyword]
    return args[weight.argument] if len(args) > weight.argument else None


def _channels(inputs: Any, factor: Factor) -> Any:
    """Inputs times a factor, or one for each of the weight's rows, which are the inputs' last axis."""
    if isinstance(factor, RowFactors):
        rows = factor.array().reshape(*(1,) * (inputs.ndim - 1), -1)
        return inputs * jnp.asarray(rows, inputs.dtype)
    return scaled(inputs, factor)
