"""Figures of routing: measures by layer and over time, and the atlas of experts.

Every line has its own dash and marker, every class a marker as well as a colour.
"""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ....formatting import percent
from ....trace.atlas import NONE, Atlas
from ....trace.measures import first_token, token_name
from ....trace.phases import PHASES, check_phase
from ....trace.routing_measures import SEGMENT, over_time, routing_measures
from ....trace.trace import Trace
from ..class_colours import COLOURS as CLASS_COLOURS
from ..class_colours import class_numbers
from ..palette import EITHER, ramp
from ..static.text import no_routing
from .style import STRIPE, no_data, plain, titled, titled_run, token_axis

BALANCE = (
    ("entropy over its maximum", "evenness"),
    ("Gini", "gini"),
    ("Jain", "jain"),
    ("experts with half the choices", "half"),
    ("largest weight of a token", "confidence"),
)
LOCALITY = (
    ("shared with the token before", "overlap"),
    ("the same by chance", "chance_overlap"),
    (f"segment routing ({SEGMENT} tokens)", "srp"),
    (f"segment cache hit rate ({SEGMENT} tokens)", "sch"),
    ("first uses", "first_uses"),
)
REUSE = (("other experts between two uses", "reuse"), ("tokens between two uses", "gap"))
COLOURS = (EITHER.hit, EITHER.miss, EITHER.p50, EITHER.p95, EITHER.top, EITHER.warn)
SIGNS = ("circle", "diamond-open", "square", "x-thin-open", "triangle-up-open", "star-open",
         "cross")  # fmt: skip
"""One more than the colours, so that no two of 42 classes share both."""
UNITS = "units"
"""The label of the units if no classes were given."""
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")


def measures_figure(trace: Trace, phase: str | None = "decode") -> go.Figure:
    """The measures of one phase by layer, in three panels."""
    figure = make_subplots(rows=3, row_heights=[0.36, 0.36, 0.28], vertical_spacing=0.07,
                           shared_xaxes=True)  # fmt: skip
    check_phase(phase)  # validated before it is part of a title
    titled_run(figure, trace, f"Routing by layer, {phase or 'prefill and decode'}", height=800)
    figure.update_xaxes(title_text="layer", row=3, col=1)
    figure.update_yaxes(title_text="share (0 to 1)", range=[-0.03, 1.03], row=1, col=1)
    figure.update_yaxes(title_text="share (0 to 1)", range=[-0.03, 1.03], row=2, col=1)
    figure.update_yaxes(title_text="count (median)", rangemode="tozero", row=3, col=1)
    found = routing_measures(trace, phase)
    reason = no_routing(trace)
    if not reason and not found.choices.any():
        reason = f"no token of this run was in {phase}"
    if reason:
        return no_data(_one_panel(figure), reason)
    layers = np.arange(trace.layers)
    for row, lines in enumerate((BALANCE, LOCALITY, REUSE), 1):
        for i, (name, attribute) in enumerate(lines):
            values = getattr(found, attribute)
            # Infinite medians (most choices were first uses) and NaN are gaps.
            figure.add_trace(
                go.Scatter(
                    x=layers,
                    y=np.where(np.isfinite(values), values, np.nan),
                    name=name,
                    mode="lines+markers",
                    line={"color": COLOURS[i], "dash": DASHES[i], "width": 1.4},
                    marker={"symbol": SIGNS[i], "size": 6, "color": COLOURS[i]},
                    legend="legend" if row == 1 else f"legend{row}",
                    hovertemplate=f"layer %{{x}}<br>{name} %{{y:.3~g}}<extra></extra>",
                ),
                row=row,
                col=1,
            )
        top = figure.layout[f"yaxis{row if row > 1 else ''}"].domain[1]
        key = "legend" if row == 1 else f"legend{row}"
        figure.update_layout({key: {"x": 1.02, "y": top, "yanchor": "top"}})
    return figure


def _one_panel(figure: go.Figure) -> go.Figure:
    """The figure with its first panel over the whole height, for a figure without data."""
    only = go.Figure(layout=figure.layout)
    for name in ("xaxis2", "xaxis3", "yaxis2", "yaxis3"):
        only.layout[name] = None
    only.update_layout(xaxis={"title": "layer", "matches": None}, yaxis={"domain": [0, 1]})
    return only


def over_time_figure(trace: Trace) -> go.Figure:
    """Entropy and overlap of each layer over the steps: two maps."""
    figure = make_subplots(rows=2, vertical_spacing=0.1, shared_xaxes=True)
    titled_run(figure, trace, "Routing over the tokens", height=720)
    figure.update_yaxes(title_text="layer", tickformat="d", showgrid=False)
    figure.update_xaxes(showgrid=False)
    if reason := no_routing(trace):
        return no_data(figure, reason)
    found = over_time(trace)
    colours = [(i / 9, f"rgb({r},{g},{b})") for i, (r, g, b) in enumerate(ramp(10))]
    before = first_token(trace) - 0.5
    middle = found.first + found.steps / 2 - before
    names = [token_name(trace, step) for step in found.first.tolist()]
    parts = (
        (found.entropy, "entropy of the bin (bits)", None),
        (found.overlap, "shared with the token before", 1.0),
    )
    for row, (values, name, top) in enumerate(parts, 1):
        domain = figure.layout[f"yaxis{row if row > 1 else ''}"].domain
        figure.add_trace(
            go.Heatmap(
                x=middle,
                y=np.arange(trace.layers),
                z=values.T,
                customdata=np.tile(np.array(names, object), (trace.layers, 1)),
                zmin=0,
                zmax=top,
                colorscale=colours,
                colorbar={
                    "title": {"text": name, "side": "right"},
                    "len": domain[1] - domain[0],
                    "y": (domain[0] + domain[1]) / 2,
                    "thickness": 14,
                },
                hovertemplate="%{customdata}, layer %{y}<br>%{z:.3~g}<extra></extra>",
            ),
            row=row,
            col=1,
        )
    for number, name in ((number, name) for name, number in PHASES.items()):
        if (found.phase == number).any():
            at = float(found.first[found.phase == number][0]) - before
            figure.add_vline(at, line={"color": STRIPE, "width": 2, "dash": "dot"})
            figure.add_annotation(x=at, y=1, xref="x", yref="y domain", text=name, xanchor="left",
                                  yanchor="bottom", showarrow=False,
                                  font={"size": 11, "color": EITHER.muted})  # fmt: skip
    for row in (1, 2):
        token_axis(figure, trace, row)
    size = int(found.steps.max())
    figure.update_xaxes(
        title_text=f"token (in bins of {size})" if size > 1 else "token", row=2, col=1
    )
    figure.update_yaxes(range=[trace.layers - 0.5, -0.5])
    return figure


def atlas_figure(found: Atlas, about: str) -> go.Figure:
    """The map of (layer, expert) units; colour and marker show the class that chooses a unit."""
    figure = go.Figure()
    about += f" · {len(found.layer):,} units of (layer, expert), {found.tokens:,} tokens"
    about += " · larger: chosen by more"
    if found.left_out:
        about += f" · {found.left_out:,} rarely chosen left out"
    title = "Atlas of experts: near each other if the same tokens choose them"
    titled(figure, title, about, height=640)
    shares = [f"axis {i + 1} ({percent(share)} of the co-activation)" for i, share in
              enumerate(found.share)]  # fmt: skip
    figure.update_xaxes(title_text=shares[0])
    figure.update_yaxes(title_text=shares[1])
    labels = np.asarray(found.label or (UNITS,) * len(found.layer), object)
    size = 4 + 10 * np.sqrt(found.fired / max(int(found.fired.max(initial=1)), 1))
    size *= min(1.0, (2000 / max(len(size), 1)) ** 0.12)  # thousands would overlap
    looks = class_numbers(found.classes, len(CLASS_COLOURS) * len(SIGNS))
    unclassed = {NONE: EITHER.muted, UNITS: CLASS_COLOURS[0]}
    for name in [*(name for name in unclassed if name in labels), *found.classes]:
        mine = labels == name
        bare = name == NONE
        colour = unclassed.get(name) or CLASS_COLOURS[looks[name] % len(CLASS_COLOURS)]
        sign = "circle-open" if name in unclassed else SIGNS[looks[name] % len(SIGNS)]
        figure.add_trace(
            go.Scattergl(
                x=found.place[mine, 0],
                y=found.place[mine, 1],
                mode="markers",
                name=plain(f"{name} ({mine.sum():,})"),
                customdata=np.stack(
                    [found.layer, found.expert, found.fired, np.nan_to_num(found.lift, nan=1)], 1
                )[mine],
                marker={
                    "symbol": sign,
                    "color": colour,
                    "line": {"width": 1 if bare or len(size) > 2000 else 1.5, "color": colour},
                    "size": size[mine] * (0.6 if bare else 1),
                    # Translucent, these colours would be too faint on a dark page.
                    "opacity": 0.5 if bare else 1,
                },
                hovertemplate="layer %{customdata[0]}, expert %{customdata[1]}<br>chosen by "
                "%{customdata[2]:,d} tokens<br>%{customdata[3]:.2f} times as often as by chance"
                "<extra></extra>",
            )
        )
    if found.label:
        figure.update_layout(
            showlegend=True,
            legend={"title": {"text": "chosen beyond chance by"}, "itemsizing": "constant"},
        )
    return figure
