"""What a saved notebook shows of a run, with no kernel and no script.

One finished run becomes four forms of the same view: HTML with charts, a PNG, markdown and
plain text; a front end takes the richest it can show. Pure functions of a `SavedView`: nothing here
knows IPython, the engine or the live widget.
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


def run_bundle(run: Run) -> dict[str, str | bytes]:
    """The same of a run."""
    return dict(mimebundle(SavedView(run.text, run.trace, run.finish_reason, run.prompt)))


def mimebundle(view: SavedView) -> dict[str, str]:
    """The view as text/html, image/png (base64), text/markdown and text/plain."""
    scenes = all_charts(view.trace)
    trace = view.trace
    numbers = " · ".join(f"{number} {what}" for number, what in tiles(trace))
    made = " · ".join(part for part in (cache_words(trace), reader_words(trace)) if part)
    lines = [("ink", numbers), ("muted", made)]
    if view.finish_reason in ("interrupted", "error"):
        lines.append(("warn", ended_words(view.finish_reason)))
    if said := warning(trace):
        lines.append(("warn", said))
    return {
        "text/html": page(view, scenes),
        "image/png": png(scenes, model_words(trace), lines),
        "text/markdown": markdown(view),
        "text/plain": plain(view),
    }
