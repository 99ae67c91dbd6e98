"""Figures of the tokens that chose an expert, and of the experts that a span of tokens chose."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from ....formatting import count
from ....runs.token_experts import ExpertUses, TokenExperts
from ..palette import EITHER, colorscale
from ..static.text import model_words
from .style import UNDER, matrix_axes, no_data, plain, titled


def uses_figure(found: ExpertUses) -> go.Figure:
    """One row per run: the steps that chose the expert; where none weighs more it is filled."""
    figure = go.Figure()
    names = list(found.runs)
    first = next(iter(found.runs.values()))
    about = f"{model_words(first.trace)} · {len(found.frame):,} choices in {len(names)} run"
    about += "" if len(names) == 1 else "s"
    if found.frame.weight.notna().any():
        about += " · larger: higher weight"
    titled(figure, f"Where expert {found.expert} of layer {found.layer} is chosen", about,
           height=260 + 44 * len(names))  # fmt: skip
    figure.update_xaxes(title_text="step, prompt included")
    figure.update_yaxes(
        type="category", categoryarray=[plain(name) for name in reversed(names)], title_text="run"
    )
    if found.frame.empty:
        return no_data(figure, "no token of these runs chose it")
    for filled, what in ((True, "highest weight of the layer"), (False, "a lower weight")):
        rows = found.frame[(found.frame["rank"] == 0) == filled]
        weight = np.nan_to_num(rows.weight.to_numpy(), nan=0.5)
        figure.add_trace(
            go.Scatter(
                x=rows.step, y=[plain(name) for name in rows.run], mode="markers",
                name=f"{what} ({len(rows):,})",
                text=[plain(f"{name}: {context}") for name, context in zip(
                    rows.name, rows.context, strict=True)],
                customdata=np.stack([rows.weight, np.where(rows.hit, "hit", "miss")], axis=1),
                marker={
                    "symbol": "circle" if filled else "circle-open",
                    "size": 5 + 9 * weight / max(float(weight.max(initial=0)), 1e-9),
                    # Not orange and blue, which are misses and hits.
                    "color": EITHER.p95 if filled else EITHER.p50,
                    "line": {"width": 1.5, "color": EITHER.p95 if filled else EITHER.p50},
                    # Translucent, a thin ring would be too faint on a dark page.
                    "opacity": 0.75 if filled else 1,
                },
                hovertemplate="%{y}<br>%{text}<br>weight %{customdata[0]:.3f}, "
                "%{customdata[1]}<extra></extra>",
            )
        )  # fmt: skip
    figure.update_layout(showlegend=True, legend=UNDER, margin={"b": 96})
    return figure


def experts_figure(found: TokenExperts) -> go.Figure:
    """How often a span of tokens chose each expert: layers × experts."""
    figure = go.Figure()
    trace = found.run.trace
    titled(
        figure, f"Experts chosen by {count(len(found.steps), 'token')}",
        f"{model_words(trace)} · {len(found.frame):,} different experts",
        height=max(440, 200 + 9 * trace.layers),
    )  # fmt: skip
    matrix_axes(figure, trace.layers)
    counts = np.zeros((trace.layers, max(trace.info.experts_per_layer, default=0)))
    counts[found.frame.layer, found.frame.expert] = found.frame.times
    figure.add_trace(
        go.Heatmap(
            z=counts, zmin=0, colorscale=colorscale(EITHER.empty),
            colorbar={"title": {"text": "times chosen", "side": "right"}, "thickness": 14,
                      "tickformat": ",d"},
            hovertemplate="layer %{y}, expert %{x}<br>chosen %{z:,d} times<extra></extra>",
        )
    )  # fmt: skip
    return figure
