"""An explanation of one token as HTML: the words and tables of `trace.explained`, no script."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from ....trace.explain import Explanation
from ....trace.explanation_text import cause, headline, layer_rows, left_out, limits, missed, parts
from .page import ROOT, STYLE


def html(told: Explanation, styled: bool = True) -> str:
    """The text/html form; everything that came from a model is escaped.

    Args:
        styled: whether its style sheet comes along; a page that has it already needs no other.
    """
    out = [f'<div class="{ROOT}">{f"<style>{STYLE}</style>" if styled else ""}',
           f"<p><b>{escape(headline(told))}</b> {escape(cause(told))}</p>",
           table(("part", "time", "share", "what it is"), parts(told)),
           f"<p>{escape(missed(told))}</p>"]  # fmt: skip
    if rows := layer_rows(told):
        out.append(table(("layer", "waited", "experts that were not in RAM"), rows))
        if said := left_out(told):
            out.append(f"<p>{escape(said)}.</p>")
    out += [f"<p>{escape(line)}</p>" for line in limits(told)]
    return "\n".join([*out, "</div>"])


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Words as a table; all of them are escaped."""
    top = "".join(f"<th>{escape(word)}</th>" for word in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(word)}</td>" for word in row) + "</tr>" for row in rows
    )
    return (
        '<div class="oj-wide"><table class="oj-told">'
        f"<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"
    )
