"""Displays a widget that static content replaces later.

In a cell the widget is an output, which is updated. An output within an `ipywidgets.Output`, as in
the callbacks of buttons, cannot be updated: the page drops every update. There the widget is put in
a box, which is a widget too, and the box's content is replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import ipywidgets
from IPython.core.getipython import get_ipython
from IPython.display import DisplayHandle, display
from ipywidgets.widgets import widget as registry


def within_output() -> bool:
    """Whether `display` now writes into an `ipywidgets.Output`."""
    shell = get_ipython()
    if not hasattr(shell, "kernel"):
        return False
    request = getattr(shell, "parent_header", None)  # the whole request, despite the name
    request_id = request.get("header", {}).get("msg_id") if isinstance(request, dict) else None
    # An Output captures all messages of one request; its Python object knows which.
    outputs = [each for each in list(registry._instances.values())
               if isinstance(each, ipywidgets.Output)]  # fmt: skip
    return bool(request_id) and any(output.msg_id == request_id for output in outputs)


class Place:
    """Shows `widget` until `replace` shows something else.

    Args:
        output: displays the widget in an output that can be updated; called only where that works.
    """

    def __init__(
        self, widget: ipywidgets.Widget, output: Callable[[], DisplayHandle | None]
    ) -> None:
        self._box: ipywidgets.VBox | None = None
        self._output: DisplayHandle | None = None
        if within_output():
            self._box = ipywidgets.VBox([widget])
            display(self._box)
        else:
            self._output = output()

    def replace(self, bundle: Mapping[str, Any]) -> None:
        """Show `bundle`, by media type, in place of the widget."""
        if self._box is not None:
            self._box.children = (ipywidgets.HTML(bundle["text/html"]),)
        elif self._output is not None:
            self._output.update(dict(bundle), raw=True)
