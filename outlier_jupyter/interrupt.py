"""Ctrl-C, or a kernel's interrupt, at a moment that leaves everything whole."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interrupt_sets(flag: threading.Event) -> Iterator[None]:
    """While this lasts, SIGINT sets `flag` in place of raising; a second one raises after all.

    A KeyboardInterrupt between any two bytecodes could leave a KV cache half advanced. The flag
    is looked at before every layer, so the delay is one layer's. Only the main thread receives
    signals: elsewhere, and where SIGINT is ignored or foreign, nothing is changed.
    """
    previous = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(previous):
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if flag.is_set():
            previous(number, frame)
        flag.set()

    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
