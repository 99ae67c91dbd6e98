"""Handles Ctrl-C, or a kernel's interrupt, at a moment that leaves all state consistent.

A KeyboardInterrupt may come between any two bytecodes and leave a KV cache half advanced, a slot
reserved for good, a lock taken for ever. So while an engine works, SIGINT raises nothing. It is
noted, and the working code checks for it where it can stop. Only the main thread receives signals:
on others, and where SIGINT is ignored or not handled in Python, nothing changes.
"""

from __future__ import annotations

import ctypes
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Interrupts:
    """A context manager within which SIGINT is noted and calls `on_signal`, and does not raise.

    It may be nested. Entering the outermost block clears what was noted.

    Args:
        on_signal: called in the signal handler, each time.
        foreign: whether a frame is in code that may be interrupted, because it leaves nothing of
            ours half done: there a second SIGINT raises after all.

    Attributes:
        once: set within the block, makes the next SIGINT raise; later ones are only noted, so that
            the cleanup is not interrupted in turn.
    """

    def __init__(
        self,
        on_signal: Callable[[], object] = lambda: None,
        foreign: Callable[[FrameType | None], bool] = lambda frame: False,
    ) -> None:
        self.once = False
        self._on_signal = on_signal
        self._foreign = foreign
        self._depth = 0
        self._noted = False
        self._previous: Any = None

    def __enter__(self) -> Interrupts:
        if not _on_main_thread():
            return self
        if self._depth == 0:
            previous = signal.getsignal(signal.SIGINT)
            if not callable(previous):
                return self
            self.once = self._noted = False
            self._previous = previous
            signal.signal(signal.SIGINT, self._handle)  # from here on SIGINT does not raise
        self._depth += 1
        return self

    def __exit__(self, *raised: object) -> None:
        if self._depth == 0 or not _on_main_thread():
            return
        self._depth -= 1
        if self._depth == 0:
            signal.signal(signal.SIGINT, self._previous)

    @property
    def noted(self) -> bool:
        """Whether SIGINT came since the block was entered; False outside the main thread."""
        return self._noted and _on_main_thread()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        again, self._noted = self._noted, True
        self._on_signal()
        if self.once or (again and self._foreign(frame)):
            self.once = False
            self._previous(number, frame)


@contextmanager
def deferred() -> Iterator[Interrupts]:
    """Delay SIGINT: the previous handler gets it when the block ends."""
    interrupts = Interrupts()
    try:
        with interrupts:
            yield interrupts
    finally:
        handler = signal.getsignal(signal.SIGINT)
        if interrupts.noted and callable(handler):
            handler(signal.SIGINT, None)


@contextmanager
def within(seconds: float, error: type[Exception]) -> Iterator[None]:
    """Raise `error()` in this block, on any thread, if it runs longer than `seconds`.

    The exception comes between two bytecodes, so one long call into C is not interrupted. Once it
    is scheduled it is never cancelled: CPython would look for it for ever, and hang when traced.
    """
    here, ended, lock = threading.get_ident(), False, threading.Lock()

    def cut() -> None:
        with lock:
            if not ended:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(here), ctypes.py_object(error)
                )

    timer = threading.Timer(seconds, cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        with lock:
            ended = True
        timer.cancel()  # a scheduled exception is raised here at the latest


def _on_main_thread() -> bool:
    return threading.get_ident() == threading.main_thread().ident
