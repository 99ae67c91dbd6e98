"""Figures that compare two or more runs; layers and experts that do not differ are drawn open."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from ....formatting import percent, three
from ....studies.compare import Comparison
from ....trace.divergence import RoutingDivergence
from ....trace.segment_answers import SegmentsAnswer
from ..class_colours import COLOURS, class_numbers
from ..palette import EITHER, LIGHT, ramp
from .style import STRIPE, UNDER, matrix_axes, no_data, plain, titled, titled_run

ALPHA = 0.05
MARKED = 60
"""The most marks of one kind; more would hide the map."""
MIDDLE = "#f2f2f2"
"""The colour of no difference; opaque, because a colour key cannot be translucent."""


def divergence_figure(found: Comparison, first: int = 0, second: int = 1) -> go.Figure:
    """Divergence above chance by layer, with its interval.

    Raises:
        OptionError: no such pair.
    """
    pair = found.divergence(first, second)
    figure = go.Figure()
    _titled(figure, found, "Divergence of routing by layer (Jensen–Shannon)", first, second)
    return _by_layer(figure, pair)


def segments_figure(found: SegmentsAnswer) -> go.Figure:
    """Divergence above chance by layer of two kinds of tokens; crosses are the halves of one."""
    figure = go.Figure()
    title = f"Routing of {' and '.join(found.kinds)} by layer"
    pair = found.routing
    if pair is None:
        titled_run(figure, found.trace, title)
        return no_data(figure, found.sentence.rstrip("."))
    about = (
        f"{found.trace.info.model} · {pair.permutations:,} permutations of blocks of "
        f"{pair.block} tokens · 95 % intervals, false discovery rate {percent(ALPHA)}"
    )
    titled(figure, title, about, f"Too few tokens to tell: {pair.caution}" if pair.caution else "")
    _by_layer(figure, pair)
    if found.halves is not None:
        figure.add_trace(
            go.Scatter(
                x=np.arange(len(pair.js)),
                y=found.halves.excess,
                mode="markers",
                name="two halves of the longer one",
                marker={"symbol": "x-thin", "size": 7, "line": {"width": 1.2, "color": EITHER.ink}},
                hovertemplate="layer %{x}<br>halves: %{y:.3~g} bits above chance<extra></extra>",
            )
        )
    return figure


def _by_layer(figure: go.Figure, pair: RoutingDivergence) -> go.Figure:
    """Add the divergence above chance by layer, with its interval."""
    layers = np.arange(len(pair.js))
    sure = np.isin(layers, pair.differing(ALPHA))
    hover = "layer %{x}<br>%{y:.3~g} bits above chance<br>interval %{customdata[0]:.3~g} to "
    hover += "%{customdata[1]:.3~g}<br>q %{customdata[2]:.3~f}<br>total %{customdata[3]:.3~g}, "
    hover += "by chance %{customdata[4]:.3~g}<extra></extra>"
    data = np.stack([pair.low, pair.high, pair.q, pair.js, pair.expected], axis=1)
    for mine, name, sign, colour in (
        (sure, "beyond chance, by permutations", "circle", EITHER.hit),
        (~sure, "within chance", "circle-open", EITHER.top),
    ):
        figure.add_trace(
            go.Scatter(
                x=layers[mine],
                y=pair.excess[mine],
                customdata=data[mine],
                mode="markers",
                name=f"{name} ({mine.sum()} of {len(layers)} layers)",
                marker={
                    "symbol": sign,
                    "size": 9,
                    "color": colour,
                    "line": {"width": 1.5, "color": colour},
                },
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
    figure.add_hline(0, line={"color": EITHER.ink, "width": 1, "dash": "dash"})
    figure.update_xaxes(title_text="layer", range=[-0.8, len(layers) - 0.2], tickformat="d")
    figure.update_yaxes(title_text="divergence above chance (bits)")
    # The legend goes below: beside the plot it would take a third of the width that layers need.
    figure.update_layout(showlegend=True, legend=UNDER, margin={"b": 96})
    return figure


def experts_figure(found: Comparison, first: int = 0, second: int = 1) -> go.Figure:
    """Each expert's share in one run minus its share in the other; significant ones are marked.

    Raises:
        OptionError: no such pair.
    """
    pair = found.divergence(first, second)
    figure = go.Figure()
    _titled(figure, found, "Experts that differ", first, second)
    matrix_axes(figure, len(pair.js))
    own, other = _colours(found, first, second)
    names = [plain(found.names[i]) for i in (first, second)]
    limit = float(np.nanmax(np.abs(pair.difference), initial=0)) or 1.0
    figure.add_trace(
        go.Heatmap(
            z=pair.difference,
            customdata=pair.expert_p,
            zmin=-limit,
            zmax=limit,
            colorscale=[(0, other), (0.5, MIDDLE), (1, own)],
            colorbar={
                "title": {"text": f"share in {names[0]} minus in {names[1]}", "side": "right"},
                "thickness": 14,
                "tickformat": "+.0%",
            },
            hovertemplate="layer %{y}, expert %{x}<br>%{z:+.3~p} of the layer's choices"
            "<br>corrected p %{customdata:.3~f}<extra></extra>",
        )
    )
    _marks(figure, found, first, second)
    figure.update_layout(
        # The title's lines do not reduce the map's height.
        height=max(364, 124 + 9 * len(pair.js)) + figure.layout.margin.t,
        legend=UNDER | {"title": {"text": "beyond chance: "}},
        margin={"b": 110},
    )
    return figure


def _colours(found: Comparison, first: int, second: int) -> list[str]:
    """The colours of the two runs; all runs are numbered first, in their own order."""
    class_numbers(found.names)
    pair = class_numbers((found.names[first], found.names[second]))
    return [COLOURS[number] for number in pair.values()]


def _marks(figure: go.Figure, found: Comparison, first: int, second: int) -> None:
    """Mark the experts that one run uses more, beyond chance; of many the most significant."""
    one, other = (found.names[i] for i in (first, second))
    many = len(found.divergence(first, second).js) > 16
    rows = found.experts(first, second, ALPHA)
    for name, sign, fill, edge, mine in (
        (one, "triangle-up", LIGHT.ink, STRIPE, [r for r in rows if r.first > r.second]),
        (other, "triangle-down", STRIPE, LIGHT.ink, [r for r in rows if r.first < r.second]),
    ):
        shown = mine[:MARKED]
        count = (
            f"{len(mine):,}" if shown == mine else f"the {MARKED} most significant of {len(mine):,}"
        )
        figure.add_trace(
            go.Scatter(
                x=[row.expert for row in shown],
                y=[row.layer for row in shown],
                mode="markers",
                name=f"{plain(f'more in {name}')} ({count})",
                marker={
                    "symbol": sign,
                    "size": 7 if many else 12,
                    "color": fill,
                    "line": {"color": edge, "width": 1},
                },
                hoverinfo="skip",
            )
        )


def matrix_figure(found: Comparison) -> go.Figure:
    """Mean divergence above chance of all pairs of runs, with similar runs next to each other."""
    figure = go.Figure()
    order = found.order()
    names = [plain(found.names[i]) for i in order]
    values = found.matrix[np.ix_(order, order)]
    words = [["" if i == j else three(float(v)) for j, v in enumerate(row)] for i, row in
             enumerate(values)]  # fmt: skip
    titled(
        figure,
        "Runs against each other",
        f"mean over layers of the divergence above chance, {found.phase or 'prefill and decode'}",
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
            zmax=float(np.nanmax(values, initial=0)) or 1.0,
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
    pair = found.divergence(first, second)
    phase = found.phase or "prefill and decode"
    about = (
        f"{found.names[first]} against {found.names[second]} · {phase} · "
        f"{pair.permutations:,} permutations of blocks of {pair.block} tokens · 95 % intervals, "
        f"false discovery rate {percent(ALPHA)}"
    )
    titled(figure, title, about, f"Too few tokens to tell: {pair.caution}" if pair.caution else "")
