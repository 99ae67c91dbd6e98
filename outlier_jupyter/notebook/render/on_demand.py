"""A widget that nobody hears of before it is shown to somebody.

A widget tells its page that it exists, with all of its state and code, when it is made. Where a
notebook is executed and nobody looks on, that would stay in the file, for widgets that are closed
long since. There it is told only when a view of it is asked for.
"""

from __future__ import annotations

import anywidget

from ...system.interactive import attended


class OnDemand(anywidget.AnyWidget):
    """An anywidget that opens its connection when it is first needed, where nobody looks on."""

    _closed = False

    def open(self) -> None:
        """Called as the widget is made."""
        if attended():
            super().open()

    @property
    def model_id(self) -> str:
        """What a view of it refers to; from now on the page knows it."""
        if self.comm is None and not self._closed:
            super().open()
        return str(super().model_id)

    def close(self) -> None:
        """Close the connection, if there is one."""
        self._closed = True
        super().close()
