"""Two outputs of one cell: a widget, and the saved view that stays without a kernel.

A widget without a kernel shows nothing, and no front end falls back to another form of the same
output. Updating an output that shows a widget recreates the widget, so the saved view has an output
of its own. The widget hides it while it lives (`js/src/widget/saved.ts`), and a rule in the saved
view hides what is left of a dead widget. In an `ipywidgets.Output`, which cannot be updated, the
saved view appears when the widget is closed.

JupyterLab applies updates only on the page that ran the cell. On a page reloaded since, the widget
itself requests `last` and inserts it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from html import escape
from typing import Any

import traitlets
from IPython.core.getipython import get_ipython
from IPython.display import display
from ipywidgets import Widget

from ...display import INERT
from .on_demand import OnDemand
from .places import Place, within_output

# In trusted notebooks: what is left of a dead widget, in the output above. JupyterLab removes the
# style of untrusted ones, and shows the text form of a widget's output there, which is empty.
HIDE_DEAD = (
    ".jp-OutputArea-child:not(:has(.oj-root)):has(+.jp-OutputArea-child .{name}){{display:none}}"
)


class Displays:
    """The outputs of one widget, in all cells where it was displayed.

    Attributes:
        name: the display id of the second output, and a class of its content; it must be unique.
        last: the content of the second output; empty if there is none.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.last: dict[str, str] = {}
        self._saved: Mapping[str, Any] = {}
        self._outputs = self._widget_above = False
        self._places: list[Place] = []

    @property
    def shown(self) -> bool:
        """Whether the widget is displayed."""
        return self._outputs or bool(self._places)

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
            return
        if view:  # without a text form: the saved view is one
            display(dict(view) | {"text/plain": ""}, raw=True, display_id=self._widget_id)
            self._widget_above = True
        elif (
            self._widget_above
        ):  # closed: no widget is above this output, as it is above the others
            display(_kept(self._saved, self.name), raw=True)
            return
        display(self.last or _kept({}, self.name), raw=True, display_id=self.name)
        self._outputs = True

    def update(self, saved: Mapping[str, Any]) -> str:
        """Put `saved` in the second output, unless it is there already; returns its stamp."""
        self._saved = saved
        kept = _kept(saved, self.name, self._widget_above)
        if kept != self.last:
            self.last = kept
            if self._outputs:
                display(dict(kept), raw=True, display_id=self.name, update=True)
        return stamp_of(kept)

    def end(self) -> None:
        """The widget is closed: only the saved view stays."""
        if self._outputs:
            self._outputs = False
            display({"text/plain": ""}, raw=True, display_id=self._widget_id, update=True)
        while self._places:
            self._places.pop().replace(self.last or _kept({}, self.name))

    @property
    def _widget_id(self) -> str:
        return f"{self.name}-widget"


class WithSavedView(OnDemand):
    """A widget that leaves a saved view beside itself wherever it is displayed."""

    view_id = traitlets.Unicode("").tag(sync=True)
    saved = traitlets.Unicode("").tag(sync=True)

    def __init__(self, name: str, **traits: Any) -> None:
        self._displays = Displays(name)
        super().__init__(view_id=name, **traits)

    def show(self, *, widget: bool = True) -> None:
        """Display the widget with its saved view, or the saved view alone."""
        bundled = self._repr_mimebundle_() if widget else {}
        # Data, or data and metadata: versions of anywidget return either.
        data = bundled[0] if isinstance(bundled, tuple) else bundled
        self._displays.show(self, data or {}, repr(self))

    def keep(self, saved: Mapping[str, Any]) -> None:
        """Make `saved`, by media type, the saved view."""
        # The trait is set last: with it the page checks whether the update arrived.
        self.saved = self._displays.update(saved)

    @property
    def saved_view(self) -> dict[str, str]:
        """What a saved notebook shows, by media type; empty if nothing was kept."""
        return self._displays.last

    def send_saved(self) -> None:
        """Send the saved view to a page that missed it."""
        if self.saved_view:
            self.send({"type": "saved", "data": self.saved_view})

    def close(self) -> None:
        """Close the widget; only the saved view stays."""
        if "_displays" in self.__dict__:  # absent if __init__ raised
            self._displays.end()
        super().close()


def one_below_another(
    bundles: Sequence[Mapping[str, str]], titles: Sequence[str] = ()
) -> dict[str, str]:
    """Static views of several runs as one, HTML and text, each below its title if there are any."""
    heads = [f'<p class="{INERT}"><b>{escape(title)}</b></p>' for title in titles]
    parts = zip(heads or [""] * len(bundles), bundles, strict=True)
    words = zip([f"{title}\n" for title in titles] or [""] * len(bundles), bundles, strict=True)
    return {
        "text/html": "".join(head + each["text/html"] for head, each in parts),
        "text/plain": "\n\n".join(title + each["text/plain"] for title, each in words),
    }


def _kept(saved: Mapping[str, Any], name: str, hides: bool = False) -> dict[str, Any]:
    """`saved` as the content of the second output: findable, and hiding a dead widget above it."""
    html = saved.get("text/html", "")
    style = f"<style>{HIDE_DEAD.format(name=name)}</style>" if html and hides else ""
    html = f'<div class="{INERT} oj-saved {name}">{style}{html}</div>'
    mark = f"<!-- oj-{sha256(html.encode('utf-8', 'replace')).hexdigest()[:16]} -->"
    return {"text/plain": ""} | dict(saved) | {"text/html": html + mark}


def stamp_of(kept: Mapping[str, str]) -> str:
    """The mark at the end of a kept view's HTML."""
    return kept["text/html"].rpartition("<!-- ")[2].removesuffix(" -->")
