"""An explanation of one token as static HTML, from the text of `trace.explanation_text`."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from ....trace.explain import Explanation
from ....trace.explanation_text import cause, headline, layer_rows, left_out, limits, missed, parts
from .page import ROOT, STYLE

LONG = 30
"""Characters from which a cell's text may be broken."""


def html(found: Explanation, styled: bool = True) -> str:
    """The text/html form; everything that came from a model is escaped.

    Args:
        styled: whether to include the style sheet; a page needs it once.
    """
    out = [f'<div class="{ROOT}">{f"<style>{STYLE}</style>" if styled else ""}',
           f"<p><b>{escape(headline(found))}</b> {escape(cause(found))}</p>",
           table(("part", "time", "share", "what it contains"), parts(found)),
           f"<p>{escape(missed(found))}</p>"]  # fmt: skip
    if rows := layer_rows(found):
        out.append(table(("layer", "waited", "experts that were not in RAM"), rows))
        if more := left_out(found):
            out.append(f"<p>{escape(more)}.</p>")
    out += [f"<p>{escape(line)}</p>" for line in limits(found)]
    return "\n".join([*out, "</div>"])


def _cell(word: str) -> str:
    """A cell; a long text may be broken where a short one may not."""
    long = ' class="oj-long"' if len(word) > LONG else ""
    return f"<td{long}>{escape(word)}</td>"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of texts, which are escaped."""
    top = "".join(f"<th>{escape(word)}</th>" for word in head)
    body = "".join("<tr>" + "".join(map(_cell, row)) + "</tr>" for row in rows)
    return (
        '<div class="oj-wide" tabindex="0"><table class="oj-table">'
        f"<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"
    )
