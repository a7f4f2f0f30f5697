"""Compiles functions in background threads, with options that make compiling fast."""
import contextlib
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

import jax
import jax.numpy as jnp

# On a CPU, the older of XLA's two ways to emit kernels and the first level of LLVM's optimizations take two
# thirds of the time. A step of a wide MLP then runs a fifth faster, one of a wide transformer a tenth slower.
# (JAX 0.12 doesn't have the older way; with the other one the level saves little.)
FAST_OPTIONS = {"xla_cpu_use_fusion_emitters": False, "xla_backend_optimization_level": 1}


class BackgroundJit:
    """A jitted function that a background thread compiles, for arguments whose types are known in advance.

    Args:
      function: from arrays to arrays; it is called only to be traced.
    """

    def __init__(self, function: Callable[..., Any]):
        self._jitted = jax.jit(function)
        self._types: Any = None
        self._compiled: Future[Any] | None = None

    def start(self, pool: Executor, *args: Any) -> Any:
        """Traces the function here, and has the pool compile it.

        Args:
          pool: threads that compile.
          *args: arguments of the types that calls will have, or their shapes.

        Returns:
          The shapes of the function's result.
        """
        lowered = self._jitted.lower(*args)
        self._types, self._compiled = _types(args), pool.submit(compile_fast, lowered)
        return lowered.out_info

    @property
    def is_compiled(self) -> bool:
        """Returns whether a call needs to wait for no compiler, if its arguments are of the known types."""
        return self._compiled is not None and self._compiled.done()

    def __call__(self, *args: Any) -> Any:
        """Returns the function's result; for arguments of other types, compiles it again."""
        if self._compiled is not None and _types(args) == self._types:
            return self._compiled.result()(*args)
        return self._jitted(*args)


def compile_fast(lowered: Any) -> Any:
    """Compiles with `FAST_OPTIONS` where this version of XLA knows them, and with the defaults elsewhere."""
    if jax.default_backend() == "cpu":
        with contextlib.suppress(jax.errors.JaxRuntimeError):       # an unknown option
            return lowered.compile(compiler_options=FAST_OPTIONS)
    return lowered.compile()


def _types(args: Any) -> tuple[Any, ...]:
    """Returns the structure, the shapes and the dtypes of arguments."""
    leaves, tree = jax.tree.flatten(args)
    return tree, *((jnp.shape(x), jnp.result_type(x)) for x in leaves)
