"""Two outputs of one cell: a widget, and what takes its place in a notebook without a kernel.

Updating an output that shows a widget makes the widget anew, so what is saved is an output of its
own; in an `ipywidgets.Output`, where nothing is updated, it comes when the widget is closed.
JupyterLab applies updates for as long as the page lives that ran the cell. On a page that was
reloaded since, the widget itself asks for `last` and puts it there (`js/src/chat/saved.ts`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from IPython.core.getipython import get_ipython
from IPython.display import display
from ipywidgets import Widget

from .places import Place, within_output


class Displays:
    """The outputs of one widget, in whatever cells it was displayed.

    Attributes:
        name: of both outputs; nobody else may have it.
        last: what was put in the second output, empty where it is not displayed.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._shown = False
        self.last: dict[str, str] = {}
        self._places: list[Place] = []

    def show(self, widget: Widget, view: Mapping[str, Any], text: str) -> None:
        """Display the widget, and a place for what is saved; in a terminal, `text`.

        Args:
            view: of the widget, by media type; empty where nobody would see it.
        """
        if not hasattr(get_ipython(), "kernel"):
            print(text)  # noqa: T201, a terminal shows no more of a widget
            return
        if view and within_output():  # what is saved comes when the widget is closed
            self._places.append(Place(widget, lambda: None))
        elif view:
            display(dict(view), raw=True, display_id=f"{self.name}-widget")
        if not self._places:
            display({"text/plain": ""}, raw=True, display_id=self.name)
        self._shown, self.last = True, {}

    def update(self, saved: dict[str, str]) -> None:
        """Put `saved` in the second output; nothing happens where it is there already."""
        if self._shown and saved != self.last:
            self.last = saved
            display(dict(saved), raw=True, display_id=self.name, update=True)

    def end(self) -> None:
        """The widget is closed: only what is saved stays."""
        if self._shown:
            self._shown = False
            display({"text/plain": ""}, raw=True, display_id=f"{self.name}-widget", update=True)
        while self._places:
            self._places.pop().replace(self.last)
