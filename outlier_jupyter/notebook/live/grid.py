"""A grid of several runs while they are made: text, speed, hit rate, misses, and choices."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

import numpy as np
import numpy.typing as npt
from IPython.display import HTML, display

from ...display import INERT
from ...formatting import count, percent, three
from ...runs.run import Step
from ..render.static.charts import count_shades
from ..render.static.scene import Picture
from ..render.static.svg import png_bytes

EVERY_S = 0.25
"""How often the grid is drawn anew, at most."""
TAIL = 160
"""The last characters of a text that a cell shows."""
BARS, HEIGHT = 48, 18
"""The last tokens whose misses are drawn, and the pixels of a token that missed all."""
MAP_HEIGHT = 96
"""The most pixels of a map."""
STYLE = (
    ".oj-grid{display:grid;gap:8px;grid-template-columns:repeat(auto-fill,minmax(240px,1fr));"
    "font:13px/1.45 var(--jp-ui-font-family,system-ui,sans-serif)}"
    ".oj-grid>div{border:1px solid var(--jp-border-color2,#8884);border-radius:6px;"
    "padding:8px 10px;overflow-wrap:anywhere;min-width:0}.oj-grid b{display:block}"
    ".oj-grid small{opacity:.78}.oj-grid svg{display:block;width:100%;margin:4px 0 2px}"
    ".oj-grid img{display:block;width:100%;image-rendering:pixelated;margin:6px 0 2px}"
    ".oj-grid rect{fill:currentColor;opacity:.55}.oj-grid line{stroke:currentColor;opacity:.3}"
)


class Grid:
    """The cells of several runs; call it with the number of a run and its next step.

    Args:
        names: of the runs, in their order.
        clock: seconds.
    """

    def __init__(
        self, names: Sequence[str], clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._names, self._clock = names, clock
        self._texts = [""] * len(names)
        self._ends = [""] * len(names)
        self._counts = [[0, 0] for _ in names]  # tokens, nanoseconds
        self._lookups: list[list[tuple[int, int]]] = [[] for _ in names]  # in decode
        self._chosen = [np.zeros((0, 0), np.int64) for _ in names]  # [layers, experts]
        self._drawn = float("-inf")
        self._handle: Any = None

    def __call__(self, number: int, step: Step) -> None:
        """Take a step, and draw if the last time is long enough ago."""
        self._texts[number] += step.text
        self._ends[number] = step.finish_reason or ""
        counts = self._counts[number]
        if counts[0]:  # the first token's call read a prompt
            counts[1] += step.ns
            self._lookups[number].append((step.hits, step.misses))
        counts[0] += 1
        self._chosen[number] = with_choices(self._chosen[number], step.experts)
        if self._clock() - self._drawn >= EVERY_S:
            self.draw()

    def draw(self) -> None:
        """Show all cells as they are now."""
        self._drawn = self._clock()
        shown = HTML(self.html())
        if self._handle is None:
            self._handle = display(shown, display_id=True)
        else:
            self._handle.update(shown)

    def clear(self) -> None:
        """Remove the grid: a table takes its place."""
        if self._handle is not None:
            self._handle.update(HTML(""))

    def html(self) -> str:
        """The grid."""
        cells = "".join(self._cell(number) for number in range(len(self._names)))
        return f'<div class="oj-grid {INERT}"><style>{STYLE}</style>{cells}</div>'

    def _cell(self, number: int) -> str:
        (tokens, ns), lookups = self._counts[number], self._lookups[number]
        speed = (tokens - 1) / ns * 1e9 if ns else float("nan")
        hits = sum(hit for hit, _ in lookups)
        every = hits + sum(miss for _, miss in lookups)
        state = self._ends[number] or ("waits" if not tokens else f"{three(speed)} tokens/s")
        text = self._texts[number][-TAIL:]
        numbers = f"{count(tokens, 'token')} · {escape(state)}"
        if every:
            rate = percent(hits / every).replace(" ", "\u00a0")
            numbers += f" · hit rate in decode {rate}"
        return (
            f"<div><b>{escape(self._names[number])}</b>{escape(text)}"
            f"{map_html(self._chosen[number])}{misses_svg(lookups[-BARS:])}<small>{numbers}</small></div>"
        )


def with_choices(
    counts: npt.NDArray[np.int64], experts: npt.NDArray[np.int16]
) -> npt.NDArray[np.int64]:
    """Counts [layers, experts], grown if need be, with a token's choices [layers, k] added."""
    layers, top = len(experts), int(experts.max(initial=-1)) + 1
    if counts.shape[0] < layers or counts.shape[1] < top:
        grow = max(0, layers - counts.shape[0]), max(0, top - counts.shape[1])
        counts = np.pad(counts, [(0, each) for each in grow])
    rows = np.broadcast_to(np.arange(layers)[:, None], experts.shape)
    np.add.at(counts, (rows[experts >= 0], experts[experts >= 0]), 1)
    return counts


def map_html(counts: npt.NDArray[np.int64]) -> str:
    """How often each layer (down) chose each expert (across) for generated tokens."""
    if not counts.size:
        return ""
    cells, colours = count_shades(counts)
    layers, experts = counts.shape
    source = base64.b64encode(png_bytes(Picture(0, 0, experts, layers, cells, colours))).decode()
    title = f"How often each of {layers} layers chose each expert, up to {experts - 1}"
    height = min(MAP_HEIGHT, max(24, 4 * layers))
    return (
        f'<img src="data:image/png;base64,{source}" alt="{title}" title="{title}" '
        f'style="height:{height}px">'
    )


def misses_svg(lookups: Sequence[tuple[int, int]]) -> str:
    """A bar for each token: the share of its lookups, (hits, misses), that missed."""
    if not lookups:
        return ""
    bars = "".join(
        f'<rect x="{4 * at}" y="{HEIGHT - HEIGHT * missed / (hit + missed):.1f}" width="3" '
        f'height="{HEIGHT * missed / (hit + missed):.1f}"/>'
        for at, (hit, missed) in enumerate(lookups)
        if missed
    )
    return (
        f'<svg viewBox="0 0 {4 * BARS} {HEIGHT + 1}" role="img" '
        f'aria-label="Misses of the last tokens"><title>Misses of the last tokens</title>{bars}'
        f'<line x1="0" x2="{4 * BARS}" y1="{HEIGHT + 0.5}" y2="{HEIGHT + 0.5}"/></svg>'
    )
