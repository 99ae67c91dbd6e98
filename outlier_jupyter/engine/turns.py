"""Whose turn it is on an engine: one run, or one change of it, at a time.

Whoever comes while a run is under way that ends by itself, as those of `generate`, of `watch` and
of a chat do, waits for its end. A stream ends when its reader goes on, and the reader may be the
one who asks: that is refused at once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..errors import EngineBusy, EngineClosed
from ..system.interrupt import Interrupts

OURS = "outlier"
"""How the names of the package's own threads begin: they are waited for when the process exits."""
LOOK_S = 0.05
"""How often who waits looks whether it should go on waiting."""


class Turns:
    """The turns of one engine."""

    def __init__(self) -> None:
        self._free = threading.Condition()
        self._runner: int | None = None
        self._ends = False
        self._over = self._exits = False
        self._here = threading.local()

    @property
    def taken(self) -> bool:
        """Whether it is anybody's turn."""
        return self._runner is not None

    @property
    def mine(self) -> bool:
        """Whether it is the calling thread's turn."""
        return self.of(threading.get_ident())

    def of(self, thread: int | None) -> bool:
        """Whether it is the turn of the thread with this id."""
        return thread is not None and self._runner == thread

    @property
    def must_wait(self) -> bool:
        """Whether who comes now would wait."""
        return self.taken and self._ends and not self.mine

    @contextmanager
    def ending(self, given_up: Callable[[], bool] | None = None) -> Iterator[None]:
        """What this thread runs within this block ends by itself.

        Args:
            given_up: looked at while it waits for its turn, which it then does not take; None
                leaves that to the block around this one.
        """
        before = getattr(self._here, "given_up", None)
        self._here.given_up = given_up or before or (lambda: False)
        try:
            yield
        finally:
            self._here.given_up = before

    def take(self, interrupts: Interrupts) -> None:
        """Take the turn; to be given back with `leave`.

        Args:
            interrupts: when one is noted the wait ends with a KeyboardInterrupt.

        Raises:
            EngineBusy: a stream is open, or this wait was given up.
            EngineClosed: the engine is being closed.
        """
        self._stay_at_exit()
        given_up = getattr(self._here, "given_up", None)
        with self._free:
            while self.taken:
                if not self.must_wait:
                    raise EngineBusy(
                        "another run is under way on this engine: stop it or wait for its end"
                    )
                if interrupts.noted:
                    raise KeyboardInterrupt
                if self._over:
                    raise EngineClosed("this engine is being closed: load the model again")
                if given_up is not None and given_up():
                    raise EngineBusy("this run was stopped while it waited for its turn")
                self._free.wait(LOOK_S)
            self._runner, self._ends = threading.get_ident(), given_up is not None

    def take_last(self, seconds: float, interrupts: Interrupts) -> bool:
        """Take the turn before all who wait for it; False where it was not free in time."""
        end = time.monotonic() + (0 if self.mine else seconds)
        self.refuse()
        with self._free:
            while self.taken:
                if time.monotonic() >= end or interrupts.noted:
                    self._over = False
                    return False
                self._free.wait(LOOK_S)
            self._runner, self._ends = threading.get_ident(), False
        return True

    def end_with_process(self, seconds: float) -> None:
        """Take the turn for good, if it is free in time: the process exits."""
        self._exits = True
        self.take_last(seconds, Interrupts())

    def _stay_at_exit(self) -> None:
        """Keep a thread of the user's from going on when the process exits: it would be cut off.

        What MLX has for the thread would then be freed while Python is taken apart, and abort it.
        """
        thread = threading.current_thread()
        if self._exits and thread.daemon and not thread.name.startswith(OURS):
            threading.Event().wait()

    def refuse(self) -> None:
        """From now on nobody waits: who does is told that the engine is being closed."""
        self._over = True

    def leave(self) -> None:
        """Give the turn back."""
        with self._free:
            self._runner, self._ends = None, False
            self._free.notify_all()
        self._stay_at_exit()
