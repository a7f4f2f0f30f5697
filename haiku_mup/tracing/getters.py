"""Applies forward factors: to a parameter as it is read, or to inputs or outputs of the layer that owns it."""
import contextvars
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from haiku_mup.errors import MupError
from haiku_mup.parameters.haiku_layers import SCALING_INPUTS, Weight, layer_type, record_of
from haiku_mup.parameters.row_factors import Factor, RowFactors, map_factor, scale_gradient, scaled
from haiku_mup.parameters.scaling import RuntimeFactors
from haiku_mup.tracing.haiku_internals import TransformedFunction, leaf_name, users_line
from haiku_mup.tracing.scope import ActiveContext, during, is_foreign
from haiku_mup.tracing.warn_once import warn_once

PLAIN = RuntimeFactors()


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


class _LayerCall(NamedTuple):
    """A call of a layer whose weight has a factor.

    Attributes:
      next_method: the method.
      args, kwargs: what it is called with.
      module: the layer.
      weight: its weight.
    """

    next_method: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    module: Any
    weight: Weight

    @property
    def activations(self) -> Any:
        """Returns the activations that it is given; None where it is given none, and will fail by itself."""
        if self.weight.keyword in self.kwargs:
            return self.kwargs[self.weight.keyword]
        return self.args[self.weight.argument] if len(self.args) > self.weight.argument else None

    def factor(self, active: ActiveContext) -> Factor:
        """Returns the forward factor of the weight in the active context."""
        shape = self.weight.shape(self.module, self.activations)
        return active.runtime_factors(f"{self.module.module_name}/{self.weight.leaf}", shape).forward

    def run(self, factor: Factor) -> Any:
        """Calls the method; the weight's getter knows that its factor is applied."""
        with during(_product, _Product(self.module, self.weight.leaf, factor)):
            return self.next_method(*self.args, **self.kwargs)

    def with_activations(self, x: Any) -> "_LayerCall":
        """Returns the call with other activations."""
        keyword, argument = self.weight.keyword, self.weight.argument
        if keyword in self.kwargs:
            return self._replace(kwargs={**self.kwargs, keyword: x})
        return self._replace(args=(*self.args[:argument], x, *self.args[argument + 1:]))


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


def read(active: ActiveContext, next_getter: Callable[[Any], Any], value: Any, context: hk.GetterContext,
         foreign: Callable[[], TransformedFunction | None]) -> Any:
    """Returns a parameter as the model uses it: multiplied, unless its layer multiplies activations instead.

    Other getters run in between: in every form they see, and return, the parameter that Table 8 keeps.

    Args:
      active: the context that knows its factors.
      next_getter: applies the other getters to a value.
      value: the parameter as it is stored.
      context: what Haiku tells a getter.
      foreign: returns the running function of another model that has this parameter, if any.

    Raises:
      MupError: another model's parameter that looks like one of this model; a layer that couldn't apply a
        factor.

    Warns:
      MupWarning: a parameter that was not captured, where no wrapped optimizer would say so.
    """
    name, shape = context.full_name, tuple(map(int, context.original_shape))
    if not isinstance(value, (jax.Array, np.ndarray, np.generic)):
        return next_getter(value)
    factors = active.runtime_factors(name, shape)
    if factors == PLAIN:
        text = active.uncaptured(name, shape)
        if text and foreign() is None:
            warn_once(active.warned, "uncaptured", text)
        return next_getter(value)
    other = foreign()
    if other == TransformedFunction.INIT or (other and factors.plain):
        return next_getter(value)
    if other and not active.is_lifted(name, shape):
        raise MupError.about(name, None, shape, "a model that was transformed apart is called inside this one "
                                                "with its own parameters, and one of them, this one, has the "
                                                "name and shape of a parameter that has factors here; rename "
                                                "its modules, or call it outside, or, if it is in μP, too, "
                                                "wrap it: mup.wrap_model(inner)", users_line())
    return _multiplied(value, next_getter, factors, _factor(factors, shape, context))


def _multiplied(value: Any, next_getter: Callable[[Any], Any], factors: RuntimeFactors, factor: Factor) -> Any:
    """Returns a stored value times a factor, with other getters applied to θ times the value in between."""
    theta = factors.stored
    value = value if factors.gradient == 1 else scale_gradient(value, factors.gradient)
    shown = scaled(value, theta)
    found = next_getter(shown)
    if found is shown:          # one multiplication instead of three, and no rounding in between
        return scaled(value, factor)
    return found if factor == theta else scaled(scaled(found, map_factor(lambda x: 1 / x, theta)), factor)


def _factor(factors: RuntimeFactors, shape: tuple[int, ...], context: hk.GetterContext) -> Factor:
    """Returns the factor of a parameter as it is read: 1 if its layer multiplies activations instead."""
    leaf, product = leaf_name(context), _product.get()
    if product is None or product.module is not context.module or product.leaf != leaf:
        is_readout = layer_type(context.module).kinds.get(leaf) in SCALING_INPUTS
        # A readout that is read elsewhere is of a subclass that doesn't call its base's method.
        return factors.multiplier if is_readout else factors.forward
    if product.factor != factors.forward:
        raise MupError.about(context.full_name, None, shape, "its factor in the forward pass is "
                             f"{factors.forward}, and its layer multiplied its inputs by {product.factor}; "
                             "give it inputs like those that it was captured with", users_line())
    return 1.0


def is_plain_call(active: ActiveContext, context: hk.MethodContext) -> bool:
    """Returns whether a method is to be called as it is: it is of no layer whose factors `call` applies.

    Most calls are plain, of blocks and of whole models. A frame of Python's that `call` would add to each makes
    all tracing below it slower, since JAX keeps the stack of every operation.
    """
    if context.method_name == "params_dict":
        return not active.is_in_mup
    return context.method_name != "__call__" or not (
        layer_type(context.module).encloses or (active.is_in_mup and record_of(context.orig_class)))


def call(active: ActiveContext, next_method, args, kwargs, context: hk.MethodContext) -> Any:
    """Calls a method of a module; multiplies its inputs or outputs in place of its weight, if it has one."""
    if context.method_name == "params_dict":
        return _params_multiplied(active, next_method(*args, **kwargs), context.module)
    if not layer_type(context.module).encloses:
        return _called(active, next_method, args, kwargs, context)
    with during(enclosing, Call(context.module, context.orig_class, args, kwargs)):
        return _called(active, next_method, args, kwargs, context)


def _params_multiplied(active: ActiveContext, params: Mapping[str, Any], module: Any) -> Mapping[str, Any]:
    """Returns the parameters of `module.params_dict()` as they are used: Haiku's getters don't see them."""
    if is_foreign(active):
        return params
    layer, found = layer_type(module), dict(params)
    for name, value in params.items():
        shape, leaf = tuple(map(int, value.shape)), name.removeprefix(f"{module.module_name}/")
        if layer.scaled_outputs and layer.scaled_outputs.leaf == leaf:
            active.table_read(hk.GetterContext(name, module, value.dtype, shape, None, None))
        factors = active.runtime_factors(name, shape)
        if factors != PLAIN:
            factor = factors.multiplier if layer.kinds.get(leaf) in SCALING_INPUTS else factors.forward
            found[name] = _multiplied(value, lambda x: x, factors, factor)
    return found


def _called(active: ActiveContext, next_method, args, kwargs, context: hk.MethodContext) -> Any:
    record = record_of(context.orig_class)      # not a base's: a subclass may do other things with its inputs
    weight = None if record is None or not active.is_in_mup else record.scaled_inputs or record.scaled_outputs
    if record is None or weight is None:
        return next_method(*args, **kwargs)
    layer_call = _LayerCall(next_method, args, kwargs, context.module, weight)
    if not record.scaled_inputs:
        factor = layer_call.factor(active)
        return scaled(layer_call.run(factor), factor)
    inputs = layer_call.activations
    if inputs is None:
        return next_method(*args, **kwargs)
    factor = layer_call.factor(active)
    return layer_call.with_activations(_channels(inputs, factor)).run(factor)


def _channels(inputs: Any, factor: Factor) -> Any:
    """Returns inputs times a factor, or one for each of the weight's rows, which are the inputs' last axis."""
    if isinstance(factor, RowFactors):
        rows = factor.array().reshape(*(1,) * (inputs.ndim - 1), -1)
        return inputs * jnp.asarray(rows, inputs.dtype)
    return scaled(inputs, factor)
