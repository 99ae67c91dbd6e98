"""The views that stay open after their runs: the newest ones, bounded in number and memory.

An open view keeps its frames and its run, which explains tokens, and the page keeps as much. Of an
older view the static one is left in its place.
"""

from __future__ import annotations

import threading
import weakref
from typing import Protocol

KEPT = 20
"""The number of finished views that stay open."""
KEPT_NBYTES = 256_000_000
"""Bytes of their traces; the newest stays open whatever its size."""


class View(Protocol):
    """What is counted: a live view, or two side by side."""

    closed: bool

    @property
    def over(self) -> bool:
        """Whether its runs have ended."""

    @property
    def trace_nbytes(self) -> int:
        """Bytes of their traces."""

    def close(self) -> None:
        """Leave only the saved view."""


_views: list[weakref.ref[View]] = []
_lock = threading.RLock()


def views() -> list[View]:
    """The displayed views that are open, oldest first."""
    with _lock:
        return [view for each in _views if (view := each()) is not None and not view.closed]


def add(view: View) -> None:
    """Count a displayed view as the newest."""
    with _lock:
        _views[:] = [weakref.ref(each) for each in views() if each is not view]
        _views.append(weakref.ref(view))
    close_old()


def close_old() -> None:
    """Close the oldest finished views over the bounds."""
    with _lock:
        nbytes = 0
        for number, view in enumerate(view for view in reversed(views()) if view.over):
            nbytes += view.trace_nbytes
            if number and (number >= KEPT or nbytes > KEPT_NBYTES):
                view.close()
