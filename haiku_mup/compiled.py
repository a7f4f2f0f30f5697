"""Programs that are compiled elsewhere, while others are traced or run."""
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

import jax
import jax.numpy as jnp


class Compiled:
    """A jitted function that was compiled elsewhere for the arguments that it was started with.

    Args:
      function: from arrays to arrays; it is called to be traced alone.
    """

    def __init__(self, function: Callable[..., Any]):
        self._jitted = jax.jit(function)
        self._types: Any = None
        self._compiled: Future[Any] | None = None

    def start(self, pool: Executor, *args: Any) -> Any:
        """Has it compiled for arguments like these, arrays or their shapes; what its result will look like."""
        lowered = self._jitted.lower(*args)
        self._types, self._compiled = _types(args), pool.submit(lowered.compile)
        return lowered.out_info

    def __call__(self, *args: Any) -> Any:
        """The function's result; for arguments of other types it is compiled anew."""
        if self._compiled is not None and _types(args) == self._types:
            return self._compiled.result()(*args)
        return self._jitted(*args)


def _types(args: Any) -> tuple[Any, ...]:
    leaves, tree = jax.tree.flatten(args)
    return tree, *((jnp.shape(x), jnp.result_type(x)) for x in leaves)
