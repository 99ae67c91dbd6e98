"""Loads under way, which the process's exit waits for.

At exit Python cuts daemon threads off where they ask for its lock. In the middle of MLX's code that
aborts the process, so a load on such a thread goes on to its next check, and there the thread waits
for the end.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


class Loads:
    """The loads of all threads of this process."""

    def __init__(self) -> None:
        self.forget()
        os.register_at_fork(after_in_child=self.forget)

    def forget(self) -> None:
        """There is none; a forked child has none of its parent's threads."""
        self._changed = threading.Condition()
        self._under_way: Counter[int] = Counter()
        self._exiting = False

    @contextmanager
    def one(self) -> Iterator[None]:
        """A load, or what uses MLX as one; within one it adds nothing."""
        thread = threading.get_ident()
        self.check()
        with self._changed:
            self._under_way[thread] += 1
        try:
            yield
        finally:
            with self._changed:
                self._under_way[thread] -= 1
                self._changed.notify_all()
            self.check()

    def check(self) -> None:
        """Once the process exits, block the calling daemon thread for ever; it uses no MLX here."""
        if not (self._exiting and threading.current_thread().daemon):
            return
        with self._changed:
            self._under_way.pop(threading.get_ident(), None)
            self._changed.notify_all()
        threading.Event().wait()

    def end(self, seconds: float) -> None:
        """At exit: wait until no load is under way, or for `seconds`."""
        self._exiting = True
        with self._changed:
            self._changed.wait_for(lambda: not self._under_way.total(), seconds)


loads = Loads()
