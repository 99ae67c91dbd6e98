"""One run, or one change of the engine, at a time: a lock that threads take for their turn.

During a run of `generate`, `watch` or a chat other threads wait, because that run ends by itself. A
stream ends only when its caller iterates on, and the caller may be the very thread that would wait;
so while a stream is open, other calls raise EngineBusy at once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..errors import EngineBusy, EngineClosed
from ..system.interrupt import Interrupts

OURS = "outlier"
"""The prefix of the package's own thread names; the process's exit waits for these threads."""
POLL_S = 0.05
"""How often a waiting thread checks whether to go on waiting."""


class Turns:
    """The turns of one engine."""

    def __init__(self) -> None:
        self._free = threading.Condition()
        self._runner: int | None = None
        self._ends = False
        self._over = self._exits = False
        self._local = threading.local()

    @property
    def taken(self) -> bool:
        """Whether some thread has the turn."""
        return self._runner is not None

    @property
    def mine(self) -> bool:
        """Whether the calling thread has the turn."""
        return self.of(threading.get_ident())

    def of(self, thread: int | None) -> bool:
        """Whether the thread with this id has the turn."""
        return thread is not None and self._runner == thread

    @property
    def must_wait(self) -> bool:
        """Whether the turn is another thread's and will end by itself, so that waiting is safe."""
        return self.taken and self._ends and not self.mine

    @contextmanager
    def ending(self, cancelled: Callable[[], bool] | None = None) -> Iterator[None]:
        """Declare that the calling thread's turns within this block end by themselves.

        Args:
            cancelled: checked while the thread waits; if true, the wait ends with EngineBusy. None
                keeps the outer block's.
        """
        before = getattr(self._local, "cancelled", None)
        self._local.cancelled = cancelled or before or (lambda: False)
        try:
            yield
        finally:
            self._local.cancelled = before

    def take(self, interrupts: Interrupts) -> None:
        """Wait for the turn and take it; `leave` returns it.

        Args:
            interrupts: a noted SIGINT ends the wait with a KeyboardInterrupt.

        Raises:
            EngineBusy: a stream is open, or the wait was cancelled.
            EngineClosed: the engine is being closed.
        """
        self._block_at_exit()
        cancelled = getattr(self._local, "cancelled", None)
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
                if cancelled is not None and cancelled():
                    raise EngineBusy("this run was stopped while it waited for its turn")
                self._free.wait(POLL_S)
            self._runner, self._ends = threading.get_ident(), cancelled is not None

    def take_last(self, seconds: float, interrupts: Interrupts) -> bool:
        """Take the turn for good, ahead of all waiting threads; False if it is not free in time."""
        end = time.monotonic() + (0 if self.mine else seconds)
        self.refuse()
        with self._free:
            while self.taken:
                if time.monotonic() >= end or interrupts.noted:
                    self._over = False
                    return False
                self._free.wait(POLL_S)
            self._runner, self._ends = threading.get_ident(), False
        return True

    def end_with_process(self, seconds: float) -> None:
        """`take_last` at the exit of the process."""
        self._exits = True
        self.take_last(seconds, Interrupts())

    def _block_at_exit(self) -> None:
        """Block a user's daemon thread for ever once the process exits.

        If the thread went on, Python would cut it off, and freeing MLX's state for it while the
        interpreter shuts down would abort the process.
        """
        thread = threading.current_thread()
        if self._exits and thread.daemon and not thread.name.startswith(OURS):
            threading.Event().wait()

    def refuse(self) -> None:
        """Make all waiting threads raise EngineClosed."""
        self._over = True

    def leave(self) -> None:
        """Return the turn."""
        with self._free:
            self._runner, self._ends = None, False
            self._free.notify_all()
        self._block_at_exit()
