"""Answers as static HTML: one sentence, a chart beside a small table, and all numbers in a fold.

No script; the table scrolls within itself where a cell is narrower than it.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from ....formatting import Table, small
from ....studies import answers as words
from ....studies.ablate import Ablation
from ....studies.sweep_result import Sweep
from ....trace.answers import FrameAnswer, MeasuresAnswer, WhatIfAnswer
from ....trace.segment_answers import SegmentsAnswer
from ....trace.what_if import WhatIf
from . import answer_charts as charts
from .explanation import table
from .page import ROOT, STYLE, image
from .report_charts import caches
from .scene import Scene

if TYPE_CHECKING:
    import pandas

    from ....engine.status import Status

ROWS = 60
"""The most rows of a frame in a fold."""
ANSWER = """
.oj-static .oj-sentence{font-size:15px;line-height:1.45;margin:0 0 10px;max-width:72ch}
.oj-static .oj-beside{display:flex;flex-wrap:wrap;gap:6px 22px;align-items:flex-start}
.oj-static .oj-beside>img{flex:1 1 300px;max-width:400px;min-width:0;height:auto;margin:0 0 8px}
.oj-static .oj-beside>div{flex:1 1 auto;min-width:0;max-width:100%}
.oj-static .oj-beside td,.oj-static .oj-beside th{white-space:nowrap!important;
 padding-right:12px!important;min-width:0!important}
.oj-static .oj-beside th{white-space:normal!important;vertical-align:bottom}
.oj-static .oj-beside .oj-long{white-space:normal!important;min-width:13em!important}
.oj-static .oj-note{font-size:12px;opacity:.78;margin:0 0 4px;max-width:100ch}
"""


def answer_html(
    sentence: str,
    shown: Table = (),
    scenes: Sequence[Scene] = (),
    notes: Sequence[str] = (),
    folds: Sequence[tuple[str, str]] = (),
) -> str:
    """The text/html form of an answer; all texts are escaped, the folds are HTML already."""
    parts = [f'<div class="{ROOT}"><style>{STYLE}{ANSWER}</style>', headline(sentence)]
    parts.append(beside(shown, scenes))
    parts += [note(each) for each in notes]
    parts += [folded(*fold) for fold in folds]
    return "\n".join([*filter(None, parts), "</div>"])


def headline(sentence: str) -> str:
    """The sentence."""
    return f'<p class="oj-sentence">{escape(sentence)}</p>'


def beside(shown: Table, scenes: Sequence[Scene]) -> str:
    """Charts, and a small table beside them or below."""
    parts = [image(scene) for scene in scenes]
    parts += [table(shown[0], shown[1:])] if shown else []
    return f'<div class="oj-beside">{"".join(parts)}</div>' if parts else ""


def note(text: str) -> str:
    """A small line; `text` has no full stop."""
    return f'<p class="oj-note">{escape(text[:1].upper() + text[1:])}.</p>'


def folded(summary: str, body: str) -> str:
    """A fold that is closed at first; `body` is HTML."""
    return f"<details><summary>{escape(summary)}</summary>{body}</details>"


def numbers(frame: pandas.DataFrame) -> tuple[str, str]:
    """A fold with the rows of a frame."""
    rows = [
        tuple(str(v) if isinstance(v, bool | np.bool_) else small(float(v))
              if isinstance(v, int | float | np.number) else str(v)
              for v in row)
        for row in frame.head(ROWS).itertuples(index=False)
    ]  # fmt: skip
    left = f", the first {ROWS} of {len(frame):,} rows" if len(frame) > ROWS else ""
    return f"All numbers (.frame{left})", table([str(name) for name in frame.columns], rows)


def what_if_html(found: WhatIfAnswer) -> str:
    """Hit rate by cache size."""
    frame, trace = found.frame, found.trace
    rows = [{str(k): v for k, v in row.items()} for row in frame.to_dict("records")]
    known = trace.info.slots and (frame.slots == trace.info.slots).any()
    if not known and trace.info.slots:  # the line begins at the run's own size
        replays = WhatIf(trace)
        rows += [replays.row(str(name), trace.info.slots) for name in frame.policy.unique()]
    decoded = bool((trace.phase == 1).any())
    scenes = [caches(rows, trace)] if decoded and len({row["slots"] for row in rows}) > 1 else []
    return answer_html(found.sentence, found.table, scenes, found.notes, [numbers(frame)])


def hosts_html(found: FrameAnswer) -> str:
    """A row per number of machines, and what the prediction rests on."""
    return answer_html(found.sentence, found.table, (), found.notes, [numbers(found.frame)])


def measures_html(found: MeasuresAnswer) -> str:
    """What a token shares with the one before, by layer."""
    scenes = [charts.overlap(found.frame)] if found.frame.overlap.notna().any() else []
    return answer_html(found.sentence, found.table, scenes, found.notes, [numbers(found.frame)])


def segments_html(found: SegmentsAnswer) -> str:
    """Divergence of two kinds of tokens by layer, beside what each kind took."""
    names = " and ".join(found.kinds)
    scenes = [] if found.routing is None else [charts.of_layers(found.routing, names)]
    return answer_html(found.sentence, found.table, scenes, found.notes, [numbers(found.frame)])


def ablation_html(found: Ablation) -> str:
    """The change of each text, beside the changes by random masks."""
    return answer_html(
        found.sentence, words.ablation_table(found), [charts.ablation(found)],
        words.ablation_notes(found), [numbers(found.frame)],
    )  # fmt: skip


def sweep_html(found: Sweep) -> str:
    """The speed of each setting."""
    frame = found.to_pandas("runs")
    folds = [numbers(frame.drop(columns=["text"], errors="ignore"))] if len(frame) else []
    scenes = [charts.sweep(found)] if found.rows else []
    return answer_html(found.sentence, found.table(), scenes, found.notes(), folds)


def ready_html(found: Status) -> str:
    """What was loaded, with a warning if it is not the model's own output."""
    changed = [f"not the model's own output: {found.changed_output}"] * bool(found.changed_output)
    return answer_html(found.ready, notes=changed)


def status_html(found: Status) -> str:
    """What is loaded, and its settings in a fold."""
    return answer_html(
        found.sentence, folds=[("Settings and sizes", table(("what", "now"), found.facts()))]
    )
