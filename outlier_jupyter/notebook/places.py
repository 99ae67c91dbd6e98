"""Where a widget stands until something that needs no kernel takes its place.

In a cell that is an output, which is updated. What is shown within an `ipywidgets.Output`, as the
callbacks of buttons do, cannot be updated: its page drops every update. There the widget stands in
a box, which is a widget too, and it is what is in the box that changes.
"""

from __future__ import annotations

from collections.abc import Mapping
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
    """Shows `widget`, as `bundle` if that is given, until `replace` puts something else there."""

    def __init__(self, widget: ipywidgets.Widget, bundle: Any = None) -> None:
        self._box: ipywidgets.VBox | None = None
        self._output: DisplayHandle | None = None
        if within_output():
            self._box = ipywidgets.VBox([widget])
            display(self._box)
        elif bundle is None:
            self._output = display(widget, display_id=True)
        else:
            data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
            self._output = display(dict(data), metadata=metadata, raw=True, display_id=True)

    def replace(self, bundle: Mapping[str, Any]) -> None:
        """Put `bundle`, by media type, where the widget is."""
        if self._box is not None:
            self._box.children = (ipywidgets.HTML(bundle["text/html"]),)
        elif self._output is not None:
            self._output.update(dict(bundle), raw=True)
