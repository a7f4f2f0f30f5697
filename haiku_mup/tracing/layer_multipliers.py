"""The multipliers of this package's layers: those of the active context, 1 outside of μP."""
import contextvars
from collections.abc import Callable
from typing import Any

from haiku_mup.parameters.place import Branch
from haiku_mup.tracing.haiku_internals import Nesting
from haiku_mup.tracing.scope import active_context, during, is_foreign
from haiku_mup.tracing.unwrapped import warn_unwrapped

# The branch of haiku_mup.residual that is being computed.
current_branch: contextvars.ContextVar[Branch | None] = contextvars.ContextVar("branch", default=None)


def multiplier(name: str, shape: tuple[int, ...]) -> float:
    """Returns the multiplier that the layer of a parameter applies to its product.

    Args:
      name: the parameter's name without a lift's prefix.
      shape: its shape in one layer.
    """
    active = active_context()
    if active is None:
        warn_unwrapped(name, shape, f"{name!r}: target {shape}")
        return 1.0
    return 1.0 if is_foreign(active) else active.multiplier(name, shape)


def tied_multiplier() -> float:
    """Returns the multiplier of a SharedReadout that was given a matrix."""
    active = active_context()
    return 1.0 if active is None or is_foreign(active) else active.tied_multiplier()


def compute_branch(function: Callable[[Any], Any], x: Any) -> tuple[Any, float]:
    """Computes a branch of haiku_mup.residual.

    Args:
      function: the branch.
      x: its input.

    Returns:
      Its output, and the multiplier of that output.
    """
    nesting = Nesting()
    site = nesting.site()
    branch = Branch(site, nesting.modules_in_tree(site.module)[0], current_branch.get())
    with during(current_branch, branch):
        out = function(x)
    active = active_context()
    if active is None:
        warn_unwrapped(str(site), (), f"{site.module!r}: haiku_mup.residual")
        return out, 1.0
    return out, 1.0 if is_foreign(active, nesting) else active.branch_multiplier(branch, nesting)
