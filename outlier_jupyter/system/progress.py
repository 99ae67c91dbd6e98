"""Progress bars: tqdm's, with a lock that an interrupt cannot leave taken.

tqdm's own lock consists of two, taken one after the other in Python: an interrupt in between leaves
the first taken, and every later bar of the process waits for it for ever.
"""

from __future__ import annotations

import threading
from typing import Any

from tqdm.auto import tqdm

from .interactive import attended


class Progress(tqdm):  # type: ignore[misc]  # tqdm has no types
    """tqdm's bar for a terminal or an attended notebook; hidden elsewhere."""

    def __init__(self, *args: Any, disable: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, disable=disable or not attended(), **kwargs)

    def refresh(self, nolock: bool = False, lock_args: Any = None) -> bool:
        """As tqdm's; the lock is released whatever happens."""
        if nolock or self.disable:
            return bool(super().refresh(nolock=True))
        with self.get_lock():
            return bool(super().refresh(nolock=True))


Progress.set_lock(threading.RLock())
