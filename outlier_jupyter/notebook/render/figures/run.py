"""Plotly figures of a finished run.

They are plain `go.Figure`s: every FigureWidget would add five megabytes of script. Numbers come
from `trace.measures`, colours from `palette`, the theme from `style`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ....errors import OptionError
from ....events import DECODE, PREFILL
from ....trace.measures import (
    Timeline,
    first_token,
    frequency,
    prefill_spans,
    residency,
    timeline,
    token_name,
)
from ....trace.phases import check_phase, in_phase, phase_words
from ....trace.trace import Trace
from ....trace.what_if_hosts import HOSTS
from ....values import integer, texts
from ..palette import EITHER, colorscale
from ..static.text import model_words, no_reads, no_routing, token_words
from .cache_sizes import sizes_figure
from .machines import hosts_figure
from .style import log_ticks, matrix_axes, no_data, titled_run, token_axis

MAX_BINS = 2000
"""Longer runs are drawn in bins: more bars than pixels would only slow the browser."""

PHASES = {"prefill": PREFILL, "decode": DECODE}
LATENCY_LINES = (
    ("p50", EITHER.p50, "solid"),
    ("p95", EITHER.p95, "dash"),
    ("max", EITHER.top, "dot"),
)


class Figures:
    """The plots of one trace; each method builds a new `plotly.graph_objects.Figure`."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._line: Timeline | None = None

    def __repr__(self) -> str:
        return (
            f"Figures of {model_words(self._trace)}, {token_words(self._trace)}: "
            ".routing(phase=None), .residency(step=None), .latency(), .measures(phase), "
            ".over_time(), .surprise(), .atlas(labels=None), .what_if(slots=None), .machines()"
        )

    def routing(self, phase: str | int | None = None) -> go.Figure:
        """How often each expert was chosen: a heatmap of layers × experts.

        Args:
            phase: `"prefill"` or `"decode"` (or their numbers), or a kind of token such as
                `"thinking"`; None counts all steps.

        Raises:
            OptionError: an unknown phase, or a kind where none was recorded.
        """
        check_phase(phase)
        trace, part = self._trace, phase_words(phase)
        figure = go.Figure()
        titled_run(figure, trace, f"Routing frequency, {part}")
        matrix_axes(figure, trace.layers)
        reason = no_routing(trace)
        counts = frequency(trace, in_phase(trace, phase))
        if not reason and not counts.any():
            reason = f"no token of this run was in {part}"
        if reason:
            return no_data(figure, reason)
        figure.add_trace(_counts(trace, counts))
        return figure

    def residency(self, step: int | None = None) -> go.Figure:
        """Which experts are resident after `step` (default: the last), and hits and misses.

        Args:
            step: a step of the run; negative numbers count from the end.

        Raises:
            OptionError: no such step.
        """
        trace = self._trace
        at = _step(trace, step)
        figure = make_subplots(rows=2, row_heights=[0.55, 0.45], vertical_spacing=0.17)
        when = "at the end" if step is None else f"after {token_name(trace, at)}"
        titled_run(figure, trace, f"Residency {when}, and hits and misses per token", height=640)
        matrix_axes(figure, trace.layers)
        line = self._timeline()
        figure.update_xaxes(title_text=_step_title(line), row=2, col=1)
        figure.update_yaxes(title_text=_per_step("lookups", line), row=2, col=1)
        if reason := no_routing(trace):
            return no_data(figure, reason)
        for part in _resident(trace, residency(trace, at)):
            figure.add_trace(part, row=1, col=1)
        for part in _lookups(trace, line):
            figure.add_trace(part, row=2, col=1)
        if step is not None:
            figure.add_vline(
                at - first_token(trace) + 1, line={"color": EITHER.ink, "width": 1}, row=2, col=1
            )
        _mark_prefill(figure, trace, row=2)
        below = {"x": 1.02, "y": figure.layout.yaxis2.domain[1], "yanchor": "top"}
        figure.update_layout(barmode="stack", bargap=0, legend2=below)
        token_axis(figure, trace, row=2)
        return figure

    def latency(self) -> go.Figure:
        """p50, p95 and max read latency per step, and the bytes read per step.

        The reads of a prefill call belong to all its steps: their quantiles span the whole call,
        and their bytes are divided among its steps. Steps without reads are gaps.
        """
        trace, line = self._trace, self._timeline()
        figure = make_subplots(
            rows=2, row_heights=[0.62, 0.38], vertical_spacing=0.08, shared_xaxes=True
        )
        titled_run(figure, trace, "Read latency and bytes read per token", height=560)
        figure.update_xaxes(title_text=_step_title(line), row=2, col=1)
        figure.update_yaxes(title_text=_per_step("MB", line), row=2, col=1)
        figure.update_yaxes(title_text="read latency (ms)", row=1, col=1)
        if reason := no_reads(trace):
            return no_data(figure, reason)
        for part in _latencies(trace, line):
            figure.add_trace(part, row=1, col=1)
        if _needs_log(line.latency_ms):
            at = log_ticks(np.nanmin(line.latency_ms), np.nanmax(line.latency_ms))
            figure.update_yaxes(
                type="log", title_text="read latency (ms, log)", row=1, col=1,
                tickvals=at, ticktext=[f"{value:,.10g}" for value in at],
            )  # fmt: skip
        else:
            figure.update_yaxes(rangemode="tozero", row=1, col=1)
        figure.add_trace(_megabytes(trace, line), row=2, col=1)
        for row in (1, 2):
            _mark_prefill(figure, trace, row)
            token_axis(figure, trace, row)
        figure.update_layout(bargap=0)
        return figure

    def measures(self, phase: str = "decode") -> go.Figure:
        """Balance, locality and confidence of routing by layer.

        Raises:
            OptionError: an unknown phase.
        """
        from .routing import measures_figure  # imports compiled code

        return measures_figure(self._trace, phase)

    def over_time(self) -> go.Figure:
        """Entropy, and overlap with the previous token, of each layer over the steps."""
        from .routing import over_time_figure

        return over_time_figure(self._trace)

    def surprise(self) -> go.Figure:
        """Whether surprise, router entropy and misses go together, token by token."""
        from .surprise import surprise_figure  # imports SciPy

        return surprise_figure(self._trace)

    def atlas(self, labels: Sequence[str] | None = None) -> go.Figure:
        """A map of (layer, expert) units: units chosen by the same tokens are near each other.

        Args:
            labels: a label per step, as from `token_classes`; a unit gets the colour and marker
                of the label that chooses it more often than by chance.

        Raises:
            OptionError: labels that do not fit, or too short a run.
        """
        from ....trace.atlas import atlas  # imports compiled code
        from .routing import atlas_figure

        found = atlas([self._trace], None if labels is None else [texts("labels", labels)])
        return atlas_figure(found, model_words(self._trace))

    def what_if(
        self,
        slots: Sequence[int] | None = None,
        policies: Sequence[str] | None = None,
    ) -> go.Figure:
        """Hits and predicted tokens/s at other sizes of the cache: `Trace.what_if` as lines.

        Raises:
            OptionError: an unknown policy, or a size below 1.
        """
        return sizes_figure(self._trace, slots, policies)

    def machines(self, hosts: Sequence[int] = HOSTS, **options: Any) -> go.Figure:
        """What a token would take with its experts spread over several machines, by prediction.

        Args:
            hosts: numbers of machines, 1 to 64.
            **options: those of `Trace.what_if_hosts`.

        Raises:
            OptionError, TraceError: as `Trace.what_if_hosts`.
        """
        return hosts_figure(self._trace, hosts, **options)

    def _timeline(self) -> Timeline:
        if self._line is None:
            self._line = timeline(self._trace, MAX_BINS)
        return self._line


def _step(trace: Trace, step: int | None) -> int:
    if step is None:
        return trace.steps - 1
    step = integer("step", step)
    if not -trace.steps <= step < trace.steps:
        raise OptionError(f"step={step!r} is not in this run: it has {trace.steps} steps, from 0")
    return step % trace.steps


def _counts(trace: Trace, counts: npt.NDArray[np.int64]) -> go.Heatmap:
    totals = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return go.Heatmap(
        z=_absent_as_nan(trace, counts),
        customdata=counts / totals,
        colorscale=colorscale(EITHER.empty),
        zmin=0,
        zmax=int(counts.max()),
        colorbar={
            "title": {"text": "times chosen (square-root colours)", "side": "right"},
            "thickness": 14,
            "tickformat": ",d",
        },
        hovertemplate="layer %{y}, expert %{x}<br>chosen %{z:,d} times"
        "<br>%{customdata:.3~p} of the layer's choices<extra></extra>",
        hoverongaps=False,
    )


def _resident(trace: Trace, resident: npt.NDArray[np.bool_]) -> list[go.Heatmap | go.Scatter]:
    """The heatmap in two flat colours, and two empty traces for its legend."""
    colours = [(0, EITHER.empty), (0.5, EITHER.empty), (0.5, EITHER.resident), (1, EITHER.resident)]
    heatmap = go.Heatmap(
        z=_absent_as_nan(trace, resident),
        customdata=np.where(resident, "in RAM", "on SSD"),
        colorscale=colours,
        zmin=0,
        zmax=1,
        showscale=False,
        hovertemplate="layer %{y}, expert %{x}<br>%{customdata}<extra></extra>",
        hoverongaps=False,
    )
    total = sum(trace.info.experts_per_layer)
    names = (
        (f"in RAM ({resident.sum():,})", EITHER.resident),
        (f"on SSD ({total - resident.sum():,})", EITHER.empty),
    )
    keys = [
        go.Scatter(
            x=[None],
            y=[None],
            mode="markers",
            name=name,
            marker={"symbol": "square", "size": 11, "color": colour},
        )
        for name, colour in names
    ]
    return [heatmap, *keys]


def _lookups(trace: Trace, line: Timeline) -> list[go.Bar]:
    share = line.hits / np.maximum(line.hits + line.misses, 1e-12)
    return [
        go.Bar(
            x=_middle(trace, line),
            width=line.steps,
            y=values,
            name=name,
            customdata=np.stack([_names(trace, line), share.astype(object)], axis=1),
            marker={"color": colour, "line": {"width": 0}},
            hovertemplate="%{customdata[0]}<br>%{y:,.4~g} "
            + name
            + "<br>hit rate %{customdata[1]:.4~p}<extra></extra>",
            legend="legend2",
        )
        for name, colour, values in (
            ("hits", EITHER.hit, line.hits),
            ("misses", EITHER.miss, line.misses),
        )
    ]


def _latencies(trace: Trace, line: Timeline) -> list[go.Scatter]:
    # A single step between gaps has no line, so it gets a marker.
    known = np.pad(np.isfinite(line.latency_ms[:, 0]), 1)
    lone = known[1:-1] & ~known[:-2] & ~known[2:]
    return [
        go.Scatter(
            x=_middle(trace, line),
            y=line.latency_ms[:, column],
            name=name,
            customdata=_names(trace, line),
            mode="lines+markers",
            marker={"size": np.where(lone, 5, 0), "color": colour, "line": {"width": 0}},
            line={"color": colour, "dash": dash, "width": 1.6},
            connectgaps=False,
            legendrank=column,
            hovertemplate=f"%{{customdata}}<br>{name} %{{y:.3~g}} ms<extra></extra>",
        )
        for column, (name, colour, dash) in reversed(list(enumerate(LATENCY_LINES)))
    ]


def _megabytes(trace: Trace, line: Timeline) -> go.Bar:
    return go.Bar(
        x=_middle(trace, line),
        width=line.steps,
        y=line.nbytes / 1e6,
        name="MB read",
        customdata=_names(trace, line),
        marker={"color": EITHER.resident, "line": {"width": 0}},
        hovertemplate="%{customdata}<br>%{y:,.4~g} MB<extra></extra>",
    )


def _middle(trace: Trace, line: Timeline) -> npt.NDArray[np.float64]:
    """The middle of each bin in tokens: token 6's is at 6."""
    return np.asarray(line.first + line.steps / 2 - (first_token(trace) - 0.5), np.float64)


def _names(trace: Trace, line: Timeline) -> npt.NDArray[np.object_]:
    """The name of each bin's first token."""
    return np.array([token_name(trace, step) for step in line.first.tolist()], object)


def _mark_prefill(figure: go.Figure, trace: Trace, row: int) -> None:
    """Shade and label the prefill steps of one panel."""
    before = first_token(trace) - 0.5
    for first, end in ((a - before, b - before) for a, b in prefill_spans(trace)):
        figure.add_vrect(
            first,
            end,
            row=row,
            col=1,
            fillcolor=EITHER.band,
            layer="below",
            line={"width": 0},
        )
        figure.add_vline(end, row=row, col=1, line={"color": EITHER.ink, "width": 1, "dash": "dot"})
        figure.add_annotation(
            x=first,
            y=1,
            yref=f"y{row} domain" if row > 1 else "y domain",
            xref=f"x{row}" if row > 1 else "x",
            text="prefill",
            showarrow=False,
            xanchor="left",
            yanchor="bottom",
            font={"size": 11, "color": EITHER.muted},
        )


def _absent_as_nan(
    trace: Trace, values: npt.NDArray[np.int64] | npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    """`values` with NaN where a layer has fewer experts than the widest."""
    widths = np.asarray(trace.info.experts_per_layer)[:, None]
    return np.where(np.arange(values.shape[1]) < widths, values.astype(float), np.nan)


def _needs_log(latency_ms: npt.NDArray[np.float64]) -> bool:
    """Whether one slow read would flatten all others on a linear axis."""
    seen = latency_ms[np.isfinite(latency_ms)]
    return bool(len(seen) and seen.min() > 0 and seen.max() > 20 * seen.min())


def _step_title(line: Timeline) -> str:
    return "token" if line.size == 1 else f"token (in bins of {line.size})"


def _per_step(what: str, line: Timeline) -> str:
    return f"{what} per token" if line.size == 1 else f"{what} per token (mean)"
