"""Figures of two or more runs beside each other. What is no finding is drawn as none."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from ...studies.comparison import Comparison
from ...units import three
from ..palette import LIGHT, ramp
from .look import matrix_axes, titled

ALPHA = 0.05


def divergence_figure(found: Comparison, first: int = 0, second: int = 1) -> go.Figure:
    """Divergence by layer above what chance makes of it, with its interval.

    Raises:
        OptionError: there is no such pair.
    """
    pair = found.parting(first, second)
    figure = go.Figure()
    _titled(figure, found, "Where the routing parts, by layer (Jensen–Shannon)", first, second)
    layers = np.arange(len(pair.js))
    sure = np.isin(layers, pair.differing(ALPHA))
    hover = "layer %{x}<br>%{y:.3~g} bits above chance<br>interval %{customdata[0]:.3~g} to "
    hover += "%{customdata[1]:.3~g}<br>q %{customdata[2]:.2~g}<br>counted %{customdata[3]:.3~g}, "
    hover += "by chance %{customdata[4]:.3~g}<extra></extra>"
    data = np.stack([pair.low, pair.high, pair.q, pair.js, pair.expected], axis=1)
    for mine, name, sign, colour in (
        (sure, "beyond chance", "circle", LIGHT.hit),
        (~sure, "not told from chance", "circle-open", LIGHT.top),
    ):
        figure.add_trace(
            go.Scatter(
                x=layers[mine],
                y=pair.excess[mine],
                customdata=data[mine],
                mode="markers",
                name=f"{name} ({mine.sum()} layers)",
                marker={"symbol": sign, "size": 9, "color": colour, "line": {"width": 1.5}},
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "array": np.maximum(pair.high - pair.excess, 0)[mine],
                    "arrayminus": np.maximum(pair.excess - pair.low, 0)[mine],
                    "thickness": 1,
                    "color": colour,
                },
                hovertemplate=hover,
            )
        )
    figure.add_hline(0, line={"color": LIGHT.ink, "width": 1, "dash": "dash"})
    figure.update_xaxes(title_text="MoE layer", range=[-0.5, len(layers) - 0.5], tickformat="d")
    figure.update_yaxes(title_text="divergence above chance (bits)")
    return figure


def experts_figure(found: Comparison, first: int = 0, second: int = 1) -> go.Figure:
    """Each expert's share in the one run less its share in the other; sure ones are marked.

    Raises:
        OptionError: there is no such pair.
    """
    pair = found.parting(first, second)
    figure = go.Figure()
    _titled(figure, found, "The experts that part them", first, second)
    matrix_axes(figure, len(pair.js))
    limit = float(np.nanmax(np.abs(pair.difference), initial=0)) or 1.0
    one, other = (found.names[i] for i in (first, second))
    figure.add_trace(
        go.Heatmap(
            z=pair.difference,
            customdata=pair.expert_p,
            zmin=-limit,
            zmax=limit,
            colorscale=[(0, LIGHT.miss), (0.5, LIGHT.surface), (1, LIGHT.hit)],
            colorbar={
                "title": {"text": "difference of shares", "side": "right"},
                "thickness": 14,
                "tickformat": "+.0%",
            },
            hovertemplate="layer %{y}, expert %{x}<br>%{z:+.2%} of the layer's choices"
            "<br>corrected p %{customdata:.2~g}<extra></extra>",
        )
    )
    rows = found.experts(first, second, ALPHA)
    for name, sign, mine in (
        (f"more in {one}", "triangle-up", [r for r in rows if r.first > r.second]),
        (
            f"more in {other}",
            "triangle-down-open",
            [r for r in rows if r.first < r.second],
        ),
    ):
        figure.add_trace(
            go.Scatter(
                x=[row.expert for row in mine],
                y=[row.layer for row in mine],
                mode="markers",
                name=f"{_plain(name)} ({len(mine)})",
                marker={"symbol": sign, "size": 6 if len(pair.js) > 16 else 12, "color": LIGHT.ink},
                hoverinfo="skip",
            )
        )
    figure.update_layout(
        height=max(440, 200 + 9 * len(pair.js)),
        legend={
            "orientation": "h",
            "x": 0,
            "y": 0,
            "yref": "container",
            "yanchor": "bottom",
            "title": {"text": "beyond chance: "},
        },
        margin={"b": 110},
    )
    return figure


def matrix_figure(found: Comparison) -> go.Figure:
    """All runs against all: mean divergence above chance, those alike beside each other."""
    figure = go.Figure()
    order = found.order()
    names = [_plain(found.names[i]) for i in order]
    values = found.matrix[np.ix_(order, order)]
    words = [["–" if i == j else three(float(v)) for j, v in enumerate(row)] for i, row in
             enumerate(values)]  # fmt: skip
    titled(
        figure,
        "Runs against each other",
        f"mean over layers of the divergence above chance, {found.phase or 'all'} steps",
        height=max(440, 180 + 34 * len(names)),
    )
    colours = [(i / 9, f"rgb({r},{g},{b})") for i, (r, g, b) in enumerate(ramp(10))]
    figure.add_trace(
        go.Heatmap(
            z=np.where(np.eye(len(names), dtype=bool), np.nan, values),
            x=names,
            y=names,
            zmin=0,
            colorscale=colours,
            text=words if len(names) <= 20 else None,
            texttemplate="%{text}" if len(names) <= 20 else None,
            colorbar={"title": {"text": "bits", "side": "right"}, "thickness": 14},
            hovertemplate="%{y} against %{x}<br>%{z:.3~g} bits<extra></extra>",
        )
    )
    figure.update_yaxes(autorange="reversed", showgrid=False, type="category")
    figure.update_xaxes(showgrid=False, type="category")
    return figure


def _titled(figure: go.Figure, found: Comparison, title: str, first: int, second: int) -> None:
    pair = found.parting(first, second)
    about = (
        f"{found.names[first]} against {found.names[second]} · {found.phase or 'all'} steps · "
        f"{pair.permutations:,} deals of {pair.block} tokens each · 95 % intervals, false "
        f"discovery rate {ALPHA:.0%}"
    )
    titled(figure, title, about, f"No finding: {pair.caution}" if pair.caution else "")


def _plain(name: str) -> str:
    return name.replace("&", "&amp;").replace("<", "&lt;")
