"""A subscriber of one thread receives only that thread's events."""

from __future__ import annotations

import threading

from outlier_jupyter.events import Event, TextProduced
from outlier_jupyter.notebook.worker import on_this_thread


def test_a_sink_of_this_thread_does_not_hear_another_thread_s_run() -> None:
    """It receives no event of a run on another thread."""
    received: list[Event] = []
    sink = on_this_thread(received.append)
    other = threading.Thread(target=sink, args=(TextProduced("theirs"),))
    other.start()
    other.join()
    sink(TextProduced("mine"))
    assert received == [TextProduced("mine")]
