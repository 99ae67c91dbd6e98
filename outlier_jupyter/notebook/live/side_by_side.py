"""Two runs side by side, live or recorded: one playhead for both.

The widget refers to the live views of both, whose messages the page reads. The browser's half is in
`js/src/compare`.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import traitlets
from ipywidgets import widget_serialization

from ...display import draw
from ...errors import OptionError, shown
from ...runs.run import Run
from ...system.interactive import attended
from ...trace import Trace
from ...values import items, refused
from ...values import text as text_of
from ..page_modules import STATIC
from ..render.displays import WithSavedView, one_below_another
from . import open_views
from .widget import SAVED_NOTE, LiveView


class SideBySide(WithSavedView):
    """Two runs in one view; `side_by_side` and `run.view(beside=…)` create it.

    Attributes:
        one, other: the live views of the two runs.
        names: what the runs are called.
    """

    _esm = STATIC / "compare.js"
    _css = STATIC / "compare.css"

    one = traitlets.Instance(LiveView).tag(sync=True, **widget_serialization)
    other = traitlets.Instance(LiveView).tag(sync=True, **widget_serialization)
    names = traitlets.List(traitlets.Unicode()).tag(sync=True)

    def __init__(
        self,
        one: LiveView,
        other: LiveView,
        names: list[str],
        own: Sequence[LiveView] = (),
        **traits: Any,
    ) -> None:
        name = f"oj-pair-{uuid.uuid4().hex[:12]}"
        self._own = own
        super().__init__(name, one=one, other=other, names=names, **traits)
        self.on_msg(self._receive)
        for view in (one, other):
            view.observe(self._status_changed, "status")

    def save_view(self) -> None:
        """Update the saved view: the static views of the finished runs, one below the other."""
        runs = [view.finished_run for view in (self.one, self.other)]
        bundles: list[dict[str, str]] = [
            draw("Run.mimebundle", run, SAVED_NOTE) for run in runs if run is not None
        ]
        if not bundles or not self._displays.shown:
            return
        titles = [name for name, run in zip(self.names, runs, strict=True) if run is not None]
        self.keep(one_below_another(bundles, titles))

    @property
    def over(self) -> bool:
        """Whether both runs have ended."""
        return self.one.over and self.other.over

    @property
    def trace_nbytes(self) -> int:
        """Bytes of both traces."""
        return self.one.trace_nbytes + self.other.trace_nbytes

    def close(self) -> None:
        """Close the widget, and the views that only it shows; the static views stay."""
        super().close()
        for view in self._own:
            view.close()

    def _status_changed(self, change: object) -> None:
        if self.over:
            self.save_view()

    def _receive(self, _: object, content: object, buffers: object) -> None:
        if isinstance(content, dict) and content.get("type") == "saved":
            self.send_saved()

    def _ipython_display_(self) -> None:
        """IPython's hook: display the view, and beside it the static ones for saved notebooks."""
        self.show(widget=attended() and not self.closed)
        self.save_view()
        open_views.add(self)

    def __repr__(self) -> str:
        return f"SideBySide({self.names[0]!r}, {self.names[1]!r})"


def side_by_side(
    one: Run | Trace | LiveView, other: Run | Trace | LiveView, names: Any = ("A", "B")
) -> SideBySide:
    """Show two runs in one view: one playhead, both maps and their difference, where texts part.

    Args:
        one, other: a run, a trace, or what `watch` returns, also while its run goes on.
        names: what they are called in the view.

    Raises:
        OptionError: one is neither, or there are not two names.
    """
    called = [text_of("names", name) for name in items("names", names, "two names, in a list")]
    if len(called) != 2:
        raise refused("names", names, "two names, in a list")
    left, right = _view_of(one), _view_of(other)
    own = [view for view in (left, right) if view is not one and view is not other]
    return SideBySide(left, right, called, own)


def beside(run: Run, other: Any) -> SideBySide:
    """As `side_by_side`, of a run and another."""
    return side_by_side(run, other)


def _view_of(run: object) -> LiveView:
    match run:
        case LiveView():
            return run
        case Run():
            return LiveView.of(run)
        case Trace():
            return LiveView.of(Run.of(run))
    raise OptionError(
        f"{shown(run)} is not a run: give a run, a trace, or what outlier_jupyter.watch returns"
    )
