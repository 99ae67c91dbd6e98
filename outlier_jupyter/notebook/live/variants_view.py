"""A table of variants with controls: another order, and a variant's run in its live view."""

from __future__ import annotations

from typing import Any

import ipywidgets

from ...formatting import count
from ...studies.variants import Variants

NONE = -1
"""The choice of no run."""


NARROW = "display:grid;grid-template-columns:minmax(0,1fr)"
"""A wide table scrolls within its cell."""


class VariantsView(ipywidgets.VBox):
    """The table, sorted by a chosen column; below it the live view of a chosen variant's run.

    Args:
        found: the variants; their numbers stay those of the table as it was made.
    """

    def __init__(self, found: Variants) -> None:
        self._found = found
        self._table, self._place = ipywidgets.HTML(), ipywidgets.VBox()
        columns = [str(name) for name in found.frame.columns]
        layout = ipywidgets.Layout(width="auto", max_width="100%")
        self.by = ipywidgets.Dropdown(
            options=[("as they ran", ""), *((name, name) for name in columns)],
            value="", description="Sort by", layout=layout,
        )  # fmt: skip
        self.descending = ipywidgets.Checkbox(description="largest first", indent=False)
        runs = [(f"{n}: {found.name(n)}", n) for n, run in enumerate(found.runs.runs) if run]
        self.opened = ipywidgets.Dropdown(
            options=[(f"one of {count(len(runs), 'run')}", NONE), *runs],
            value=NONE, description="Open", layout=layout,
        )  # fmt: skip
        controls = ipywidgets.HBox(
            [self.by, self.descending, self.opened],
            layout=ipywidgets.Layout(flex_flow="row wrap"),
        )
        super().__init__([controls, self._table, self._place])
        self.by.observe(self._sort, "value")
        self.descending.observe(self._sort, "value")
        self.opened.observe(self._open, "value")
        self._sort(None)

    def _sort(self, change: Any) -> None:
        found = self._found
        if self.by.value:
            found = found.sort(self.by.value, self.descending.value)
        self._table.value = f'<div style="{NARROW}">{found._repr_html_()}</div>'

    def _open(self, change: Any) -> None:
        for view in self._place.children:
            view.close()
        number = self.opened.value
        self._place.children = () if number == NONE else (self._found[number].view(),)
