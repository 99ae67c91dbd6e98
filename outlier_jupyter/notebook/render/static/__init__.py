"""The static view of a run, as a saved notebook shows it, with no kernel and no script.

A finished run becomes four forms of the same view: HTML with charts, a PNG, Markdown and plain
text; a front end shows the richest one it can. These are pure functions of a `SavedView`, without
IPython, the engine or the live widget.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .charts import all_charts
from .page import page
from .raster import png
from .text import (
    SavedView,
    cache_words,
    ended_words,
    markdown,
    model_words,
    plain,
    reader_words,
    tiles,
    warning,
)

if TYPE_CHECKING:
    from ....runs.run import Run

__all__ = ["SavedView", "mimebundle", "run_bundle"]


def run_bundle(run: Run, note: str = "") -> dict[str, str | bytes]:
    """`mimebundle` of a run."""
    return dict(mimebundle(SavedView.of(run), note))


def mimebundle(view: SavedView, note: str = "") -> dict[str, str]:
    """The view as text/html, with a line `note`, image/png (base64), text/markdown, text/plain."""
    scenes = all_charts(view.trace)
    trace = view.trace
    numbers = " · ".join(f"{number} {what}" for number, what in tiles(trace))
    made = " · ".join(part for part in (cache_words(trace), reader_words(trace)) if part)
    lines = [("ink", numbers), ("muted", made)]
    if view.finish_reason in ("interrupted", "error"):
        lines.append(("warn", ended_words(view.finish_reason)))
    if text := warning(trace):
        lines.append(("warn", text))
    return {
        "text/html": page(view, scenes, note),
        "image/png": png(scenes, model_words(trace), lines),
        "text/markdown": markdown(view),
        "text/plain": plain(view),
    }
