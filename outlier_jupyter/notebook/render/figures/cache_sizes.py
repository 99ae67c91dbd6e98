"""The what-if figure: hits and predicted speed by cache size, one line per policy."""

from __future__ import annotations

from collections.abc import Sequence
from math import log10

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ....formatting import size_words
from ....residency.policies import DEFAULT, POLICIES
from ....trace.trace import Trace
from ....trace.what_if import note, what_if
from ..palette import EITHER
from ..static.text import no_routing
from .style import no_data, note_below, titled_run

LINES = {
    "lru": (EITHER.miss, "dash", "square-open"),
    DEFAULT: (EITHER.hit, "solid", "circle"),
    "belady": (EITHER.top, "dot", "diamond-open"),
}
ANOTHER = (EITHER.ink, "dashdot", "x-thin-open")
"""The line of a policy added by another package."""
WIDE = 20
"""Ratio of the largest to the smallest size above which the axis is logarithmic: the curves change
most among the small sizes."""


def sizes_figure(
    trace: Trace, slots: Sequence[int] | None = None, policies: Sequence[str] | None = None
) -> go.Figure:
    """`what_if` of a trace; of hits alone if no times were recorded."""
    figure = make_subplots(rows=2, shared_xaxes=True, vertical_spacing=0.08)
    caution = note(trace)
    titled_run(figure, trace, "Other cache sizes and policies", 620,
               f"Not exactly the run: {caution}" if caution else "")  # fmt: skip
    slots_title = "slots (experts in RAM)"
    figure.update_xaxes(title_text=slots_title, row=2, col=1)
    figure.update_yaxes(title_text="hit rate in decode (%)", range=[-3, 103], row=1, col=1)
    figure.update_yaxes(title_text="tokens/s, predicted", rangemode="tozero", row=2, col=1)
    reason = no_routing(trace) or ("" if (trace.phase == 1).any() else "no token was decoded")
    if reason:
        return no_data(figure, reason)
    frame = what_if(trace, slots, policies)
    sized = frame.gb.notna().all()
    frame["read"] = [size_words(n) if sized else "unknown bytes" for n in frame.decode_bytes]
    for policy, rows in frame.groupby("policy", sort=False):
        colour, dash, sign = LINES.get(policy, ANOTHER)
        label = POLICIES[policy].label
        for row, values, unit in (
            (1, 100 * rows.decode_hit_rate, "hit rate %{y:.1f} %"),
            (2, rows.tokens_per_second, "%{y:.3~g} tokens/s"),
        ):
            figure.add_trace(
                go.Scatter(
                    x=rows.slots, y=values, name=label, legendgroup=policy,
                    mode="lines+markers", showlegend=row == 1,
                    line={"color": colour, "dash": dash, "width": 1.6},
                    marker={"symbol": sign, "size": 6, "color": colour},
                    customdata=rows[["gb", "share", "read"]],
                    hovertemplate=f"%{{x:,d}} slots, %{{customdata[1]:.3~p}} of all, "
                    f"%{{customdata[0]:.3~g}} GB<br>{unit}<br>"
                    f"%{{customdata[2]}} read in decode<extra>{label}</extra>",
                ),
                row=row, col=1,
            )  # fmt: skip
    ends = float(frame.slots.min()), float(frame.slots.max())
    if logarithmic := ends[1] > WIDE * ends[0]:
        # Plotly's own ticks between powers of ten are single digits: "2" for 2,000.
        candidates = [n * 10**power for power in range(9) for n in (1, 2, 5)]
        ticks = [at for at in candidates if ends[0] <= at <= ends[1]]
        figure.update_xaxes(type="log", tickvals=ticks, ticktext=[f"{at:,}" for at in ticks])
        slots_title += ", logarithmic"
    if trace.info.slots:
        _mark_own_size(figure, trace.info.slots, ends, logarithmic)
    figure.update_xaxes(title_text=slots_title, row=2, col=1)
    if frame.tokens_per_second.isna().all():
        figure.update_yaxes(showticklabels=False, showgrid=False, row=2, col=1)
        figure.update_xaxes(showgrid=False, row=2, col=1)
        figure.add_annotation(text=frame.attrs["cost"], x=0.5, y=0.5, xref="x2 domain",
                              yref="y2 domain", showarrow=False)  # fmt: skip
    else:
        note_below(figure, f"Speeds are predicted: {frame.attrs['cost']}")
    return figure


def _mark_own_size(
    figure: go.Figure, slots: int, ends: tuple[float, float], logarithmic: bool
) -> None:
    """Mark the size of the run's own cache; the label goes to the side with more room."""
    if logarithmic:  # Plotly places a line by its value, but an annotation by its logarithm
        ends = log10(ends[0]), log10(ends[1])
    at = log10(slots) if logarithmic else slots
    side = "right" if at > sum(ends) / 2 else "left"
    figure.add_vline(slots, line={"color": EITHER.ink, "width": 1, "dash": "dot"})
    figure.add_annotation(x=at, y=1, xref="x", yref="y domain", text="this run's size",
                          xanchor=side, yanchor="bottom", showarrow=False,
                          font={"size": 11, "color": EITHER.muted})  # fmt: skip
