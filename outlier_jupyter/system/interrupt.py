"""Ctrl-C, or a kernel's interrupt, at a moment that leaves everything whole.

A KeyboardInterrupt may come between any two bytecodes: a KV cache would be half advanced, a slot
booked by nobody, a lock held for ever. So while an engine works SIGINT raises nothing. It is noted,
and what works looks for that where it can stop. Only the main thread receives signals: on others,
and where SIGINT is ignored or handled by no Python function, nothing is changed.
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

    May be entered again within itself. What was noted is forgotten when it is entered anew.

    Args:
        on_signal: called in the signal handler, each time.
        foreign: whether a frame is in code that may be cut short, because nothing of ours would be
            left half done: there a second SIGINT raises after all.

    Attributes:
        once: set within the block, has the next SIGINT raise; those after it are noted alone, so
            that what undoes the work is not cut short in turn.
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
            signal.signal(signal.SIGINT, self._handle)  # from here on nothing raises
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
        """Whether SIGINT came since this was entered; on the main thread alone."""
        return self._noted and _on_main_thread()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        again, self._noted = self._noted, True
        self._on_signal()
        if self.once or (again and self._foreign(frame)):
            self.once = False
            self._previous(number, frame)


@contextmanager
def deferred() -> Iterator[Interrupts]:
    """Within this block SIGINT waits: it is handled as it would have been when the block ends."""
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
    """Raise `error`, made without arguments, in this block if it runs longer, on any thread.

    It comes between two bytecodes, so one long call into C is not cut short. Once it is on its way
    it is never taken back: CPython would look for it for ever, and hang when traced.
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
        timer.cancel()  # where it is on its way it comes here at the latest


def _on_main_thread() -> bool:
    return threading.get_ident() == threading.main_thread().ident
