"""One run, or one change of the engine, at a time: a lock that a run takes and its end releases.

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


class RunLock:
    """The lock of one engine."""

    def __init__(self) -> None:
        self._free = threading.Condition()
        self._owner: int | None = None
        self._ends = False
        self._refusing = self._exiting = False
        self._local = threading.local()

    @property
    def locked(self) -> bool:
        """Whether some thread has the lock."""
        return self._owner is not None

    @property
    def owned(self) -> bool:
        """Whether the calling thread has the lock."""
        return self.owned_by(threading.get_ident())

    def owned_by(self, thread: int | None) -> bool:
        """Whether the thread with this id has the lock."""
        return thread is not None and self._owner == thread

    @property
    def must_wait(self) -> bool:
        """Whether another thread has the lock for a run that ends by itself: waiting is safe."""
        return self.locked and self._ends and not self.owned

    @contextmanager
    def ends_by_itself(self, cancelled: Callable[[], bool] | None = None) -> Iterator[None]:
        """Declare that the calling thread's runs within this block end by themselves.

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

    def acquire(self, interrupts: Interrupts) -> None:
        """Wait for the lock and take it; `release` gives it back.

        Args:
            interrupts: a noted SIGINT ends the wait with a KeyboardInterrupt.

        Raises:
            EngineBusy: a stream is open, or the wait was cancelled.
            EngineClosed: the engine is being closed.
        """
        self._block_at_exit()
        cancelled = getattr(self._local, "cancelled", None)
        with self._free:
            while self.locked:
                if not self.must_wait:
                    raise EngineBusy(
                        "another run is under way on this engine: stop it or wait for its end"
                    )
                if interrupts.noted:
                    raise KeyboardInterrupt
                if self._refusing:
                    raise EngineClosed("this engine is being closed: load the model again")
                if cancelled is not None and cancelled():
                    raise EngineBusy("this run was stopped while it waited for another one")
                self._free.wait(POLL_S)
            self._owner, self._ends = threading.get_ident(), cancelled is not None

    def acquire_if_free(self) -> bool:
        """Take the lock for a moment's change of the engine, if nobody has it."""
        with self._free:
            if self.locked or self._refusing or self._exiting:
                return False
            self._owner, self._ends = threading.get_ident(), True
        return True

    def acquire_for_good(self, seconds: float, interrupts: Interrupts) -> bool:
        """Take the lock for good, ahead of all waiting threads; False if it is not free in time."""
        end = time.monotonic() + (0 if self.owned else seconds)
        self.refuse_waiting()
        with self._free:
            while self.locked:
                if time.monotonic() >= end or interrupts.noted:
                    self._refusing = False
                    return False
                self._free.wait(POLL_S)
            self._owner, self._ends = threading.get_ident(), False
        return True

    def acquire_at_exit(self, seconds: float) -> None:
        """`acquire_for_good` at the exit of the process."""
        self._exiting = True
        self.acquire_for_good(seconds, Interrupts())

    def _block_at_exit(self) -> None:
        """Block a user's daemon thread for ever once the process exits.

        If the thread went on, Python would cut it off, and freeing MLX's state for it while the
        interpreter shuts down would abort the process.
        """
        thread = threading.current_thread()
        if self._exiting and thread.daemon and not thread.name.startswith(OURS):
            threading.Event().wait()

    def refuse_waiting(self) -> None:
        """Make all waiting threads raise EngineClosed."""
        self._refusing = True

    def release(self) -> None:
        """Give the lock back, and wake the waiting threads."""
        with self._free:
            self._owner, self._ends = None, False
            self._free.notify_all()
        self._block_at_exit()
