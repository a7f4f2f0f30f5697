"""Ctrl-C: deferred in this process to a safe moment, and never sent to its workers."""
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from typing import Any


@contextlib.contextmanager
def deferred_interrupt() -> Iterator[Callable[[], None]]:
    """Defers Ctrl-C until the block calls the yielded function, which then raises KeyboardInterrupt.

    A second Ctrl-C interrupts at once. Outside the main thread, and where SIGINT is ignored, nothing changes.

    >>> with deferred_interrupt() as raise_if_interrupted:
    ...     raise_if_interrupted()
    """
    pressed = threading.Event()
    previous = signal.getsignal(signal.SIGINT)
    is_deferred = threading.current_thread() is threading.main_thread() and callable(previous)

    def press(*_: Any) -> None:
        pressed.set()
        signal.signal(signal.SIGINT, previous)

    def raise_if_interrupted() -> None:
        if pressed.is_set():
            raise KeyboardInterrupt

    if is_deferred:
        signal.signal(signal.SIGINT, press)
    try:
        yield raise_if_interrupted
        raise_if_interrupted()
    finally:
        if is_deferred:
            signal.signal(signal.SIGINT, previous)


@contextlib.contextmanager
def sigint_blocked() -> Iterator[None]:
    """Blocks SIGINT in this thread; processes that the block starts inherit that and never see Ctrl-C."""
    if not hasattr(signal, "pthread_sigmask"):      # on Windows
        yield
        return
    resource_tracker.ensure_running()               # where this starts a process, it unblocks SIGINT
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)
