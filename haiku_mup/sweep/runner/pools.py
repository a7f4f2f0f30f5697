"""What runs jobs: processes of this machine, a thread of this process, or an executor that was given."""
import atexit
import contextlib
import os
import queue
import shutil
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, Protocol

import jax

from haiku_mup.sweep.runner.interrupts import not_inherited

SOON = 1.0          # s
AHEAD = 2           # jobs a worker, so that none waits for its next
CACHE = "haiku_mup_"
UNKNOWN = 64        # jobs at a time, for an executor that doesn't say how many workers it has


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

    def take_back(self, future: "Future[Any]") -> None:
        """Has a job not begin that no worker has begun, where closing the pool doesn't see to that."""

    def mend(self) -> None:
        """Has new workers, after one died, where that can be."""

    def lost(self) -> str:
        """Why nothing will come back any more; "" where it may."""

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

    def take_back(self, future):
        pass                                # loky, closed at once, drops its jobs, and fails at cancelled ones

    def mend(self):
        self.close(at_once=True)

    def lost(self):
        return ""

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

    def take_back(self, future):
        future.cancel()

    def mend(self):
        pass

    def lost(self):
        return ""

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

    def take_back(self, future):
        future.cancel()

    def mend(self):
        pass

    def lost(self):
        """distributed's client gives up a scheduler after a while, and leaves its futures as they are."""
        client = getattr(self._executor, "_client", None)
        closed = getattr(client, "status", "") in ("closed", "closing")
        return "the connection to the scheduler is lost" if closed else ""

    def close(self, at_once):
        pass


# --- in a worker ---

def _begin(parent: int, cache: str) -> None:
    """Leaves Ctrl-C to the sweep, ends when it has ended, and shares what is compiled."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_watch, args=(parent, cache), daemon=True).start()
    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _watch(parent: int, cache: str) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    if os.path.basename(cache).startswith(CACHE):       # not the user's own
        shutil.rmtree(cache, ignore_errors=True)
    os._exit(1)
