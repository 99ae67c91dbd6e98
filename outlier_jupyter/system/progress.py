"""Progress bars that Ctrl-C may end anywhere: tqdm's, with a lock that an interrupt cannot keep.

tqdm's own lock is two, taken one after the other in Python: an interrupt in between leaves the
first taken, and every later bar of the process waits for it for ever.
"""

from __future__ import annotations

import threading
from typing import Any

from tqdm.auto import tqdm

from .interactive import attended


class Progress(tqdm):  # type: ignore[misc]  # tqdm has no types
    """tqdm's bar for where it is shown: a terminal or a notebook; none where nobody looks on."""

    def __init__(self, *given: Any, disable: bool = False, **named: Any) -> None:
        super().__init__(*given, disable=disable or not attended(), **named)

    def refresh(self, nolock: bool = False, lock_args: Any = None) -> bool:
        """As tqdm's; the lock is given back whatever happens."""
        if nolock or self.disable:
            return bool(super().refresh(nolock=True))
        with self.get_lock():
            return bool(super().refresh(nolock=True))


Progress.set_lock(threading.RLock())
