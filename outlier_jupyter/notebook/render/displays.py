"""Two outputs of one cell: a widget, and the saved view that replaces it without a kernel.

Updating an output that shows a widget recreates the widget, so the saved view has an output of its
own. In an `ipywidgets.Output`, which cannot be updated, it appears when the widget is closed.
JupyterLab applies updates only on the page that ran the cell. On a page reloaded since, the widget
itself requests `last` and inserts it (`js/src/chat/saved.ts`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from IPython.core.getipython import get_ipython
from IPython.display import display
from ipywidgets import Widget

from .places import Place, within_output


class Displays:
    """The outputs of one widget, in all cells where it was displayed.

    Attributes:
        name: the display id of both outputs; it must be unique.
        last: the content of the second output; empty if it is not displayed.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._shown = False
        self.last: dict[str, str] = {}
        self._places: list[Place] = []

    def show(self, widget: Widget, view: Mapping[str, Any], text: str) -> None:
        """Display the widget, and an output for the saved view; in a terminal, print `text`.

        Args:
            view: of the widget, by media type; empty where no page would show it.
        """
        if not hasattr(get_ipython(), "kernel"):
            print(text)  # noqa: T201, a terminal shows no widget
            return
        if view and within_output():  # the saved view appears when the widget is closed
            self._places.append(Place(widget, lambda: None))
        elif view:
            display(dict(view), raw=True, display_id=f"{self.name}-widget")
        if not self._places:
            display({"text/plain": ""}, raw=True, display_id=self.name)
        self._shown, self.last = True, {}

    def update(self, saved: dict[str, str]) -> None:
        """Put `saved` in the second output, unless it is there already."""
        if self._shown and saved != self.last:
            self.last = saved
            display(dict(saved), raw=True, display_id=self.name, update=True)

    def end(self) -> None:
        """The widget is closed: only the saved view stays."""
        if self._shown:
            self._shown = False
            display({"text/plain": ""}, raw=True, display_id=f"{self.name}-widget", update=True)
        while self._places:
            self._places.pop().replace(self.last)
