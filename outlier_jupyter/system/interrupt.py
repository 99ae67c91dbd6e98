"""Handles Ctrl-C, or a kernel's interrupt, at a moment that leaves all state consistent.

A KeyboardInterrupt may come between any two bytecodes and leave a KV cache half advanced, a slot
reserved for good, a lock taken for ever. So while an engine works, SIGINT raises nothing. It is
noted, and the working code checks for it where it can stop. Only the main thread receives signals:
on others, and where SIGINT is ignored or not handled in Python, nothing changes.
"""

from __future__ import annotations

import ctypes
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any

LOOK_S = 0.03
"""How often `within` calls its `look`, in a block that computes for as long."""


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
            self.once = self._noted = False  # of an earlier block, also where SIGINT is ignored now
            previous = signal.getsignal(signal.SIGINT)
            if not callable(previous):
                return self
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
def within(
    seconds: float,
    error: type[Exception],
    look: Callable[[], type[Exception] | None] | None = None,
) -> Iterator[None]:
    """Raise `error()` in this block, on any thread, if it computes for longer than `seconds`.

    `look` is called every 30 ms, on another thread, and may return another error to raise.

    These are seconds of the thread's own CPU time where the system counts it, so that a busy
    machine ends nothing early, and at most 20 times as many of all time. The exception comes
    between two bytecodes, so one long call into C is not interrupted. Once it is scheduled it is
    never cancelled: CPython would look for it for ever, and hang when traced. A KeyboardInterrupt
    may end the block before its last lines: so nothing is raised where its caller has ended, too.
    """
    here, ended, lock = threading.get_ident(), False, threading.Lock()
    caller = sys._getframe(2)  # within, contextlib, the caller
    block = (id(caller), caller.f_code)
    del caller
    clock = cpu_clock(here)
    begun, begun_s = clock(), time.monotonic()
    timer: threading.Timer

    def cut() -> None:
        with lock:
            if ended:
                return
            left = seconds - (clock() - begun)
            found = look() if look is not None and seconds - left > LOOK_S else None
            if found is None and left > 0 and time.monotonic() - begun_s < 20 * seconds:
                start(max(left, LOOK_S))
            elif block in callers(here):
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(here), ctypes.py_object(found or error)
                )

    def start(wait_s: float) -> None:
        nonlocal timer
        timer = threading.Timer(wait_s if look is None else min(wait_s, LOOK_S), cut)
        timer.daemon = True
        timer.start()

    start(seconds)
    try:
        yield
    finally:
        with lock:
            ended = True
            timer.cancel()  # a scheduled exception is raised here at the latest


def callers(thread: int) -> list[tuple[int, CodeType]]:
    """The frames of a running thread, by id and code; none of one that has ended."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1)  # were the thread to go on meanwhile, its frames might be freed ones
    try:
        frame, found = sys._current_frames().get(thread), []
        while frame is not None:
            found.append((id(frame), frame.f_code))
            frame = frame.f_back
        return found
    finally:
        sys.setswitchinterval(interval)


def cpu_clock(thread: int) -> Callable[[], float]:
    """A clock of the CPU seconds of a thread, or of all time where there is none."""
    if not hasattr(time, "pthread_getcpuclockid"):
        return time.monotonic
    number = time.pthread_getcpuclockid(thread)
    return lambda: time.clock_gettime(number)


def _on_main_thread() -> bool:
    return threading.get_ident() == threading.main_thread().ident
