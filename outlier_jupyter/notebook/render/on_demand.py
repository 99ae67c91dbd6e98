"""A widget that opens its connection only when it is displayed, in notebooks run by a program.

A widget sends its state and code to the page when it is created. In a notebook that a program
executes, these would stay in the file, also of widgets closed long before. There the connection is
opened only when a view of the widget is requested.
"""

from __future__ import annotations

import anywidget

from ...system.interactive import attended


class OnDemand(anywidget.AnyWidget):
    """An anywidget that opens its connection on first use if no user is attached."""

    closed = False
    """Whether it was closed."""

    def open(self) -> None:
        """Called when the widget is created."""
        if attended():
            super().open()

    @property
    def model_id(self) -> str:
        """The id that a view refers to; opens the connection."""
        if self.comm is None and not self.closed:
            super().open()
        return str(super().model_id)

    def close(self) -> None:
        """Close the connection, if there is one."""
        self.closed = True
        super().close()
