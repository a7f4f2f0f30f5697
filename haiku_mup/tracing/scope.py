"""Tells which context is active: a Mup's capture, a wrapped model, or none: standard parametrization."""
import contextlib
import contextvars
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import haiku as hk

from haiku_mup.parameters.place import Branch
from haiku_mup.parameters.record import Record
from haiku_mup.parameters.scaling import RuntimeFactors
from haiku_mup.tracing.creation import CreatedParameter, Creation
from haiku_mup.tracing.haiku_internals import Nesting
from haiku_mup.tracing.user_context import user_context


class ActiveContext(Protocol):
    """A capture or a wrapped model, around an init or an apply. Hashable: it is in the keys of JAX's caches.

    Names of parameters are those that layers know, without the prefix of hk.lift and layer_stack.

    Attributes:
      transform_depth: while it captures, how many of Haiku's transforms run around a model's function, the
        model's own included.
      warned: the kinds of warning that its Mup has given.
      is_in_mup: whether draws and products are multiplied by factors; in a capture of a base all are 1.
    """

    transform_depth: int
    is_in_mup: bool
    warned: set[str]

    @property
    def has_lifted(self) -> bool:
        """Returns whether a user's function lifts some parameter of the model."""

    def create(self, creation: Creation) -> tuple[Any, CreatedParameter]:
        """Makes a parameter; returns it, and what is known of it."""

    def adopt(self, record: Record, names: tuple[str, ...], array: Any) -> CreatedParameter:
        """Returns what is known of a parameter that was not made by Haiku."""

    def create_state(self, creation: Creation) -> Any:
        """Makes state, which is drawn in μP, too; returns it."""

    def keep(self, created: Sequence[CreatedParameter]) -> None:
        """Keeps the parameters that are in the tree when apply_mup() ends."""

    def runtime_factors(self, name: str, shape: tuple[int, ...]) -> RuntimeFactors:
        """Returns the factors of a parameter in the forward pass and of its gradient."""

    def is_lifted(self, name: str, shape: tuple[int, ...]) -> bool:
        """Returns whether a user's function may lift this parameter, and call another model with it."""

    def uncaptured(self, name: str, shape: tuple[int, ...]) -> str | None:
        """Returns a warning about a parameter that is read and was not captured; None if none is due."""

    def table_read(self, context: hk.GetterContext) -> None:
        """Notes that a lookup table, such as an embedding's, is read by more than a lookup."""

    def branch_multiplier(self, branch: Branch, nesting: Nesting) -> float:
        """Returns the multiplier of a branch of haiku_mup.residual, computed on the line of a nesting."""

    def multiplier(self, name: str, shape: tuple[int, ...]) -> float:
        """Returns the multiplier that a layer of this package applies to its product with a parameter."""

    def tied_multiplier(self) -> float:
        """Returns the multiplier of a readout that was given an embedding's matrix."""

    def note_wrapped_model(self) -> None:
        """Notes that a wrapped model runs, which has a context of its own."""


def active_context() -> ActiveContext | None:
    """Returns the context that is active in this thread."""
    active: ActiveContext | None = user_context.value
    return active


def activated(context: ActiveContext | None) -> contextlib.AbstractContextManager[None]:
    """Returns a context manager in which `context`, or none, is active in this thread."""
    entered: contextlib.AbstractContextManager[None] = user_context(context)
    return entered


@dataclasses.dataclass(eq=False)
class RunningModel:
    """A wrapped model that runs.

    Attributes:
      transform_depth: how many of Haiku's transforms run around its function, its own included.
    """

    transform_depth: int


running_model: contextvars.ContextVar[RunningModel | None] = contextvars.ContextVar(
    "running model", default=None)


class AppliedContext:
    """An apply_mup() that is open, and serves an active context.

    Attributes:
      active: the context that it serves.
      lifts_around: how many lifts and transparent stacks are around it.
      created: the parameters that were made in it: each with its name in the tree around the apply_mup(), and
        whether it is lifted on the way there.
    """

    def __init__(self, active: ActiveContext):
        self.active = active
        self.lifts_around = len(Nesting().renamings)
        self.created: list[tuple[CreatedParameter, str, bool]] = []

    def add(self, created: CreatedParameter, creation: Creation) -> None:
        """Adds a parameter that has just been made."""
        nesting, name = creation.nesting, created.names[0]
        if self.lifts_around:
            name, *_ = nesting.stored_names(creation.context, creation.leaf, self.lifts_around)
        self.created.append((created, name, len(nesting.renamings) > self.lifts_around))


applied_context: contextvars.ContextVar[AppliedContext | None] = contextvars.ContextVar(
    "apply_mup", default=None)


@contextlib.contextmanager
def during(variable: contextvars.ContextVar[Any], value: Any) -> Iterator[None]:
    """Returns a context manager in which a variable has a value."""
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


def transform_depth(active: ActiveContext) -> int:
    """Returns how many transforms run around the function of the model that a context is for."""
    running = running_model.get()
    return active.transform_depth if running is None else running.transform_depth


def is_foreign(active: ActiveContext, nesting: Nesting | None = None) -> bool:
    """Returns whether a model runs that a context isn't for, and surely no part of its model that is lifted.

    Args:
      active: the context.
      nesting: what runs around, where that is known already.
    """
    if active.has_lifted:
        return False
    return (nesting or Nesting()).foreign_transform(transform_depth(active)) is not None
