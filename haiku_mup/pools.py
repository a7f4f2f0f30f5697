"""What runs jobs: processes of this machine, a thread of this process, or an executor that was given."""
import atexit
import contextlib
import importlib.util
import os
import queue
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from typing import Any, Protocol

import jax

from haiku_mup.interrupts import not_inherited

SOON = 1.0          # s
AHEAD = 2           # jobs a worker, so that none waits for its next
UNKNOWN = 64        # jobs at a time, for an executor that doesn't say how many workers it has
ALONE = 8 * 2**20   # bytes of a trial's state up to which one core serves it, and the others serve other trials
EACH = 4 * 2**20    # bytes of a larger one, for each of which it gets a core


class Pool(Protocol):
    """Where jobs run.

    Attributes:
      width: how many jobs to hand in at a time.
      pilots: whether a program's second cell should wait for the end of its first, which compiles it for all.
    """

    width: int
    pilots: bool

    def submit(self, function: Callable[..., Any], *args: Any) -> "Future[Any]":
        """Has function(*args) run. Raises concurrent.futures.BrokenExecutor where nothing runs any more."""

    def mend(self) -> None:
        """Has new workers, after one died, where that can be."""

    def close(self, at_once: bool) -> None:
        """Ends the workers; at once, where what they do is not needed."""


class Local:
    """Processes of this machine, by loky: they are never forked, and need no `if __name__ == "__main__"`.

    What one of them has compiled, the others load.

    Args:
      threads: of each; there is a worker for as many cores.
      cores: that there are.
      cache: a folder for what is compiled.
    """

    pilots = True

    def __init__(self, threads: int, cores: int, cache: str):
        self._threads, self._workers, self._cache = threads, max(1, cores // threads), cache
        self.width = AHEAD * self._workers
        self._executor: Any = None

    def submit(self, function, *args):
        self._executor = self._executor or self._started()
        with not_inherited():                   # the first job starts the workers
            return self._executor.submit(function, *args)

    def _started(self):
        from loky.process_executor import ProcessPoolExecutor  # type: ignore[import-untyped]

        # NPROC: as many threads XLA's pools have (DefaultThreadPoolSize in its xla/pjrt/utils.cc).
        # The other: compiling takes memory, and is no leak, for which loky would end the worker.
        return ProcessPoolExecutor(
            self._workers, initializer=_begin, initargs=(os.getpid(), self._cache),
            env={"NPROC": str(self._threads), "LOKY_MAX_MEMORY_LEAK_SIZE": "1e15"})

    def mend(self):
        self.close(at_once=True)

    def close(self, at_once):
        executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=True, kill_workers=at_once)


class Here:
    """A thread of this process. What runs in it can't be stopped, but left alone: it ends with the process."""

    width, pilots = 1, False

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, daemon=True, name="haiku_mup sweep")
        self._thread.start()

    def _work(self):
        for future, function, args in iter(self._jobs.get, None):
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(function(*args))
                except BaseException as error:
                    future.set_exception(error)

    def submit(self, function, *args):
        future: Future[Any] = Future()
        self._jobs.put((future, function, args))
        return future

    def mend(self):
        pass

    def close(self, at_once):
        with contextlib.suppress(queue.Empty):
            while True:
                self._jobs.get_nowait()
        self._jobs.put(None)
        if at_once:
            atexit.register(self._leave)
        else:
            self._thread.join()

    def _leave(self):
        """Python must not end while the thread is inside of XLA: it would crash."""
        self._thread.join(SOON)
        if self._thread.is_alive():
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(130)


class Given:
    """An executor that was given, and stays open. It is on its owner to mend it."""

    pilots = False

    def __init__(self, executor: Executor):
        self._executor = executor
        workers = getattr(executor, "_max_workers", None)
        self.width = AHEAD * workers if isinstance(workers, int) else UNKNOWN

    def submit(self, function, *args):
        with warnings.catch_warnings():         # distributed's, of data that is sent to each worker once
            warnings.filterwarnings("ignore", "Sending large graph", UserWarning)
            return self._executor.submit(function, *args)

    def mend(self):
        pass

    def close(self, at_once):
        pass


# --- which of them ---

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
        self._folder = tempfile.TemporaryDirectory(prefix="haiku_mup_", ignore_cleanup_errors=True)
        self._cache = jax.config.jax_compilation_cache_dir or self._folder.name

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


# --- in a worker ---

def _begin(parent: int, cache: str) -> None:
    """Leaves Ctrl-C to the sweep, ends when it has ended, and shares what is compiled."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
