"""Ctrl-C during a sweep: it waits for a moment at which nothing is cut in two, and leaves the workers alone."""
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def held_back() -> Iterator[Callable[[], None]]:
    """Collects Ctrl-C. What it gives raises KeyboardInterrupt, if it was pressed; a second one acts at once.

    Outside of the main thread, which alone gets Ctrl-C, it does nothing.

    >>> with held_back() as check:
    ...     check()
    """
    pressed: list[Any] = []

    def press(*signal_and_frame: Any) -> None:
        pressed.append(signal_and_frame)
        signal.signal(signal.SIGINT, before)

    def check() -> None:
        if pressed:
            raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield check                             # it is ignored, as in a shell's background, or not Python's
        return
    signal.signal(signal.SIGINT, press)
    try:
        yield check
        check()
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def not_inherited() -> Iterator[None]:
    """Processes that are started meanwhile are never sent Ctrl-C."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()           # to start that process would let Ctrl-C through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
