"""Programs that are compiled elsewhere, while others are traced or run."""
import contextlib
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

import jax
import jax.numpy as jnp

# On a CPU: the older of XLA's two ways to emit kernels, and the first level of LLVM's optimizations, take two
# thirds of the time. A step of a wide MLP then runs a fifth faster, one of a wide transformer a tenth slower.
# (JAX 0.12 doesn't have the older way; with the other one the level saves little.)
QUICK = {"xla_cpu_use_fusion_emitters": False, "xla_backend_optimization_level": 1}


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
        self._types, self._compiled = _types(args), pool.submit(quickly, lowered)
        return lowered.out_info

    def __call__(self, *args: Any) -> Any:
        """The function's result; for arguments of other types it is compiled anew."""
        if self._compiled is not None and _types(args) == self._types:
            return self._compiled.result()(*args)
        return self._jitted(*args)


def quickly(lowered: Any) -> Any:
    """Compiles in less time, where this version of XLA knows how; as ever, where it doesn't."""
    if jax.default_backend() == "cpu":
        with contextlib.suppress(jax.errors.JaxRuntimeError):       # of an option that it doesn't know
            return lowered.compile(compiler_options=QUICK)
    return lowered.compile()


def _types(args: Any) -> tuple[Any, ...]:
    leaves, tree = jax.tree.flatten(args)
    return tree, *((jnp.shape(x), jnp.result_type(x)) for x in leaves)
