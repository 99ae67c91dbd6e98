"""A comparison as static HTML: texts side by side, differences of each pair, and equal caches.

Words that differ between two texts are marked by an underline as well as by colour. Only the first
pairs are shown in full; for many runs there is the matrix.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import numpy as np

from ....formatting import interval, percent, size_words, small, three
from ....runs.run import Run
from ....studies.answers import comparison_notes, pairs_table
from ..class_colours import COLOURS, class_numbers
from .answer import ANSWER, beside, folded, headline, note, numbers
from .answer_charts import divergence
from .explanation import table
from .page import ROOT, STYLE

if TYPE_CHECKING:
    from ....studies.compare import Comparison
    from ....trace.alignment import Stretch

PAIRS = 3
"""Pairs shown in full."""
EXPERTS, TOKENS = 12, 10
TEXT = 6000
"""Characters of a text that are shown."""

SHEET = """
.oj-static .oj-sides{display:grid;grid-template-columns:1fr 1fr;gap:0 18px;margin:0 0 10px}
.oj-static .oj-sides>div{min-width:0;white-space:pre-wrap;overflow-wrap:anywhere}
.oj-static .oj-own{border-bottom:2px solid}
.oj-static .oj-own-2{border-bottom:2px dashed}
.oj-static h4{margin:14px 0 6px;font-size:14px}
.oj-static .oj-bar{display:inline-block;height:8px;background:#4a86c4;vertical-align:middle;
 margin-right:6px}
@media(max-width:600px){.oj-static .oj-sides{grid-template-columns:1fr}}
""" + "".join(
    f".oj-static .oj-class-{number}{{border-color:{colour};"
    f"background:color-mix(in srgb,{colour} 20%,transparent)}}\n"
    for number, colour in enumerate(COLOURS)
)


def html(found: Comparison) -> str:
    """The text/html form; everything that came from a model or a user is escaped."""
    class_numbers(found.names)  # numbers the runs in this order
    likely = found.matrix
    first = max(found.pairs, key=lambda key: float(np.nan_to_num(likely[key])))
    parts = [
        f'<div class="{ROOT}"><style>{STYLE}{ANSWER}{SHEET}</style>',
        headline(found.sentence),
        beside(pairs_table(found), [divergence(found, *first)]),
        _caches(found),
    ]
    parts += [note(each) for each in comparison_notes(found)]
    if len(found.runs) > 2:
        parts.append(folded("All pairs", _matrix(found)))
    pairs = list(found.pairs)
    for i, j in pairs[:PAIRS]:
        summary = f"{found.names[i]} against {found.names[j]}: texts, layers, experts"
        parts.append(folded(summary, "\n".join(_pair(found, i, j))))
    if (more := len(pairs) - PAIRS) > 0:
        parts.append(f'<p class="oj-soft">{more:,} more pairs: .divergence(i, j), .experts(i, j), '
                     ".figure(i, j).</p>")  # fmt: skip
    parts.append(folded(*numbers(found.frame)))
    return "\n".join([*parts, "</div>"])


def _pair(found: Comparison, i: int, j: int) -> list[str]:
    one, other = found.names[i], found.names[j]
    parts: list[str] = []
    prompts, answers = found.aligned(i, j)
    for label, stretches in (("Prompt", prompts), ("Answer", answers)):
        if stretches:
            parts.append(_sides(label, one, other, stretches))
    parts.append(f"<p>{escape(found.pair_text(i, j))}.</p>")
    parts.append(_layers(found, i, j))
    rows = [
        (str(row.layer), str(row.expert), percent(row.first), percent(row.second), small(row.p))
        for row in found.experts(i, j)[:EXPERTS]
    ]
    if rows:
        head = ("layer", "expert", f"share in {one}", f"in {other}", "corrected p")
        parts.append(
            folded(f"Experts that differ ({len(rows)} most significant)", table(head, rows))
        )
    run = found.runs[i]
    tokens = [
        (f"{token.step:,}", run.piece_at(token.step) if isinstance(run, Run) else "",
         three(token.bits))
        for token in found.tokens(i, j, TOKENS)
    ]  # fmt: skip
    if tokens:
        rows_of_tokens = table((f"number in {one}", "token", "bits per choice"), tokens)
        parts.append(folded(f"Tokens of {one} routed least like {other}", rows_of_tokens))
    return parts


def _sides(label: str, one: str, other: str, stretches: list[Stretch]) -> str:
    """Both texts side by side; differences are marked."""
    sides = ["", ""]
    colours = [f"oj-class-{number}" for number in class_numbers((one, other)).values()]
    for stretch in stretches:
        for side, (text, kind) in enumerate(
            ((stretch.first, f"oj-own {colours[0]}"), (stretch.second, f"oj-own-2 {colours[1]}"))
        ):
            if len(sides[side]) > TEXT or not text:
                continue
            shown = escape(text[:TEXT])
            sides[side] += shown if stretch.same else f'<span class="{kind}">{shown}</span>'
    cells = "".join(
        f'<div><span class="oj-label">{label}, {escape(name)}</span>{side or "(none)"}</div>'
        for name, side in zip((one, other), sides, strict=True)
    )
    return f'<div class="oj-sides">{cells}</div>'


def _layers(found: Comparison, i: int, j: int) -> str:
    """Divergence above chance by layer, as bars and numbers, with the finding."""
    pair = found.divergence(i, j)
    sure = set(pair.differing().tolist()) if not pair.caution else set()
    top = float(np.nanmax(np.abs(pair.excess), initial=0)) or 1.0
    rows = []
    for layer in range(len(pair.js)):
        value = float(pair.excess[layer])
        wide = 0 if np.isnan(value) else max(0.0, 120 * value / top)
        bar = f'<span class="oj-bar" style="width:{wide:.0f}px"></span>'
        ends = interval(float(pair.low[layer]), float(pair.high[layer]))
        finding = "beyond chance" if layer in sure else "within chance"
        rows.append(
            f"<tr><td>{layer}</td><td>{bar}{small(value)}</td><td>{ends}</td>"
            f"<td>{small(float(pair.q[layer]))}</td><td>{finding}</td></tr>"
        )
    head = "".join(
        f"<th>{name}</th>"
        for name in ("layer", "bits above chance", "95 % interval", "corrected p", "finding")
    )
    body = (
        f'<div class="oj-wide" tabindex="0"><table class="oj-table"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )
    return folded(f"Layer by layer ({len(sure)} of {len(pair.js)} beyond chance)", body)


def _matrix(found: Comparison) -> str:
    order = found.order()
    values = found.matrix
    rows = [
        (found.names[i], *("–" if i == j else small(float(values[i, j])) for j in order))
        for i in order
    ]
    note = '<p class="oj-soft">mean bits above chance, similar runs next to each other</p>'
    return table(("", *(found.names[i] for i in order)), rows) + note


def _caches(found: Comparison) -> str:
    rows = [
        (name, f"{start.resident:,} of {start.slots:,}; {percent(start.useful)} of what it used",
         f"{percent(cold.hit_rate)}, {size_words(cold.nbytes)} read",
         f"{percent(warm.hit_rate)}, {size_words(warm.nbytes)} read")
        for name, start, cold, warm in zip(found.names, found.starting_caches, found.cold,
                                           found.warm, strict=True)
    ]  # fmt: skip
    head = ("run", "in RAM when it began", f"from an empty LRU cache of {found.slots:,} slots",
            f"from the experts that {found.names[0]} began with")  # fmt: skip
    return table(head, rows)
