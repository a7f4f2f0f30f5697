"""Models of any framework, as pairs of functions: init and apply."""
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from haiku_mup.errors import MupError


class Pair(NamedTuple):
    """A model of any framework.

    Attributes:
      init: from a random key to its parameters: a tree, or a module. If `apply` takes a state, to
        (parameters, state).
      apply: ``apply(params, rng, *inputs)``. If it has an argument ``plan``, it is given the plan, and
        multiplies by itself. If it has an argument ``state``, it is given the state, and returns
        (output, state).
    """

    init: Callable[[Any], Any]
    apply: Callable[..., Any]

    @property
    def takes_plan(self) -> bool:
        """Returns whether `apply` has an argument ``plan``."""
        return self._takes("plan")

    @property
    def takes_state(self) -> bool:
        """Returns whether `apply` has an argument ``state``."""
        return self._takes("state")

    def _takes(self, argument: str) -> bool:
        try:
            return argument in inspect.signature(self.apply).parameters
        except (TypeError, ValueError):         # a function without a signature
            return False

    def draw(self, key: Any) -> tuple[Any, Any]:
        """Returns drawn parameters, and the initial state; None where there is none.

        Raises:
          MupError: one thing, where there should be two.
        """
        drawn = self.init(key)
        if not self.takes_state:
            return drawn, None
        return _two(drawn, "init", "init(key) must return (params, state), since apply has an argument state")

    def output(self, returned: Any) -> tuple[Any, Any]:
        """Returns what an apply returned, as (output, state); None where there is no state.

        Raises:
          MupError: one thing, where there should be two.
        """
        if not self.takes_state:
            return returned, None
        return _two(returned, "apply", "it must return (output, state), since it has an argument state")


def _two(value: Any, function: str, remedy: str) -> tuple[Any, Any]:
    if not (isinstance(value, (tuple, list)) and len(value) == 2):
        raise MupError(f"{function} returned a {type(value).__name__}; {remedy}")
    return value[0], value[1]


def as_pair(model: Any, what: str = "make_model") -> Pair:
    """Returns a model as a pair.

    Raises:
      MupError: it is none.
    """
    if not (isinstance(model, tuple) and len(model) == 2 and all(map(callable, model))):
        raise MupError(f"{what} returned {type(model).__name__}; with a plan it must return (init, apply): "
                       "init(key) returns the parameters, apply(params, rng, *inputs) the outputs")
    return Pair(*model)


def is_pair(model: Any) -> bool:
    """Returns whether a model is a pair of functions, and not one of Haiku's."""
    return isinstance(model, tuple) and not hasattr(model, "init") and len(model) == 2


def traced(init: Callable[[Any], Any]) -> Any:
    """Returns what an init returns, with shapes in place of arrays."""
    kept: list[Any] = []

    def arrays(key: Any) -> list[Any]:
        leaves, structure = jax.tree.flatten(init(key))
        kept[:] = structure, [None if hasattr(x, "shape") else x for x in leaves]
        return [x for x in leaves if hasattr(x, "shape")]

    shapes = iter(jax.eval_shape(arrays, jax.random.key(0)))
    structure, rest = kept
    return jax.tree.unflatten(structure, [next(shapes) if x is None else x for x in rest])
