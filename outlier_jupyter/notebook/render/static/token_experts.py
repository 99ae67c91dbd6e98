"""Static HTML of the tokens that chose an expert, highlighted, and of a span's experts."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import numpy as np

from ....formatting import count, percent, three
from .explanation import table
from .page import ROOT, STYLE

if TYPE_CHECKING:
    from ....runs.run import Run
    from ....runs.token_experts import ExpertUses, TokenExperts

TOKENS = 1500
"""The most tokens of a run shown, from the first that chose the expert on."""
ROWS = 20

HIGHLIGHT = """
.oj-static .oj-text{white-space:pre-wrap;overflow-wrap:anywhere;line-height:1.9;margin:0 0 10px}
.oj-static mark{color:inherit;border-radius:3px;padding:1px 0;
 background:color-mix(in srgb,#d4760a calc(var(--w)*70%),transparent);
 border-bottom:2px solid #d4760a}
.oj-static mark.oj-second{border-bottom-style:dotted}
"""


def expert_html(found: ExpertUses, headline: str) -> str:
    """Each run's text with the tokens that chose the expert, and the choices of highest weight."""
    style = f"<style>{STYLE}{HIGHLIGHT}</style>"
    parts = [f'<div class="{ROOT}">{style}<p><b>{escape(headline)}.</b></p>']
    for name, run in found.runs.items():
        mine = found.frame[found.frame.run == name]
        parts.append(f'<span class="oj-label">{escape(name)}: {count(len(mine), "token")}</span>')
        weights = dict(zip(mine.step.tolist(), mine.weight.tolist(), strict=True))
        first = set(mine.step[mine["rank"] == 0].tolist())
        names = dict(zip(mine.step.tolist(), mine.name.tolist(), strict=True))
        parts.append(f'<div class="oj-text">{_highlighted(run, weights, first, names)}</div>')
    order = found.frame.sort_values("weight", ascending=False, kind="stable").head(ROWS)
    several = len(found.runs) > 1
    head = (*["run"] * several, "token", "weight", "rank", "in RAM", "read, in brackets")
    rows = [
        (*[row.run] * several, row.name, three(float(row.weight)), str(row.rank + 1),
         "hit" if row.hit else "miss", row.context)
        for row in order.itertuples()
    ]  # fmt: skip
    if more := len(found.frame) - len(rows):
        parts.append(f'<p class="oj-soft">The {len(rows)} of highest weight; {more:,} more.</p>')
    return "\n".join([*parts, table(head, rows), "</div>"])


def _highlighted(
    run: Run, weights: dict[int, float], first: set[int], names: dict[int, str]
) -> str:
    """The tokens a run read, highlighted by weight; a dotted line marks those of other weights.

    Args:
        first: the steps in which no other choice weighs more.
    """
    trace = run.trace
    begin = max(0, min(weights, default=0) - 5)
    end = min(trace.steps, begin + TOKENS)
    top = max((w for w in weights.values() if np.isfinite(w)), default=1.0) or 1.0
    out = [f"({begin:,} tokens before) " if begin else ""]
    for step in range(begin, end):
        piece = run.read_pieces[step]
        shown = escape(piece) if piece else ("▪" if step in weights else "·")
        if step not in weights:
            out.append(shown)
            continue
        weight = weights[step]
        share = weight / top if np.isfinite(weight) else 0.6
        kind = "" if step in first else ' class="oj-second"'
        out.append(
            f'<mark{kind} style="--w:{share:.2f}" title="{escape(names[step])}, weight '
            f'{three(float(weight))}">{shown}</mark>'
        )
    if end < trace.steps:
        out.append(f" ({trace.steps - end:,} tokens more)")
    return "".join(out)


def tokens_html(found: TokenExperts, headline: str) -> str:
    """The span's experts, layer by layer."""
    rows = []
    for layer, each in found.frame.groupby("layer"):
        experts = [
            f"{row.expert} ({row.times}×, weight {three(float(row.mean_weight))}, usually "
            f"{percent(float(row.usual))} of the layer)"
            for row in each.head(8).itertuples()
        ]
        more = f"; {len(each) - 8} more" if len(each) > 8 else ""
        hits = f"{percent(float(each.hits.sum() / each.times.sum()))}"
        rows.append((str(layer), hits, ", ".join(experts) + more))
    head = ("layer", "in RAM", "experts, most chosen first")
    style = f"<style>{STYLE}</style>"
    return f'<div class="{ROOT}">{style}<p><b>{escape(headline)}.</b></p>{table(head, rows)}</div>'
