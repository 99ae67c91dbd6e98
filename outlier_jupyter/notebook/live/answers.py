"""What Python answers when a page asks about a token or an expert of a finished run.

A token's answer has words, three sentences, and its timeline: reads and waits as numbers, which the
page draws. The page derives less from its frames where there is no kernel.
"""

from __future__ import annotations

from math import isnan
from typing import Any

from ...errors import OutlierError
from ...runs.run import Run, step_names
from ...trace.explain import Explanation
from ...trace.explanation_text import cause, headline, layer_rows, left_out, limits, sentences
from ...trace.schema import LAYER_PARTS

MOST_READS = 2_000
"""The most reads sent of one token, the longest; a long prompt's call may have more."""


def answer(run: Run, about: object) -> dict[str, Any]:
    """The answer about a step, {"step": 12}, or an expert, {"layer": 3, "expert": 7}.

    Returns:
        `words`, a text; "" for anything else. Of a step also `token`, see `of_token`.
    """
    try:
        match about:
            case {"step": int(step)}:
                found = run.trace._explainer.explain(step, step_names(run))
                return {"words": str(found), "token": of_token(found)}
            case {"layer": int(layer), "expert": int(expert)}:
                return {"words": str(run.tokens_of(layer, expert))}
    except OutlierError as error:
        return {"words": f"{error}."}
    return {"words": ""}


def of_token(found: Explanation) -> dict[str, Any]:
    """A token's explanation as plain numbers and texts, for JSON.

    Returns:
        ms: wall time of its call.
        sentences: what it waited for, why, and what an optimal cache would have done.
        reads: [layer, expert, begin, end, bytes] of each, in ms since the call began.
        waits: [layer, begin, end] of each layer that waited, likewise; empty if not recorded.
        layers: [layer, its wait, its misses in words] of those that waited longest.
        notes: further sentences: layers left out, other tokens of the run, limits of the machine.
    """
    timed = [miss for miss in found.misses if not isnan(miss.start_ms)]
    longest = sorted(timed, key=lambda miss: -miss.ms)[:MOST_READS]
    reads = [[miss.layer, miss.expert, round(miss.start_ms, 4),
              round(miss.start_ms + miss.ms, 4), miss.nbytes]
             for miss in sorted(longest, key=lambda miss: miss.start_ms)]  # fmt: skip
    more = f"{left_out(found)}." if left_out(found) else ""
    return {
        "ms": round(found.ms, 4),
        "sentences": sentences(found),
        "reads": reads,
        "waits": _waits(found),
        "layers": [list(row) for row in layer_rows(found)],
        "notes": [text for text in (more, headline(found), cause(found), *limits(found)) if text],
    }


def _waits(found: Explanation) -> list[list[float]]:
    """[layer, begin, end] of each layer that waited for reads; ms since the call began."""
    waits: list[list[float]] = []
    at = 0.0
    for layer in found.layers:
        for name in LAYER_PARTS if layer.parts else ():
            spent = layer.parts[name]
            if name == "read_wait" and spent > 0:
                waits.append([layer.layer, round(at, 4), round(at + spent, 4)])
            at += spent
    return waits
