"""One token's timeline: its layers one below the other, what each did when, and its reads."""

from __future__ import annotations

from html import escape
from math import isnan

import plotly.graph_objects as go

from ...trace.explain import Explanation, LayerStory
from ...trace.explained import fate, headline, part_name
from ...trace.trace import LAYER_PARTS
from ..palette import LIGHT
from .look import no_data, titled

SEGMENTS = {
    "before": ("since the layer before", LIGHT.frame, ""),
    "route": ("ids known: compute", LIGHT.p50, "/"),
    "lookup": ("look-up", LIGHT.top, "x"),
    "read_wait": ("waiting for reads", LIGHT.miss, "\\"),
    "install": ("install", LIGHT.p95, "-"),
    "experts": ("experts", LIGHT.hit, ""),
    "watch": ("recording", LIGHT.muted, "."),
}
"""Part of a layer → its name, colour and pattern, in the order in which they happen."""
NATIVE = {"before": "dense compute", "route": "router read-back", "experts": "expert compute"}
TOTALS = {"read_wait": "read_wait", "lookup": "lookup", "install": "install", "route": "route",
          "compute": "route", "experts": "experts", "dense": "before", "graph": "before",
          "watch": "watch"}  # fmt: skip
"""A part of the whole → the segment whose colour and pattern it has."""


def token_figure(told: Explanation) -> go.Figure:
    """A bar for each layer, from its beginning to its end; reads are lines below them."""
    figure = go.Figure()
    titled(figure, f"Where the time of {told.name} went", headline(told),
           height=max(420, 190 + 15 * len(told.layers)))  # fmt: skip
    figure.update_xaxes(title_text="ms since the call began", rangemode="tozero")
    if not told.layers or not told.ms:
        return no_data(figure, "no times were recorded" if told.layers else "no expert layers")
    if told.layers[0].parts:
        _by_layer(figure, told)
    else:
        _whole(figure, told)
    _reads(figure, told)
    figure.update_yaxes(
        title_text="MoE layer", range=[len(told.layers) - 0.4, -0.6], tickformat="d",
        showgrid=False,
    )  # fmt: skip
    figure.add_vline(told.ms, line={"color": LIGHT.ink, "width": 1, "dash": "dot"})
    figure.update_layout(barmode="overlay", legend={"traceorder": "normal"})
    return figure


def _by_layer(figure: go.Figure, told: Explanation) -> None:
    at = 0.0
    starts: dict[str, list[float]] = {name: [] for name in LAYER_PARTS}
    for layer in told.layers:
        for name in LAYER_PARTS:
            starts[name].append(at)
            at += layer.parts[name]
    for name, (title, colour, pattern) in SEGMENTS.items():
        spent = [layer.parts[name] for layer in told.layers]
        if max(spent) <= 0:
            continue
        title = NATIVE.get(name, title) if told.kernels == "cpu" else title
        figure.add_trace(
            go.Bar(
                base=starts[name],
                x=spent,
                y=[layer.layer for layer in told.layers],
                orientation="h",
                name=title,
                width=0.62,
                customdata=[_needed(layer) for layer in told.layers],
                marker={"color": colour, "line": {"width": 0},
                        "pattern": {"shape": pattern, "size": 5, "fgcolor": LIGHT.surface}},
                hovertemplate=f"layer %{{y}}: {title} %{{x:.3~g}} ms<br>%{{customdata}}"
                "<extra></extra>",
            )
        )  # fmt: skip
    if told.ms > at:
        figure.add_trace(
            go.Bar(
                base=[at], x=[told.ms - at], y=[told.layers[-1].layer], orientation="h", width=0.2,
                name="after the last layer", marker={"color": LIGHT.ink},
                hovertemplate="after the last layer %{x:.3~g} ms<extra></extra>",
            )
        )  # fmt: skip


def _whole(figure: go.Figure, told: Explanation) -> None:
    """The parts one after the other, where it is not known in which layer they were."""
    at = 0.0
    for name, spent in told.parts.items():
        _, colour, pattern = SEGMENTS.get(TOTALS.get(name, ""), ("", LIGHT.ink, ""))
        figure.add_trace(
            go.Bar(
                base=[at], x=[spent], y=[-0.3], orientation="h", width=0.3, name=part_name(name),
                marker={"color": colour, "line": {"width": 0},
                        "pattern": {"shape": pattern, "size": 5, "fgcolor": LIGHT.surface}},
                hovertemplate=f"{part_name(name)} %{{x:.3~g}} ms over all layers<extra></extra>",
            )
        )  # fmt: skip
        at += spent


def _reads(figure: go.Figure, told: Explanation) -> None:
    """A line for each read, below its layer's bar; what it was for is told when pointed at."""
    xs: list[float | None] = []
    ys: list[float | None] = []
    words: list[str] = []
    for layer in told.layers:
        known = [miss for miss in layer.misses if not isnan(miss.start_ms)]
        for i, miss in enumerate(known):
            below = layer.layer + 0.34 + 0.3 * (i + 1) / (len(known) + 1)
            xs += [miss.start_ms, miss.start_ms + miss.ms, None]
            ys += [below, below, None]
            said = f"layer {miss.layer}, expert {fate(told, miss)}<br>read in {miss.ms:.3g} ms"
            words += [escape(said, quote=False).replace("&lt;br&gt;", "<br>")] * 3
    if xs:
        figure.add_trace(
            go.Scatter(
                x=xs, y=ys, text=words, mode="lines+markers", name=f"reads ({len(xs) // 3:,})",
                line={"color": LIGHT.ink, "width": 1.2},
                marker={"symbol": "line-ns-open", "size": 4, "color": LIGHT.ink},
                hovertemplate="%{text}<extra></extra>",
            )
        )  # fmt: skip


def _needed(layer: LayerStory) -> str:
    missed = {miss.expert for miss in layer.misses}
    return "experts " + ", ".join(
        f"{expert}{' (read)' if expert in missed else ''}" for expert in layer.experts
    )
