"""Where a widget stands until something that needs no kernel takes its place.

In a cell that is an output, which is updated. What is shown within an `ipywidgets.Output`, as the
callbacks of buttons do, cannot be updated: its page drops every update. There the widget stands in
a box, which is a widget too, and it is what is in the box that changes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import ipywidgets
from IPython.core.getipython import get_ipython
from IPython.display import DisplayHandle, display
from ipywidgets.widgets import widget as registry


def within_output() -> bool:
    """Whether what is displayed now goes into an `ipywidgets.Output`."""
    shell = get_ipython()
    if not hasattr(shell, "kernel"):
        return False
    header = getattr(shell, "parent_header", None)  # the whole request, whatever it is called
    asked = header.get("header", {}).get("msg_id") if isinstance(header, dict) else None
    # A page captures all messages of one request: Python's half of it knows which.
    outputs = [each for each in list(registry._instances.values())
               if isinstance(each, ipywidgets.Output)]  # fmt: skip
    return bool(asked) and any(output.msg_id == asked for output in outputs)


class Place:
    """Shows `widget` until `replace` puts something else there.

    Args:
        output: displays it in an output that can be updated; not called where none can.
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
        """Put `bundle`, by media type, where the widget is."""
        if self._box is not None:
            self._box.children = (ipywidgets.HTML(bundle["text/html"]),)
        elif self._output is not None:
            self._output.update(dict(bundle), raw=True)
