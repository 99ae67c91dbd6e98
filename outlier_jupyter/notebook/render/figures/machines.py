"""The figure of machines: what a token would take with its experts spread over n of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ....formatting import count, percent, size_words
from ....trace.trace import Trace
from ....trace.what_if_hosts import HOSTS, what_if_hosts
from ..palette import EITHER
from .style import STRIPE, no_data, note_below, titled_run

PARTS = (
    ("compute_ms", "computing", EITHER.dense, ""),
    ("read_ms", "waiting for reads", EITHER.miss, "/"),
    ("network_ms", "network", EITHER.route, "x"),
)


def hosts_figure(trace: Trace, hosts: Sequence[int] = HOSTS, **options: Any) -> go.Figure:
    """`what_if_hosts` of a trace; its arguments and errors are those of that."""
    frame = what_if_hosts(trace, hosts, **options)
    figure = make_subplots(rows=2, shared_xaxes=True, vertical_spacing=0.1)
    titled_run(
        figure, trace, "Experts spread over several machines", 620, "Predicted, not measured"
    )
    figure.update_xaxes(title_text="machines", type="category", row=2, col=1)
    figure.update_yaxes(title_text="ms per token", rangemode="tozero", row=1, col=1)
    figure.update_yaxes(title_text="tokens/s", rangemode="tozero", row=2, col=1)
    if frame.tokens_per_second.isna().all():
        return no_data(figure, "no times were recorded")
    names = [str(hosts) for hosts in frame.hosts]
    heads = [count(hosts, "machine") for hosts in frame.hosts]
    for column, name, colour, pattern in PARTS:
        bars = go.Bar(
            x=names, y=frame[column], name=name,
            marker={"color": colour, "pattern": {"shape": pattern, "fgcolor": STRIPE}},
            customdata=heads,
            hovertemplate=f"%{{customdata}}<br>%{{y:.3~g}} ms {name}<extra></extra>",
        )  # fmt: skip
        figure.add_trace(bars, row=1, col=1)
    hovered = [
        f"{head}<br>{percent(row.decode_hit_rate)} of lookups hit<br>the busiest machine reads "
        f"{size_words(row.busiest_bytes)}, {row.imbalance:.2f} × its share"
        for head, row in zip(heads, frame.itertuples(), strict=True)
    ]
    line = go.Scatter(
        x=names, y=frame.tokens_per_second, mode="lines+markers", showlegend=False,
        line={"color": EITHER.hit, "width": 1.6}, customdata=hovered,
        hovertemplate="%{y:.3~g} tokens/s with %{customdata}<extra></extra>",
    )  # fmt: skip
    figure.add_trace(line, row=2, col=1)
    figure.update_layout(barmode="stack")
    note_below(figure, "Assumed: " + "; ".join(frame.attrs["assumed"]))
    return figure
