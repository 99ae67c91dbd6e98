"""Shots: SIGINT, stop and cancel after a time, while something is called, and nowhere else."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType


class Gun:
    """Sends SIGINT to this process while a call runs; the handler raises only then.

    Attributes:
        armed: whether the handler raises.
        fired: how many signals the handler got since the last `at`.
    """

    def __init__(self) -> None:
        self.armed = False
        self.fired = 0

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Python's handler of SIGINT."""
        self.fired += 1
        if self.armed:
            raise KeyboardInterrupt

    @contextmanager
    def installed(self) -> Iterator[Gun]:
        """Handle SIGINT in this block."""
        before = signal.signal(signal.SIGINT, self.handle)
        try:
            yield self
        finally:
            signal.signal(signal.SIGINT, before)

    def at(self, delays_s: Sequence[float], call: Callable[[], object]) -> BaseException | None:
        """Call `call` and send a signal after each delay; return what it raised."""
        over = threading.Event()

        def fire() -> None:
            begun = time.monotonic()
            for delay in sorted(delays_s):
                if over.wait(max(0.0, begun + delay - time.monotonic())):
                    return
                os.kill(os.getpid(), signal.SIGINT)

        shooter = threading.Thread(target=fire, name="shooter")
        raised: BaseException | None = None
        self.fired = 0
        try:
            try:
                self.armed = True
                shooter.start()
                call()
            finally:
                self.armed = False
        except BaseException as error:
            raised = error
        while True:  # a signal may come between the two lines above
            try:
                self.armed = False
                break
            except KeyboardInterrupt as error:
                raised = error
        over.set()
        shooter.join()
        return raised
