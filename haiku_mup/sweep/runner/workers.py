"""Who runs a sweep: an executor that was given, processes of this machine, or a thread of this process."""
import contextlib
import importlib.util
import tempfile
from collections.abc import Iterator
from concurrent.futures import Executor

import jax

from haiku_mup.sweep.runner.pools import CACHE, Given, Here, Local, Pool

# Bytes of a trial's state up to which one core serves it, and the others serve other trials. On 2 cores a core
# each is 1.07 to 1.18 times as fast as both for one at 11 MB, and no faster at 35 MB (widths 512 and 1024 of
# benchmarks/sweep.py), where the last trials then leave cores idle for longer.
ALONE = 16 * 2**20
EACH = 8 * 2**20    # bytes of a larger one, for each of which it gets a core


class Workers:
    """One pool for all.

    Args:
      pool: the pool.
    """

    def __init__(self, pool: Pool | None = None):
        self._pool = pool

    def threads(self, carry: int) -> int:
        """How many threads a worker should have for trials with a state of so many bytes."""
        return 1

    def pool(self, threads: int) -> Pool:
        """A pool of workers with as many threads. The one before is closed, if it is another."""
        assert self._pool is not None
        return self._pool

    def close(self, at_once: bool) -> None:
        """Ends the workers."""
        if self._pool is not None:
            self._pool.close(at_once)


class Processes(Workers):
    """Processes of this machine: as many as there are cores, divided by the threads of each."""

    def __init__(self) -> None:
        super().__init__()
        self._cores, self._now = cores(), 0
        self._folder = tempfile.TemporaryDirectory(prefix=CACHE, ignore_cleanup_errors=True)
        self._cache = getattr(jax.config, "jax_compilation_cache_dir", None) or self._folder.name

    def threads(self, carry):
        return 1 if carry <= ALONE else min(self._cores, -(-carry // EACH))

    def pool(self, threads):
        if threads != self._now:
            super().close(at_once=False)
            self._pool, self._now = Local(threads, self._cores, self._cache), threads
        return super().pool(threads)

    def close(self, at_once):
        super().close(at_once)
        self._folder.cleanup()


@contextlib.contextmanager
def workers(executor: Executor | None) -> Iterator[Workers]:
    """Those of an executor that was given; else processes, or for other devices a thread of this process.

    When an error ends the block, or Ctrl-C, they end at once, in the midst of what they do.
    """
    found = Workers(Given(executor)) if executor is not None else Processes() if _divided() else Workers(Here())
    try:
        yield found
    except BaseException:
        found.close(at_once=True)
        raise
    found.close(at_once=False)


def _divided() -> bool:
    """Whether this machine is several workers: one CPU device, and loky to start processes."""
    return (importlib.util.find_spec("loky") is not None and jax.default_backend() == "cpu"
            and jax.local_device_count() == 1)


def cores() -> int:
    """How many of this machine's cores this process may use: without hyperthreads, which add nothing here."""
    import loky  # type: ignore[import-untyped]

    return int(loky.cpu_count(only_physical_cores=True))
