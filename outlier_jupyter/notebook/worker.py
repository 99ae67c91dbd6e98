"""A thread that runs queued calls in order; it starts with the first call and ends with `close`.

A widget's message handler must not compute: it runs during a cell, on any thread of the kernel. It
queues its work here. `on_this_thread` filters events, so that a subscriber receives only those of
runs on its own thread.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

from ..events import Event, Sink

log = logging.getLogger(__name__)


class Worker:
    """A queue of calls and the thread that runs them.

    Args:
        name: of the thread.
        leave: called on the thread before it ends.

    Attributes:
        closed: whether it accepts no more calls.
        busy: whether it is running a call.
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
        """The id of the thread, or None before the first call."""
        return self._thread.ident if self._thread is not None else None

    @property
    def here(self) -> bool:
        """Whether the caller is on this thread."""
        return threading.current_thread() is self._thread

    def put(self, work: Callable[[], object]) -> bool:
        """Queue `work`; False if this worker is closed."""
        with self._lock:
            if self.closed:
                return False
            if self._thread is None:
                self._thread = threading.Thread(target=self._loop, name=self._name, daemon=True)
                self._thread.start()
            self._queue.put(work)
            return True

    def stop_accepting(self) -> None:
        """Accept no more calls; the queued ones still run, then the thread ends."""
        with self._lock:
            if not self.closed:
                self._queue.put(None)
            self.closed = True

    def close(self) -> None:
        """Accept no more calls, run the queued ones, and wait for the end of the thread."""
        self.stop_accepting()
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
            del work  # it may reference a run, and the next call may come much later
        self._leave()


def on_this_thread(sink: Sink) -> Sink:
    """Wrap `sink` so that it receives only events of runs on the calling thread."""
    here = threading.get_ident()

    def filtered(event: Event) -> None:
        if threading.get_ident() == here:
            sink(event)

    return filtered
