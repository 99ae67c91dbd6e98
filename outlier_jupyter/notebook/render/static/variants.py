"""The table of a prompt's variants as static HTML; a fold per variant has its text and routing."""

from __future__ import annotations

from html import escape

from ....studies.variants import Variants
from .answer import answer_html, numbers
from .charts import routing
from .page import image

FOLDS = 24
"""The most variants with a fold."""


def html(found: Variants) -> str:
    """The sentence, the table, and each variant's prompt, answer and routing in a fold."""
    folds = []
    for number, run in enumerate(found.runs.runs[:FOLDS]):
        text = "" if run is None else run.text
        body = "".join(
            f'<span class="oj-label">{label}</span><pre>{escape(part)}</pre>'
            for label, part in (("Prompt", found.prompts[number]), ("Answer", text))
        )
        if run is not None and run.trace.experts.size:
            body += image(routing(run.trace))
        folds.append((f"{number}: {found.name(number)}", body))
    frame = found.frame.drop(columns=["text"], errors="ignore")
    return answer_html(
        found.sentence, found.table, notes=found.notes, folds=[*folds, numbers(frame)]
    )
