"""One figure: do surprise, router entropy and misses go together? The title answers."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ....trace.measures import token_name
from ....trace.surprise import ENTROPY, FEWEST, MISSES, SURPRISE, Associations, associations
from ....trace.trace import Trace
from ..palette import EITHER
from ..static.text import model_words, warning
from .style import UNDER, no_data, titled

TITLES = {
    SURPRISE: "surprise (nats, −log-probability)",
    ENTROPY: "router entropy (bits, mean of layers)",
    MISSES: "misses",
}


def surprise_figure(trace: Trace) -> go.Figure:
    """The three correlations with their intervals, and every token by surprise and misses."""
    found = associations(trace)
    figure = make_subplots(rows=2, row_heights=[0.33, 0.67], vertical_spacing=0.17)
    about = f"{model_words(trace)} · rank correlations of decoded tokens"
    if len(found.steps) >= FEWEST:
        about += " · intervals: 95 % for all three together, bootstrap of blocks of tokens"
    titled(figure, found.sentence.removesuffix("."), about, warning(trace), height=660)
    figure.update_xaxes(title_text="rank correlation", range=[-1.05, 1.05], row=1, col=1)
    if not len(found.steps):
        return no_data(figure, found.sentence.removesuffix("."))
    _correlations(figure, found)
    _tokens(figure, trace, found)
    return figure


def _correlations(figure: go.Figure, found: Associations) -> None:
    """A mark for each pair, filled if it is beyond chance."""
    names = [f"{pair.first} and {pair.second}" for pair in found.pairs]
    colours = [EITHER.hit if pair.beyond_chance else EITHER.top for pair in found.pairs]
    rho = np.array([pair.rho for pair in found.pairs])
    ends = np.array([[pair.low, pair.high] for pair in found.pairs])
    labels = [
        "not known: one of the two is always the same" if np.isnan(pair.rho)
        else f"{pair.rho:+.2f}, too few tokens for an interval" if np.isnan(pair.low)
        else f"{pair.rho:+.2f}, interval {pair.low:+.2f} to {pair.high:+.2f}"
        for pair in found.pairs
    ]  # fmt: skip
    figure.add_trace(
        go.Scatter(
            x=np.nan_to_num(rho),
            y=np.arange(len(names)),
            customdata=np.stack([names, labels], axis=1),
            mode="markers",
            showlegend=False,
            marker={
                "symbol": [
                    "x-thin-open" if np.isnan(pair.rho)
                    else "circle" if pair.beyond_chance else "circle-open"
                    for pair in found.pairs
                ],
                "size": 9,
                "color": colours,
                "line": {"width": 1.5, "color": colours},
            },
            error_x={
                "type": "data",
                "symmetric": False,
                "array": np.nan_to_num(ends[:, 1] - rho),
                "arrayminus": np.nan_to_num(rho - ends[:, 0]),
                "thickness": 1,
                "color": EITHER.ink,
            },
            hovertemplate="%{customdata[0]}: %{customdata[1]}<extra></extra>",
        ),
        row=1,
        col=1,
    )  # fmt: skip
    figure.add_vline(0, line={"color": EITHER.ink, "width": 1, "dash": "dash"}, row=1, col=1)
    figure.update_yaxes(range=[2.4, -0.8], showticklabels=False, showgrid=False, row=1, col=1)
    for at, name in enumerate(names):  # within the panel: beside it they would take its width
        figure.add_annotation(
            x=-1.02, y=at - 0.36, text=name, xanchor="left", showarrow=False,
            font={"size": 11, "color": EITHER.muted}, row=1, col=1,
        )  # fmt: skip


def _tokens(figure: go.Figure, trace: Trace, found: Associations) -> None:
    """A mark for each token; one beyond the largest router entropy's half is filled."""
    surprise, bits, misses = (found.values[name] for name in (SURPRISE, ENTROPY, MISSES))
    rows = np.stack([surprise, misses, bits], axis=1)
    names = np.array([token_name(trace, step) for step in found.steps.tolist()], object)
    middle = np.nanmedian(bits) if np.isfinite(bits).any() else np.nan
    halves = [(bits > middle, "above the median", "circle", EITHER.miss),
              (~(bits > middle), "up to the median", "circle-open", EITHER.hit)]  # fmt: skip
    for mine, name, sign, colour in halves:
        figure.add_trace(
            go.Scattergl(
                x=rows[mine, 0],
                y=rows[mine, 1],
                customdata=np.stack([names[mine], bits[mine].astype(object)], axis=1),
                mode="markers",
                name=f"router entropy {name}",
                marker={"symbol": sign, "size": 7, "color": colour,
                        "line": {"width": 1.2, "color": colour}},
                hovertemplate="%{customdata[0]}<br>surprise %{x:.3~g} nats<br>%{y} misses<br>"
                "router entropy %{customdata[1]:.3~g} bits<extra></extra>",
            ),
            row=2,
            col=1,
        )  # fmt: skip
    end = 1.04 * float(surprise.max())
    figure.update_xaxes(
        title_text=TITLES[SURPRISE], range=[-end / 50, end] if end else None, row=2, col=1
    )
    figure.update_yaxes(title_text="misses of the token", rangemode="tozero", row=2, col=1)
    figure.update_layout(showlegend=True, legend=UNDER, margin={"b": 96})
