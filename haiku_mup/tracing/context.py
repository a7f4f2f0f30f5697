"""`apply_mup()`: hooks the creation and the reads of parameters for the active capture or wrapped model."""
import contextlib
from collections.abc import Iterator
from typing import Any

import haiku as hk

from haiku_mup.errors import MupError
from haiku_mup.parameters.haiku_layers import layer_type
from haiku_mup.tracing import getters
from haiku_mup.tracing.creation import CreatedParameter, Creation
from haiku_mup.tracing.draws import note_drawn
from haiku_mup.tracing.flax_lifts import note_flax
from haiku_mup.tracing.haiku_internals import Nesting, TransformedFunction
from haiku_mup.tracing.scope import (
    ActiveContext,
    AppliedContext,
    activated,
    active_context,
    applied_context,
    during,
    running_model,
    transform_depth,
)
from haiku_mup.tracing.unwrapped import note_initialized, unwrapped_reads


@contextlib.contextmanager
def apply_mup() -> Iterator[None]:
    """Puts the parameters that are made below it in μP; use it inside the transformed function.

    In `Mup.init_base` it records every parameter's shape and std, in `Mup.init_target` and in the init
    of a wrapped model it rescales the draws; elsewhere it does nothing. Nested contexts act as one. Parameters
    that are made inside keep their factors wherever the wrapped model reads them. Custom creators inside are
    part of the initializer; those that change what it returns are called more often in a capture, which
    measures it.

    Raises:
      MupError: in a capture, outside of a transformed function; as it ends, in a wrapped model, for a parameter
        that was not captured.

    >>> def fn(x):
    ...     with haiku_mup.apply_mup():
    ...         return hk.Linear(3)(x)
    >>> params = hk.transform(fn).init(jax.random.PRNGKey(0), jnp.ones(2))
    >>> haiku_mup.get_shapes(params)
    {'linear': {'b': (3,), 'w': (2, 3)}}
    """
    active, outer = active_context(), applied_context.get()
    if active is None:
        with unwrapped_reads():
            yield
        return
    if outer is not None and active is outer.active:
        yield
        return
    _check_transformed()
    applied = AppliedContext(active)
    with during(applied_context, applied):
        with _hooks(applied):
            yield
        if applied.created:
            created = _in_tree(applied, hk.get_params())
            active.keep(created)
            note_drawn((parameter.array for parameter in created), active.is_in_mup)


def _check_transformed() -> None:
    """Raises outside of a transformed function, as around `hk.transform` or around a call of init."""
    try:
        hk.running_init()
    except ValueError as error:
        raise MupError("apply_mup() is outside of a transformed function; put it into the function that "
                       "hk.transform is given, around its layers, or into each function of hk.multi_transform"
                       ) from error


@contextlib.contextmanager
def _hooks(applied: AppliedContext) -> Iterator[None]:
    """Returns a context manager in which Haiku asks us as it makes and reads parameters, and calls layers."""
    active, running, depth = applied.active, running_model.get(), transform_depth(applied.active)

    def creation_of(next_creator, shape, dtype, init, context) -> Creation | None:
        """Returns what is to be made for the active context; None where it is another model's."""
        if active_context() not in (active, None) or applied_context.get() is not applied:
            return None                                     # another Mup's model inside ours
        nesting = Nesting()
        if nesting.foreign_transform(depth):                # a model that is initialised for itself
            return None
        return Creation(next_creator=next_creator, shape=shape, dtype=dtype, init=init, context=context,
                        nesting=nesting)

    def creator(next_creator, shape, dtype, init, context):
        """Makes a parameter for the active context."""
        creation = creation_of(next_creator, shape, dtype, init, context)
        if creation is None:
            return next_creator(shape, dtype, init)
        with activated(None):       # JAX would trace every draw anew for each context, and keep it for ever
            array, created = active.create(creation)
        applied.add(created, creation)
        if not active.is_in_mup:
            note_initialized(active.warned, context.full_name, creation.layer_shape, has_factors=False)
        return array

    def state_creator(next_creator, shape, dtype, init, context):
        """Makes state for the active context."""
        creation = creation_of(next_creator, shape, dtype, init, context)
        if creation is None:
            return next_creator(shape, dtype, init)
        with activated(None):
            return active.create_state(creation)

    def getter(next_getter, value, context):
        """Reads a parameter in the capture of a target; a wrapped model has a getter of its own."""
        def foreign() -> TransformedFunction | None:
            """Returns the running function of another model; None where the parameter was just made."""
            just_made = applied.created and applied.created[-1][0].array is value
            return None if just_made else Nesting().foreign_transform(depth)

        if applied_context.get() is not applied:
            return next_getter(value)
        _note_read(active, context)
        return getters.read(active, next_getter, value, context, foreign)

    def interceptor(next_method, args, kwargs, context):
        """Calls a method of a module."""
        if applied_context.get() is not applied:
            return next_method(*args, **kwargs)
        if getters.is_plain_call(active, context):
            out = next_method(*args, **kwargs)
        else:
            out = getters.call(active, next_method, args, kwargs, context)
        if context.method_name == "__call__":
            note_flax(applied, context.module, out)
        return out

    has_getter = active.is_in_mup and running is None
    with (hk.custom_creator(creator), hk.custom_creator(state_creator, params=False, state=True),
          hk.custom_getter(getter) if has_getter else contextlib.nullcontext(),
          hk.intercept_methods(interceptor)):
        yield


def _note_read(active: ActiveContext, context: hk.GetterContext) -> None:
    """Notes that a table is read outside of a lookup, and whether a parameter has factors since this init."""
    call = getters.enclosing.get()
    if layer_type(context.module).scaled_outputs and (call is None or call.module is not context.module):
        active.table_read(context)
    name, shape = context.full_name, tuple(map(int, context.original_shape))
    note_initialized(active.warned, name, shape, not active.runtime_factors(name, shape).plain)


def _in_tree(applied: AppliedContext, params: hk.Params) -> list[CreatedParameter]:
    """Returns the parameters that the tree has, as it has them: an inner hk.transform may have made more."""
    found = [(created, _stored(created, name, lifted, params)) for created, name, lifted in applied.created]
    certain = {created.names for created, stored in found if stored is created.array}
    return [created._replace(array=stored) for created, stored in found
            if stored is not None and (stored is created.array or created.names not in certain)]


def _stored(created: CreatedParameter, name: str, lifted: bool, params: hk.Params) -> Any:
    """Returns the array that the tree has for a parameter, or None.

    Below a lift the tree has another array, with stack axes anywhere. Elsewhere a name that fits but not the
    shape belongs to another parameter.
    """
    array = params.get(name[:-len(created.leaf) - 1], {}).get(created.leaf)
    return array if array is not None and (lifted or array.shape == created.array.shape) else None
