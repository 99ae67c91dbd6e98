"""The common style of all figures: titles, axes, and empty panels with their reason.

A figure is drawn later, by a page with an unknown theme, or saved as a picture. So it has a
transparent background and one palette that is legible on light and dark.
"""

from __future__ import annotations

from html import escape
from math import ceil, floor, log10
from textwrap import wrap

import plotly.graph_objects as go

from ....trace.measures import first_token
from ....trace.trace import Trace
from ..palette import EITHER
from ..static.scene import ticks
from ..static.text import model_words, reader_words, token_words, warning

STRIPE = "#ffffff"
"""The colour of patterns and lines on coloured marks."""
WIDE, BOLD = 88, 80
"""Characters per line under the title, plain and bold, that fit a page of 640 pixels."""
LINE = 18
"""Height of such a line in pixels."""
WIDEST, HEAD, HEAD_LINE = 66, 58, 21
"""Characters of a title on one line, of each line of a longer one, and such a line's height."""
NO_BREAK = "\u00a0"
UNDER = {"orientation": "h", "x": 0, "y": 0, "yref": "container", "yanchor": "bottom"}
"""The legend's position below everything, for `update_layout`; the bottom margin must fit it."""


def plain(text: str) -> str:
    """Escapes text for a figure, such as a name or generated text.

    Plotly interprets some HTML in all of its texts, and TeX between dollars if MathJax is loaded.
    """
    return escape(text, quote=False).replace("$", "&#36;")


def titled_run(
    figure: go.Figure, trace: Trace, title: str, height: int = 440, note: str = ""
) -> None:
    """`titled` for one run: with the model, the tokens and the reader, and a warning.

    Args:
        note: the warning; by default how the output was changed.
    """
    about = f"{model_words(trace)} · {token_words(trace)} · {reader_words(trace)}"
    titled(figure, title, about, note or warning(trace), height)


def note_below(figure: go.Figure, text: str) -> None:
    """Add small text below the second panel's axis, and the room that it takes."""
    lines = wrap(text, BOLD)
    small = [f'<span style="font-size:12px;color:{EITHER.muted}">{line}</span>' for line in lines]
    axis, room = figure.layout.xaxis2.title, LINE * len(lines)
    axis.text = "<br>".join([axis.text, *small])
    figure.update_layout(margin={"b": 56 + room}, height=figure.layout.height + room)


def titled(figure: go.Figure, title: str, about: str, note: str = "", height: int = 440) -> None:
    """Set the title, a description under it, a warning `note`, and the common style."""
    heads = wrap(title, HEAD) if len(title) > WIDEST else [title]
    text = "<br>".join(f"<b>{plain(line)}</b>" for line in heads)
    # Plotly cuts long lines off at the figure's edge, so they are wrapped.
    described, warned = _lines(about), wrap(note, BOLD)
    for line in described:
        line = plain(line)
        text += f'<br><span style="font-size:12px;color:{EITHER.muted}">{line}</span>'
    for line in warned:
        line = plain(line)
        text += f'<br><span style="font-size:12px;color:{EITHER.warn}"><b>{line}</b></span>'
    top = (
        76
        + HEAD_LINE * (len(heads) - 1)
        + LINE * (max(len(described), 1) - 1 + len(warned))
        + (2 if warned else 0)
    )
    figure.update_layout(
        title={
            "text": text,
            "font": {"size": 16},
            "x": 0,
            "xref": "paper",
            "y": 1,
            "yanchor": "top",
            "pad": {"t": 18},
        },
        template="plotly_white",
        font={"color": EITHER.ink, "size": 12},
        paper_bgcolor=EITHER.surface,
        plot_bgcolor=EITHER.surface,
        height=height + top - 76,
        margin={"l": 64, "r": 24, "t": top, "b": 56},
        legend={"orientation": "v", "x": 1.02, "y": 1, "yanchor": "top"},
        hoverlabel={"align": "left"},
        modebar={"bgcolor": EITHER.surface, "color": EITHER.muted, "activecolor": EITHER.hit},
    )
    # Invisible ticks keep the labels at a distance from the plot.
    ticks = {"ticks": "outside", "ticklen": 5, "tickcolor": EITHER.surface}
    figure.update_xaxes(gridcolor=EITHER.grid, zeroline=False, **ticks)
    figure.update_yaxes(gridcolor=EITHER.grid, zeroline=False, **ticks)


def _lines(about: str) -> list[str]:
    """Lines of at most `WIDE` characters, broken at the dots if possible."""
    parts = about.split(" · ")
    unbroken = [part.replace(" ", NO_BREAK) if len(part) < WIDE else part for part in parts]
    return [line.replace(NO_BREAK, " ") for line in wrap(" · ".join(unbroken), WIDE)]


def matrix_axes(figure: go.Figure, layers: int) -> None:
    """The axes of the first panel: experts across, layers down from 0."""
    whole = {"tickformat": "d", "showgrid": False}
    figure.update_layout(
        xaxis={"title": "expert", **whole},
        yaxis={"title": "layer", "range": [max(layers, 1) - 0.5, -0.5], **whole},
    )


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 of each power of ten around `low` and `high`; over three of them, 1 alone.

    Plotly's own ticks are labelled 2 and 5 without their power.
    """
    first, last = floor(log10(low)), ceil(log10(high))
    steps = (1, 2, 5) if last - first <= 4 else (1,)
    return [step * 10.0**power for power in range(first, last + 1) for step in steps]


def token_axis(figure: go.Figure, trace: Trace, row: int) -> None:
    """The axis of a panel: all steps, numbered from token 1 on, as in the live view."""
    before = first_token(trace) - 0.5
    end = trace.steps - before
    numbers = ticks(1, end, 8, whole=True)
    figure.update_xaxes(range=[-before, end], tickvals=numbers, row=row, col=1)


def no_data(figure: go.Figure, reason: str) -> go.Figure:
    """The figure with the reason why it has no data."""
    figure.add_annotation(
        text=f"<b>no data</b>: {plain(reason)}",
        x=0.5,
        y=0.5,
        xref="paper",
        yref="paper",
        showarrow=False,
        font={"size": 14, "color": EITHER.ink},
    )
    bare = {"showticklabels": False, "showgrid": False, "ticks": ""}
    layout = figure.layout
    if "yaxis2" in layout:  # one empty panel is enough
        x_title = layout.xaxis.title.text or layout.xaxis2.title.text
        layout.xaxis2.visible = layout.yaxis2.visible = False
        figure.update_layout(xaxis={"title": x_title, "matches": None}, yaxis={"domain": [0, 1]})
    figure.update_xaxes(**bare)
    figure.update_yaxes(**bare)
    figure.add_shape(
        type="rect",
        x0=0,
        x1=1,
        y0=0,
        y1=1,
        xref="paper",
        yref="paper",
        fillcolor=EITHER.band,
        layer="below",
        line={"width": 0},
    )
    figure.update_layout(height=320)
    return figure
