"""Executors of a sweep's tasks: the caller's own, processes of this machine, or a thread of this process."""
import atexit
import importlib.util
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import warnings
import weakref
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future
from typing import Any

import jax

from haiku_mup.errors import MupWarning
from haiku_mup.sweep.interrupt import sigint_blocked
from haiku_mup.sweep.runner.pickling import class_error

# Bytes of a trial's state up to which one core serves it; a larger one gets a core for each so many bytes. On 2
# cores, one each is 1.07 to 1.18 times as fast at 11 MB, and no faster at 35 MB (`python -m benchmarks.sweep`).
ONE_CORE_BYTES, BYTES_PER_CORE = 16 * 2**20, 8 * 2**20


class SweepExecutor:
    """Runs tasks on the caller's executor, and never closes or restarts it; subclasses start workers."""

    capacity = 64               # how many tasks to submit ahead; more than most executors have workers
    threads = 1                 # per worker
    shares_compiled = False     # whether workers load what one of them has compiled

    def __init__(self, executor: Executor | None = None):
        self._executor: Any = executor
        if isinstance(workers := getattr(executor, "_max_workers", None), int):
            self.capacity = 2 * workers         # so that no worker waits for its next task

    def submit(self, function: Callable[..., Any], *args: Any) -> Any:
        """Returns the future of function(*args). Raises an error if no worker will run it."""
        with warnings.catch_warnings():         # distributed's is about functions, which a worker gets once
            warnings.filterwarnings("ignore", "Sending large graph", UserWarning)
            return self._executor.submit(function, *args)

    def lost(self) -> str | None:
        """Returns why no task will ever end, or None. Without a scheduler, distributed leaves them pending."""
        status = getattr(getattr(self._executor, "_client", None), "status", None)
        return "the connection to the scheduler is lost" if status in ("closed", "closing") else None

    def threads_for(self, state_bytes: int) -> int:
        """Returns how many threads a worker should have for trials with a state of this size."""
        return 1

    def set_threads(self, threads: int) -> None:
        """Gives each worker so many threads. No task may be running."""
        self.threads = threads

    def close(self, at_once: bool) -> None:
        """Ends the workers, after their tasks or at once; `submit` starts new ones."""


class LokyExecutor(SweepExecutor):
    """Runs tasks in processes of this machine, without fork and without ``if __name__ == "__main__"``."""

    shares_compiled = True

    def __init__(self) -> None:
        import loky  # type: ignore[import-untyped]

        super().__init__()
        self._cores = loky.cpu_count(only_physical_cores=True)      # hyperthreads add nothing here
        self._folder = tempfile.mkdtemp(prefix="haiku_mup_")        # for compiled programs
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self.set_threads(1)

    def threads_for(self, state_bytes):
        return 1 if state_bytes <= ONE_CORE_BYTES else min(self._cores, -(-state_bytes // BYTES_PER_CORE))

    def set_threads(self, threads):
        self.close(at_once=False)
        self.threads = threads
        self.capacity = max(1, self._cores // threads)      # the next task of a program goes where the last ran

    def submit(self, function, *args):
        with sigint_blocked():
            try:
                return self._started().submit(function, *args)
            except BrokenExecutor:              # a worker died while it had no task
                self.close(at_once=True)
                return self._started().submit(function, *args)

    def _started(self):
        from loky.process_executor import ProcessPoolExecutor  # type: ignore[import-untyped]

        if self._executor is None:
            cache = getattr(jax.config, "jax_compilation_cache_dir", None)
            self._executor = ProcessPoolExecutor(
                self.capacity, initializer=_initialize_worker,
                initargs=(os.getpid(), self._folder), env={
                    "NPROC": str(self.threads),             # XLA reads it: DefaultThreadPoolSize, pjrt/utils.cc
                    "LOKY_MAX_MEMORY_LEAK_SIZE": "1e15",    # else loky takes compiled programs for a leak
                    "JAX_COMPILATION_CACHE_DIR": cache or self._folder,
                    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
                    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"})
        return self._executor

    def close(self, at_once):
        executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=True, kill_workers=at_once)


class ThreadExecutor(SweepExecutor):
    """Runs one task at a time in a thread of this process, which can end before the task does."""

    capacity = 1

    def submit(self, function, *args):
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        self._thread = threading.Thread(target=lambda: future.set_result(function(*args)), daemon=True)
        self._thread.start()
        return future

    def close(self, at_once):
        if at_once:
            atexit.register(self._exit)

    def _exit(self):
        self._thread.join(1.0)
        if self._thread.is_alive():             # inside XLA, where Python's own exit would crash
            sys.stdout.flush()
            os._exit(130)


def choose_executor(executor: Executor | None, runner: Any) -> SweepExecutor:
    """Wraps the caller's executor. Without one, chooses loky on a single CPU device, else a thread.

    Warns:
      MupWarning: processes can't get the runner, and a thread is chosen.
    """
    if executor is not None:
        return SweepExecutor(executor)
    one_cpu = jax.default_backend() == "cpu" and jax.local_device_count() == 1
    if not (one_cpu and importlib.util.find_spec("loky")):
        return ThreadExecutor()
    if text := class_error(runner):
        warnings.warn(f"{text}. Trials run in this process, one at a time", MupWarning, stacklevel=2)
        return ThreadExecutor()
    return LokyExecutor()


def _initialize_worker(parent: int, folder: str) -> None:
    """Makes a worker ignore Ctrl-C, and end when its parent process has ended."""
    def watch():
        while os.getppid() == parent:
            time.sleep(0.5)
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=watch, daemon=True).start()
