"""A grid of several runs while they are made: text, tokens/s, hit rate, and misses per token."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

from IPython.display import HTML, display

from ...display import INERT
from ...formatting import count, percent, three
from ...runs.run import Step

EVERY_S = 0.25
"""How often the grid is drawn anew, at most."""
TAIL = 160
"""The last characters of a text that a cell shows."""
BARS, HEIGHT = 48, 18
"""The last tokens whose misses are drawn, and the pixels of a token that missed all."""
STYLE = (
    ".oj-grid{display:grid;gap:8px;grid-template-columns:repeat(auto-fill,minmax(240px,1fr));"
    "font:13px/1.45 var(--jp-ui-font-family,system-ui,sans-serif)}"
    ".oj-grid>div{border:1px solid var(--jp-border-color2,#8884);border-radius:6px;"
    "padding:8px 10px;overflow-wrap:anywhere;min-width:0}.oj-grid b{display:block}"
    ".oj-grid small{opacity:.78}.oj-grid svg{display:block;width:100%;margin:4px 0 2px}"
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
            numbers += f" · hit rate in decode {percent(hits / every)}"
        return (
            f"<div><b>{escape(self._names[number])}</b>{escape(text)}"
            f"{misses_svg(lookups[-BARS:])}<small>{numbers}</small></div>"
        )


def misses_svg(lookups: Sequence[tuple[int, int]]) -> str:
    """A bar for each token: the share of its lookups, (hits, misses), that missed."""
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
