"""Records a parameter as it is made: its name, shape, initializer's std, and the facts that its layer gives."""
import functools
import math
from typing import Any

import jax.numpy as jnp

from haiku_mup.parameters.declarations import Declarations
from haiku_mup.parameters.fans import declared_fans, finite_axes
from haiku_mup.parameters.globs import matching
from haiku_mup.parameters.haiku_layers import (
    NAMED,
    TIED,
    LayerKind,
    fans_of,
    is_haikus_parameter,
    layer_type,
)
from haiku_mup.parameters.initializers import known_moments, moments
from haiku_mup.parameters.record import Record
from haiku_mup.tracing.creation import Creation
from haiku_mup.tracing.getters import Call, enclosing
from haiku_mup.tracing.layer_multipliers import current_branch


def record_creation(creation: Creation, declarations: Declarations, transform_depth: int) -> Record:
    """Returns the record of a parameter that is to be made.

    Args:
      creation: the parameter.
      declarations: what the user says of the model.
      transform_depth: how many of Haiku's transforms run around the model's function, its own included.

    Raises:
      MupError: declared fans that the shape doesn't have; several declarations that differ.
    """
    name, leaf, shape, context = creation.names[0], creation.leaf, creation.layer_shape, creation.context
    nesting, call, dtype = creation.nesting, enclosing.get(), jnp.dtype(creation.dtype)
    key_size, scales_logits = attention_of(context.full_name, call)
    fans = declared_fans(declarations.fans, name, shape) or fans_of(context.module, leaf, shape)
    finite = [declarations.finite[glob] for glob in matching(name, declarations.finite)]
    if known := layer_type(context.module).finite.get(leaf):
        finite.append(known)
    return Record(
        name=name, leaf=leaf, local=context.full_name, shape=shape, fans=fans,
        moments=moments(creation.drawn_by, shape, dtype), layer=_layer_kind(creation, declarations),
        inexact=_is_inexact(dtype), key_size=key_size, scaled_attention=scales_logits,
        row_sizes=row_sizes(context.full_name, call), stacks=nesting.stacked_layers,
        finite=finite_axes(finite, fans, name, shape),
        lifted_by_user=nesting.is_lifted_by_user(transform_depth),
        place=nesting.place(creation.names, leaf, current_branch.get()), line=nesting.line)


STATE_LIMIT = 2**22     # entries of a state whose initializer is tried; larger ones are caches, not codebooks


def record_state(creation: Creation, declarations: Declarations, transform_depth: int) -> Record | None:
    """Returns the record of state that is to be made; None for state that is not drawn, as most isn't.

    Args:
      creation: the state.
      declarations, transform_depth: as for `record_creation`.
    """
    shape = creation.layer_shape
    if known_moments(creation.drawn_by, shape) is None and math.prod(shape) > STATE_LIMIT:
        return None
    try:
        moments_ = moments(creation.drawn_by, shape, jnp.dtype(creation.dtype))
    except Exception:       # of the user's initializer, when it is called apart from the model
        return None
    if not shape or not moments_.drawn or math.isnan(moments_.std):
        return None
    return record_creation(creation, declarations, transform_depth)


@functools.cache
def _is_inexact(dtype: Any) -> bool:
    """Returns whether entries of a dtype are floating point or complex numbers."""
    return bool(jnp.issubdtype(dtype, jnp.inexact))


def _layer_kind(creation: Creation, declarations: Declarations) -> LayerKind | None:
    """Returns what kind of layer makes a parameter, as its class or the user says."""
    module, leaf, name = creation.context.module, creation.leaf, creation.names[0]
    layer = layer_type(module)
    if kind := layer.kinds.get(leaf):
        return kind
    # Mup(readouts=...) names layers that multiply their inputs by a weight, and parameters that no layer of
    # Haiku's owns.
    is_weight = layer.scaled_inputs is not None and layer.scaled_inputs.leaf == leaf
    if not is_weight and is_haikus_parameter(module, leaf):
        return None
    if matching(name[:-len(leaf) - 1] if is_weight else name, declarations.readouts):
        return NAMED
    return None if is_weight or not matching(name, declarations.tied) else TIED


def row_sizes(name: str, call: Call | None) -> tuple[int, ...]:
    """Returns the sizes of a parameter's blocks of rows, as the layer that is called around it tells."""
    if call is None:
        return ()
    sizes = layer_type(call.module).row_sizes.get(name.removeprefix(f"{call.module.module_name}/"))
    return tuple(map(int, sizes(call.module, *call.args, **call.kwargs))) if sizes else ()


def attention_of(name: str, call: Call | None) -> tuple[int | None, bool]:
    """Returns the key size of the attention whose queries a parameter makes, and whether it scales its logits.

    It is None for other parameters. A subclass with a `__call__` of its own may scale in any way; unless its
    record says that it does, its logits are taken for those of its base.
    """
    attention = layer_type(call.module).attention if call else None
    if call is None or attention is None or name != f"{call.module.module_name}/{attention.queries}/w":
        return None, False
    return int(attention.key_size(call.module)), attention.scales_logits
