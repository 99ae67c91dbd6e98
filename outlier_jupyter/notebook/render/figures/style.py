"""The look that all figures share: titles, axes, and a panel that says why it is empty.

It knows no measure. A figure is data, drawn later by a page whose theme it cannot ask for, or
saved as a picture: so it has no ground of its own, and one palette that reads on light and dark.
"""

from __future__ import annotations

from html import escape
from textwrap import wrap

import plotly.graph_objects as go

from ....trace.trace import Trace
from ..palette import EITHER
from ..static.text import model_words, reader_words, warning

STRIPE = "#ffffff"
"""Of patterns and lines upon coloured marks."""
WIDE, BOLD = 88, 80
"""Characters of a line under the title, plain and bold: they end within a page of 640 pixels."""
LINE = 18
"""Pixels of one more such line."""
NO_BREAK = "\u00a0"
UNDER = {"orientation": "h", "x": 0, "y": 0, "yref": "container", "yanchor": "bottom"}
"""The legend's place below all else, for `update_layout`; the bottom margin has to hold it."""


def plain(text: str) -> str:
    """Words for a figure that are not ours to trust, such as a name or what was said.

    Plotly reads a little HTML in all of its texts, and TeX between dollars where there is MathJax.
    """
    return escape(text, quote=False).replace("$", "&#36;")


def titled_run(
    figure: go.Figure, trace: Trace, title: str, height: int = 440, said: str = ""
) -> None:
    """`titled` for one run: what was run, under the title, and how its output was changed.

    Args:
        said: what else is to be known; it stands in the place of the change.
    """
    steps = f"{trace.steps:,} step" + ("" if trace.steps == 1 else "s")
    about = f"{model_words(trace)} · {steps} · {reader_words(trace)}"
    titled(figure, title, about, said or warning(trace), height)


def titled(figure: go.Figure, title: str, about: str, said: str = "", height: int = 440) -> None:
    """The title, what it is about under it, a warning, and the look all figures share."""
    text = f"<b>{plain(title)}</b>"
    # Plotly cuts a long line off at the figure's edge: what is warned of must not end there.
    under, warned = _lines(about), wrap(said, BOLD)
    for line in under:
        line = plain(line)
        text += f'<br><span style="font-size:12px;color:{EITHER.muted}">{line}</span>'
    for line in warned:
        line = plain(line)
        text += f'<br><span style="font-size:12px;color:{EITHER.warn}"><b>{line}</b></span>'
    top = 76 + LINE * (max(len(under), 1) - 1 + len(warned)) + (2 if warned else 0)
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
    # Invisible ticks keep the labels a little away from the plot.
    ticks = {"ticks": "outside", "ticklen": 5, "tickcolor": EITHER.surface}
    figure.update_xaxes(gridcolor=EITHER.grid, zeroline=False, **ticks)
    figure.update_yaxes(gridcolor=EITHER.grid, zeroline=False, **ticks)


def _lines(about: str) -> list[str]:
    """Lines of `WIDE` at most, broken between the parts that dots divide where that can be."""
    parts = about.split(" · ")
    whole = [part.replace(" ", NO_BREAK) if len(part) < WIDE else part for part in parts]
    return [line.replace(NO_BREAK, " ") for line in wrap(" · ".join(whole), WIDE)]


def matrix_axes(figure: go.Figure, layers: int) -> None:
    """The axes of the first panel: experts across, layers down from 0."""
    whole = {"tickformat": "d", "showgrid": False}
    figure.update_layout(
        xaxis={"title": "expert", **whole},
        yaxis={"title": "MoE layer", "range": [max(layers, 1) - 0.5, -0.5], **whole},
    )


def no_data(figure: go.Figure, reason: str) -> go.Figure:
    """The figure with nothing but the reason why."""
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
    if "yaxis2" in layout:  # one empty panel says it as well as two
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
