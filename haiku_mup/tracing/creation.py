"""The making of parameters: what Haiku asks a creator for, and the rescaled draw."""
import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp

from haiku_mup.errors import MupError
from haiku_mup.parameters.arrangements import is_arrangement
from haiku_mup.parameters.initializers import Initializer, Rescaled
from haiku_mup.parameters.record import Record
from haiku_mup.parameters.row_factors import Factor
from haiku_mup.parameters.scaling import ParameterScaling
from haiku_mup.tracing.haiku_internals import Nesting, leaf_name, other_creators
from haiku_mup.tracing.warn_once import warn_once


class CreatedParameter(NamedTuple):
    """A parameter that a creator has made; whether the tree has it shows as apply_mup() ends.

    Attributes:
      names: "module/name" in the tree, with the prefix of hk.lift and layer_stack; a transparent layer_stack
        has several.
      leaf: the last part of them.
      array: the parameter, as the creator returned it.
      value: its record, beside the base's where there is one, or the error to raise; None in a wrapped model.
    """

    names: tuple[str, ...]
    leaf: str
    array: Any
    value: Record | ParameterScaling | MupError | None


@dataclasses.dataclass(kw_only=True, slots=True)
class Creation:
    """A parameter that is to be made: what Haiku gives a creator, and what runs around it.

    Attributes:
      next_creator: makes it, given its shape, its dtype and its initializer.
      shape, dtype, init: these.
      context: what Haiku tells of the parameter.
      nesting: what runs around it.
      names: its names in the parameter tree: one, or one for each layer of a transparent layer_stack.
      leaf: its own name.
      layer_shape: its shape in one layer, as the model asked for it.
    """

    next_creator: Callable[..., Any]
    shape: Any
    dtype: Any
    init: Initializer
    context: hk.GetterContext
    nesting: Nesting
    names: tuple[str, ...] = dataclasses.field(init=False)
    leaf: str = dataclasses.field(init=False)
    layer_shape: tuple[int, ...] = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        """Works out what all contexts ask for."""
        self.leaf = leaf_name(self.context)
        self.names = self.nesting.stored_names(self.context, self.leaf)
        self.layer_shape = tuple(map(int, self.context.original_shape))

    def make(self, value: Record | ParameterScaling | MupError | None, factor: Factor,
             warned: set[str]) -> tuple[Any, CreatedParameter]:
        """Makes the parameter, with its draw multiplied by a factor.

        Args:
          value: what to keep of it. Where that is an error, the draw stays as it is.
          factor: multiplies what the initializer draws.
          warned: the kinds of warning that the Mup has given.

        Returns:
          The parameter, and what is known of it: an error, where another creator took the rescaled draw away.

        Warns:
          MupWarning: another creator changed the rescaled draw.
        """
        if factor == 1 or isinstance(value, MupError):
            array = self.next_creator(self.shape, self.dtype, self.init)
            return array, CreatedParameter(self.names, self.leaf, array, value)
        rescaled, others = Rescaled(self.init, factor), other_creators(self.next_creator)
        array = self.next_creator(self.shape, self.dtype, rescaled)
        text = (f"{self.names[0]!r}: shape {tuple(self.shape)}: a custom creator inside apply_mup() {{}}, so "
                "that it may not be in μP; put the creator around apply_mup()")
        if rescaled.result is None:
            value = MupError(text.format("replaced its initializer")).made_at(self.names[0], self.nesting.line)
        elif rescaled.result is not array and not (others and _arranges_draws(others, self.shape, self.dtype)):
            warn_once(warned, "creator", text.format("changed its draw"), self.nesting.line)
        return array, CreatedParameter(self.names, self.leaf, array, value)

    def make_state(self, factor: float, warned: set[str]) -> Any:
        """Makes state, with its draw multiplied by a factor.

        Raises:
          MupError: another creator took the rescaled draw away.
        """
        array, created = self.make(None, factor, warned)
        if isinstance(created.value, MupError):
            raise created.value
        return array


def _arranges_draws(create: Callable[..., Any], shape: Any, dtype: Any) -> bool:
    """Returns whether creators only stack, cut or move entries of draws, and so keep their std."""
    def arranged(entry: Any) -> Any:
        with hk.with_rng(jax.random.PRNGKey(0)):
            return create(shape, dtype, lambda shape, dtype: jnp.broadcast_to(entry.astype(dtype), shape))

    program = jax.make_jaxpr(arranged)(jax.ShapeDtypeStruct((), dtype))
    return is_arrangement(program.jaxpr)
