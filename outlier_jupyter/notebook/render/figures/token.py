"""One token's timeline: its layers from top to bottom, their parts over time, and their reads.

A few layers are placed at their time. Many would be specks on a long diagonal, so there every layer
begins at the left, and slow ones stand out.
"""

from __future__ import annotations

from math import isnan

import numpy as np
import plotly.graph_objects as go

from ....trace.explain import ExplainedLayer, Explanation
from ....trace.explanation_text import headline, miss_text
from ....trace.schema import LAYER_PARTS
from ....trace.time_parts import layer_part_name, part_name, part_of_layer
from ..palette import EITHER, PART_ROLES
from .style import STRIPE, no_data, plain, titled

PATTERNS = {
    **{"route": "/", "compute": "/", "lookup": "x", "read_wait": "\\", "install": "-"},
    **{"watch": ".", "other": "+", "sample": "|"},
}
"""Part of a token's time → its pattern; compute parts have none."""

MANY = 16
"""From this many layers on, each begins at the left."""
ALL = -1
"""The row for all layers together, above the first."""


def token_figure(found: Explanation) -> go.Figure:
    """A bar of parts for each layer; reads are lines below it."""
    figure = go.Figure()
    titled(figure, f"Where the time of {found.name} went", headline(found),
           height=max(420, 190 + 15 * len(found.layers)))  # fmt: skip
    since = "the call began"
    figure.update_xaxes(title_text=f"ms since {since}", rangemode="tozero")
    if not found.layers or not found.ms:
        return no_data(figure, "no times were recorded" if found.layers else "no expert layers")
    begins, rows = [0.0] * len(found.layers), len(found.layers)
    if found.layers[0].parts:
        ends = np.cumsum([sum(layer.parts[name] for name in LAYER_PARTS) for layer in found.layers])
        if rows >= MANY:
            since, rows = "the layer before ended", rows + 1
            begins = [0.0, *ends[:-1].tolist()]
        _by_layer(figure, found, begins, float(ends[-1]))
    else:
        _whole(figure, found)
    _reads(figure, found, begins)
    figure.update_xaxes(title_text=f"ms since {since}")
    _layer_axis(figure, len(found.layers), rows, bool(found.layers[0].parts))
    if rows == len(found.layers):
        figure.add_vline(found.ms, line={"color": EITHER.ink, "width": 1, "dash": "dot"})
    figure.update_layout(barmode="overlay", legend={"traceorder": "normal"})
    return figure


def _layer_axis(figure: go.Figure, layers: int, rows: int, by_layer: bool) -> None:
    """Layers from 0 downwards; a row for something else has a word instead of a number."""
    every = 1 if layers <= 8 else 2 if layers <= MANY else 5
    ticks = {at: str(at) for at in range(0, layers, every)}
    if rows > layers:
        ticks = {at: text for at, text in ticks.items() if at < layers - 1} | {layers: "after"}
    if not by_layer:
        ticks[ALL] = "all"
    figure.update_yaxes(
        title_text="layer", range=[rows - 0.4, -0.6 if by_layer else ALL - 0.6],
        tickvals=list(ticks), ticktext=list(ticks.values()), showgrid=False,
    )  # fmt: skip


def _by_layer(figure: go.Figure, found: Explanation, begins: list[float], end: float) -> None:
    """Each layer's parts in order, shifted by `begins`."""
    at = 0.0
    starts: dict[str, list[float]] = {name: [] for name in LAYER_PARTS}
    for layer, begin in zip(found.layers, begins, strict=True):
        for name in LAYER_PARTS:
            starts[name].append(at - begin)
            at += layer.parts[name]
    for name in LAYER_PARTS:
        spent = [layer.parts[name] for layer in found.layers]
        if max(spent) <= 0:
            continue
        title = layer_part_name(name, found.kernels)
        part = part_of_layer(name, found.kernels)
        of_graph = name == "experts" != part  # two layer parts belong to building MLX's graph
        figure.add_trace(
            go.Bar(
                base=starts[name],
                x=spent,
                y=[layer.layer for layer in found.layers],
                orientation="h",
                name=title,
                width=0.62,
                customdata=[_needed(layer) for layer in found.layers],
                marker=_looks(part, "+" if of_graph else ""),
                hovertemplate=f"layer %{{y}}: {title} %{{x:.3~g}} ms<br>%{{customdata}}"
                "<extra></extra>",
            )
        )  # fmt: skip
    if found.ms > end:
        own_row = bool(begins[-1])  # if every row begins at the left
        figure.add_trace(
            go.Bar(
                base=[0 if own_row else end], x=[found.ms - end], orientation="h", width=0.2,
                y=[found.layers[-1].layer + own_row], name="after the last layer",
                marker={"color": EITHER.ink, "line": {"width": 0}},
                hovertemplate="after the last layer %{x:.3~g} ms<extra></extra>",
            )
        )  # fmt: skip


def _whole(figure: go.Figure, found: Explanation) -> None:
    """The parts in order, for a trace without times by layer."""
    at = 0.0
    for name, spent in found.parts.items():
        if not spent > 0:
            continue
        figure.add_trace(
            go.Bar(
                base=[at], x=[spent], y=[ALL], orientation="h", width=0.62, name=part_name(name),
                marker=_looks(name),
                hovertemplate=f"{part_name(name)} %{{x:.3~g}} ms over all layers<extra></extra>",
            )
        )  # fmt: skip
        at += spent


def _looks(part: str, bare: str = "") -> dict[str, object]:
    """The marker of a part: its colour in every view, and a pattern."""
    pattern = {"shape": PATTERNS.get(part, bare), "size": 5, "fgcolor": STRIPE}
    colour = getattr(EITHER, PART_ROLES[part])
    return {"color": colour, "line": {"width": 0}, "pattern": pattern}


def _reads(figure: go.Figure, found: Explanation, begins: list[float]) -> None:
    """A line for each read below its layer's bar; its hover text says why it missed."""
    xs: list[float | None] = []
    ys: list[float | None] = []
    words: list[str] = []
    for layer, begin in zip(found.layers, begins, strict=True):
        known = [miss for miss in layer.misses if not isnan(miss.start_ms)]
        for i, miss in enumerate(known):
            below = layer.layer + 0.34 + 0.3 * (i + 1) / (len(known) + 1)
            start = miss.start_ms - begin
            xs += [start, start + miss.ms, None]
            ys += [below, below, None]
            text = plain(f"layer {miss.layer}, {miss_text(found, miss)}")
            words += [f"{text}<br>read in {miss.ms:.3g} ms"] * 3
    if xs:
        figure.add_trace(
            go.Scatter(
                x=xs, y=ys, text=words, mode="lines+markers", name=f"reads ({len(xs) // 3:,})",
                line={"color": EITHER.ink, "width": 1.2},
                marker={"symbol": "line-ns-open", "size": 4, "color": EITHER.ink},
                hovertemplate="%{text}<extra></extra>",
            )
        )  # fmt: skip


def _needed(layer: ExplainedLayer) -> str:
    missed = {miss.expert for miss in layer.misses}
    return "experts " + ", ".join(
        f"{expert}{' (read)' if expert in missed else ''}" for expert in layer.experts
    )
