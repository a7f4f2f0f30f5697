"""Compiles functions in background threads, with options that make compiling fast; keeps what is compiled."""
import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.compilation_cache import compilation_cache as persistent_cache

from haiku_mup.parameters.jaxprs import program_size

# On a CPU, the older of XLA's two ways to emit kernels and the first level of LLVM's optimizations take two
# thirds of the time. A step of a wide MLP then runs a fifth faster, one of a wide transformer a tenth slower.
# (JAX 0.12 does not have the older way, and so saves less.)
EMITTERS, LEVEL = "xla_cpu_use_fusion_emitters", "xla_backend_optimization_level"
FAST_OPTIONS = {EMITTERS: False, LEVEL: 1}
# Without optimizations it takes a quarter of that time, but what isn't a matrix product then runs slower.
FASTEST_OPTIONS = FAST_OPTIONS | {LEVEL: 0, "xla_cpu_parallel_codegen_split_count": 1}
# To optimize an equation costs 2 to 4 ms; computing an entry of an array costs 0.6 to 5 ns more without it.
ENTRIES_PER_EQUATION = 1_500_000


class BackgroundJit:
    """A jitted function that a background thread compiles, for arguments whose types are known in advance.

    Args:
      function: from arrays to arrays; it is called only to be traced.
    """

    def __init__(self, function: Callable[..., Any]):
        self._jitted = jax.jit(function)
        self._types: Any = None
        self._compiled: Future[Any] | None = None

    def start(self, pool: Executor, *args: Any, calls: int) -> Any:
        """Traces the function here, and has the pool compile it.

        Args:
          pool: threads that compile.
          *args: arguments of the types that calls will have, or their shapes.
          calls: how often the function will be called; few calls of a small function aren't worth optimizing.

        Returns:
          The shapes of the function's result.
        """
        traced = self._jitted.trace(*args)
        options = FAST_OPTIONS if is_worth_optimizing(traced.jaxpr.jaxpr, calls) else FASTEST_OPTIONS
        self._types, self._compiled = _types(args), pool.submit(compile_fast, traced.lower(), options)
        return traced.out_info

    @property
    def is_compiled(self) -> bool:
        """Returns whether a call needs to wait for no compiler, if its arguments are of the known types."""
        return self._compiled is not None and self._compiled.done()

    def __call__(self, *args: Any) -> Any:
        """Returns the function's result; for arguments of other types, compiles it again."""
        if self._compiled is not None and _types(args) == self._types:
            return self._compiled.result()(*args)
        return self._jitted(*args)


def is_worth_optimizing(jaxpr: Any, calls: int) -> bool:
    """Returns whether optimizing a program for a CPU takes less time than it saves in all calls together.

    >>> program = jax.make_jaxpr(jnp.sin)(jnp.ones(1000)).jaxpr
    >>> is_worth_optimizing(program, calls=15), is_worth_optimizing(program, calls=10_000)
    (False, True)
    """
    equations, entries = program_size(jaxpr)
    return entries * calls > equations * ENTRIES_PER_EQUATION


def user_sets_level() -> bool:
    """Returns whether the flags that the user gives XLA choose a level of optimizations."""
    return LEVEL in os.environ.get("XLA_FLAGS", "")


def compile_fast(lowered: Any, options: Mapping[str, Any] = FAST_OPTIONS) -> Any:
    """Compiles for a CPU with those options that this version of XLA knows; elsewhere with the defaults."""
    if jax.default_backend() == "cpu":
        for known in options, {name: value for name, value in options.items() if name != EMITTERS}:
            with contextlib.suppress(jax.errors.JaxRuntimeError):       # an unknown option
                return lowered.compile(compiler_options=dict(known))
    return lowered.compile()


@contextlib.contextmanager
def kept_programs(folder: str | os.PathLike[str] | None) -> Iterator[None]:
    """Returns a context manager in which JAX keeps each program that it compiles, however small, in a folder.

    JAX opens its persistent cache once in a process and keeps to its folder, so it is reset at both ends.

    Args:
      folder: it is made if it isn't there; None to change nothing.

    Raises:
      OSError: the folder can't be made.
    """
    if folder is None:
        yield
        return
    os.makedirs(folder, exist_ok=True)
    settings = {"jax_enable_compilation_cache": True, "jax_compilation_cache_dir": os.fspath(folder),
                "jax_persistent_cache_min_compile_time_secs": 0.0,
                "jax_persistent_cache_min_entry_size_bytes": -1}
    before = {name: getattr(jax.config, name) for name in settings}
    try:
        for name, value in settings.items():
            jax.config.update(name, value)
        persistent_cache.reset_cache()
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        persistent_cache.reset_cache()


def _types(args: Any) -> tuple[Any, ...]:
    """Returns the structure, the shapes and the dtypes of arguments."""
    leaves, tree = jax.tree.flatten(args)
    return tree, *((jnp.shape(x), jnp.result_type(x)) for x in leaves)
