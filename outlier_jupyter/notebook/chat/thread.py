"""One thread that does what it is given, in order; started when first needed, ended by `close`.

A widget's message handler may not compute: it runs beside a cell, on whatever thread the kernel
has for it. It puts work here. Nothing here knows what the work is. Where the work is a run, it
hears of that alone: `on_this_thread`.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

from ...events import Event, Sink

log = logging.getLogger(__name__)


class Worker:
    """A queue of calls and the thread that makes them, `busy` while it makes one.

    `leave` is called last of all, on that thread.
    """

    def __init__(self, name: str, leave: Callable[[], object] = lambda: None) -> None:
        self._name = name
        self._leave = leave
        self._queue: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self.closed = False
        self.busy = False

    @property
    def thread(self) -> int | None:
        """The id of this thread, once it was needed."""
        return self._thread.ident if self._thread is not None else None

    @property
    def here(self) -> bool:
        """Whether the caller is on this thread."""
        return threading.current_thread() is self._thread

    def put(self, work: Callable[[], object]) -> bool:
        """Have `work` done after what was put before; False if this worker was closed."""
        with self._lock:
            if self.closed:
                return False
            if self._thread is None:
                self._thread = threading.Thread(target=self._loop, name=self._name, daemon=True)
                self._thread.start()
            self._queue.put(work)
            return True

    def refuse(self) -> None:
        """Take no more work; what was put already is done, then the thread ends."""
        with self._lock:
            if not self.closed:
                self._queue.put(None)
            self.closed = True

    def close(self) -> None:
        """Take no more work, and wait for the end of the thread."""
        self.refuse()
        if self._thread is not None and not self.here:
            self._thread.join()

    def _loop(self) -> None:
        while (work := self._queue.get()) is not None:
            self.busy = True
            try:
                work()
            except Exception:
                log.exception("%s failed and is skipped", work)
            self.busy = False
            del work  # it may hold a run, and the next may be long in coming
        self._leave()


def on_this_thread(sink: Sink) -> Sink:
    """`sink`, for events of runs on the calling thread alone: another's run may come in between."""
    here = threading.get_ident()

    def listen(event: Event) -> None:
        if threading.get_ident() == here:
            sink(event)

    return listen
