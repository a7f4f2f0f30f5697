"""The making of parameters: what Haiku asks a creator for, what draws, and the rescaled draw."""
import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp

from haiku_mup.errors import MupError
from haiku_mup.parameters.arrangements import is_arrangement
from haiku_mup.parameters.initializers import Initializer
from haiku_mup.parameters.record import Record
from haiku_mup.parameters.row_factors import Factor, scaled
from haiku_mup.parameters.scaling import ParameterScaling
from haiku_mup.tracing.haiku_internals import Nesting, leaf_name, other_creators


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


@dataclasses.dataclass(kw_only=True)
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
    _drawn: tuple[Any, ...] = dataclasses.field(default=(), init=False)

    def __post_init__(self) -> None:
        """Works out what all contexts ask for."""
        self.leaf = leaf_name(self.context)
        self.names = self.nesting.stored_names(self.context, self.leaf)
        self.layer_shape = tuple(map(int, self.context.original_shape))

    @property
    def has_creators(self) -> bool:
        """Returns whether the user's creators are inside apply_mup(), and may change what is drawn."""
        return self._others is not None and self.init not in (jnp.zeros, jnp.ones)

    @functools.cached_property
    def drawn_by(self) -> Initializer:
        """Returns what draws: the initializer, and what the user's creators inside apply_mup() make of it.

        They run once where they hand on what the initializer returns, or only move its entries. Else they are
        called again, apart from the model, to measure what they draw.
        """
        if not self.has_creators:
            return self.init
        watched = _Watched(self.init)
        self._drawn = (self.next_creator(self.shape, self.dtype, watched),)
        if self._drawn[0] is watched.result or _arranges_draws(self._draw_apart, self.shape, self.dtype):
            return self.init
        return functools.partial(self._draw_apart, self.init)

    @functools.cached_property
    def _others(self) -> Callable[..., Any] | None:
        return other_creators(self.next_creator)

    def _draw_apart(self, init: Initializer, shape: Any, dtype: Any) -> Any:
        """Runs the user's creators in a transform of its own, whose parameters and state are dropped.

        Raises:
          MupError: they fail there.
        """
        assert self._others is not None
        create, drawn = self._others, []
        try:
            hk.transform_with_state(lambda: drawn.append(create(shape, dtype, init))).init(hk.next_rng_key())
        except Exception as error:
            raise MupError(f"{self.names[0]!r}: shape {tuple(self.shape)}: a custom creator inside apply_mup() "
                           "changes its draw, and fails where it is tried apart from the model "
                           f"({type(error).__name__}: {error}); put the creator around apply_mup()") from error
        return drawn[0]

    def make(self, value: Record | ParameterScaling | MupError | None, factor: Factor) -> tuple[
            Any, CreatedParameter]:
        """Makes the parameter, with its draw multiplied by a factor.

        Args:
          value: what to keep of it. Where that is an error, the draw stays as it is.
          factor: multiplies what is drawn.

        Returns:
          The parameter, and what is known of it.
        """
        array, = self._drawn or (self.next_creator(self.shape, self.dtype, self.init),)
        array = array if isinstance(value, MupError) else scaled(array, factor)
        return array, CreatedParameter(self.names, self.leaf, array, value)


class _Watched:
    """An initializer that notes what it returns, and passes for the one that it calls."""

    def __init__(self, init: Initializer):
        self._init = init
        self.result: Any = None

    @property       # type: ignore[misc]    # for isinstance
    def __class__(self) -> type:
        return type(self._init)

    def __getattr__(self, name: str) -> Any:
        """Returns an attribute of the initializer."""
        return getattr(self._init, name)

    def __call__(self, shape: Any, dtype: Any) -> Any:
        """Returns a draw."""
        self.result = self._init(shape, dtype)
        return self.result


def _arranges_draws(draw: Callable[..., Any], shape: Any, dtype: Any) -> bool:
    """Returns whether creators only stack, cut or move entries of draws, and so keep their std.

    Those that can't be traced are taken not to.

    Args:
      draw: calls them, for an initializer, a shape and a dtype.
      shape, dtype: of the parameter.
    """
    def arranged(entry: Any) -> Any:
        with hk.with_rng(jax.random.PRNGKey(0)):
            return draw(lambda shape, dtype: jnp.broadcast_to(entry.astype(dtype), shape), shape, dtype)

    try:
        program = jax.make_jaxpr(arranged)(jax.ShapeDtypeStruct((), dtype))
    except Exception:       # of the user's creator, when it is called apart from the model
        return False
    return is_arrangement(program.jaxpr)
