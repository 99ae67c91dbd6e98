"""Figures of studies: an ablation compared with chance, and the settings of a sweep."""

from __future__ import annotations

from math import isfinite, nan

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ....formatting import three
from ....paging.interventions import expert_names
from ....studies.ablate import WHAT, Ablation
from ....studies.answers import setting_text
from ....studies.sweep_result import Sweep
from ..palette import EITHER
from .style import NO_BREAK, UNDER, plain, titled

ALL = "all"


def ablation_figure(found: Ablation) -> go.Figure:
    """Change of log-probability and KL by prompt, for the masked experts and for random masks."""
    names = list(found.names)
    rows: list[tuple[str, int | None]] = [(plain(name), i) for i, name in enumerate(names)]
    if len(names) > 1:
        rows.append((ALL, None))
    figure = make_subplots(cols=2, shared_yaxes=True, horizontal_spacing=0.04)
    chance = "of experts these texts use" if found.among == "used" else "in the same layers"
    about = (
        f"{found.info.model} · {int(found.tokens.sum()):,} tokens · {len(found.masks)} random "
        f"masks of equal size, {chance}"
    )
    titled(figure, f"Masking {expert_names(found.experts)}", about, found.caution,
           height=max(320, 190 + 44 * len(rows)))  # fmt: skip
    for col, what in enumerate(WHAT, 1):
        _ablated(figure, found, rows, what, col)
        figure.add_vline(0, line={"color": EITHER.ink, "width": 1, "dash": "dash"}, col=col, row=1)
        figure.update_xaxes(title_text=f"{WHAT[what]}<br>(nats per token)", col=col)
    figure.update_yaxes(
        type="category", autorange="reversed", showgrid=False,
        categoryarray=[name for name, _ in rows],
    )  # fmt: skip
    figure.update_layout(legend=UNDER, margin={"b": 120})
    return figure


def _ablated(
    figure: go.Figure,
    found: Ablation,
    rows: list[tuple[str, int | None]],
    what: str,
    col: int,
) -> None:
    """One panel: a bar for 95 % of random masks, a ring for each, a diamond for the experts."""
    shown = col == 1
    for name, prompt in rows:
        first = shown and (name, prompt) == rows[0]
        values, ends = found.by_chance(what, prompt), found.interval(what, prompt)
        figure.add_trace(
            go.Scatter(
                x=list(ends), y=[name, name], mode="lines", name="95 % of random masks",
                legendgroup="interval", showlegend=first, hoverinfo="skip",
                line={"color": EITHER.grid, "width": 14},
            ),
            row=1, col=col,
        )  # fmt: skip
        figure.add_trace(
            go.Scatter(
                x=values, y=[name] * len(values), mode="markers", name="a random mask",
                legendgroup="random", showlegend=first,
                marker={"symbol": "circle-open", "size": 8, "color": EITHER.top},
                hovertemplate="random mask<br>%{x:.3~g} nats per token<extra>%{y}</extra>",
            ),
            row=1, col=col,
        )  # fmt: skip
    means = [found.mean(what, prompt) for _, prompt in rows]
    figure.add_trace(
        go.Scatter(
            x=means, y=[name for name, _ in rows], mode="markers", name="the masked experts",
            legendgroup="masked", showlegend=shown,
            customdata=[found.p(what, prompt) for _, prompt in rows],
            marker={"symbol": "diamond", "size": 13, "color": EITHER.miss,
                    "line": {"color": EITHER.ink, "width": 1}},
            hovertemplate="%{x:.3~g} nats per token<br>p %{customdata:.3~f}<extra>%{y}</extra>",
        ),
        row=1, col=col,
    )  # fmt: skip


WORDY = 3
"""With more settings, labels go above the marks: beside them they would overlap."""


def sweep_figure(found: Sweep) -> go.Figure:
    """By setting: tokens/s and KL of every run with their range, and the share of coherent answers.

    Medians and means are drawn only if there are enough runs to compare settings by them.
    """
    settings = [(plain(setting_text(setting)), setting) for setting in found.settings]
    figure = make_subplots(rows=2, shared_xaxes=True, vertical_spacing=0.1)
    counts = {"prompt": len(found.prompts), "round": found.options.get("repeats", 1)}
    size = ", ".join(f"{n} {word}{'' if n == 1 else 's'}" for word, n in counts.items())
    about = (
        f"{found.info.model} · {size}, up to {found.options.get('max_tokens')} tokens · "
        f"{found.info.machine}"
    )
    stopped = ["stopped before the end"] if found.stopped else []
    notes = "; ".join([*stopped, *found.cautions])
    titled(figure, "Comparison of settings", about, notes[:1].upper() + notes[1:], height=560)
    for name, setting in settings:
        runs = found.of(setting)
        for row, values, what in (
            (1, [run.tokens_per_second for run in runs], "%{y:.3~g} tokens/s"),
            (2, [run.kl for run in runs], "KL %{y:.3~g} nats per token"),
        ):
            shown = row == 1 and name == settings[0][0]
            ends = _ends(values)
            figure.add_trace(
                go.Scatter(
                    x=[name, name], y=ends, mode="lines", name="lowest to highest",
                    legendgroup="range", showlegend=shown, hoverinfo="skip",
                    line={"color": EITHER.grid, "width": 14},
                ),
                row=row, col=1,
            )  # fmt: skip
            figure.add_trace(
                go.Scatter(
                    x=[name] * len(values), y=values, mode="markers", name="a run",
                    legendgroup="run", showlegend=shown,
                    marker={"symbol": "circle-open", "size": 8, "color": EITHER.top},
                    customdata=[[run.prompt, plain(run.verdict)] for run in runs],
                    hovertemplate=f"{what}<br>prompt %{{customdata[0]}}: %{{customdata[1]}}"
                    "<extra>%{x}</extra>",
                ),
                row=row, col=1,
            )  # fmt: skip
    _labels(figure, found, [name for name, _ in settings])
    _averages(figure, found, [name for name, _ in settings])
    figure.update_yaxes(title_text="tokens/s", rangemode="tozero", row=1)
    figure.update_yaxes(title_text="KL (nats per token)", rangemode="tozero", row=2)
    figure.update_traces(cliponaxis=False)
    # A category is one unit wide; the last one's label needs room to its right.
    figure.update_xaxes(type="category", range=[-0.5, len(settings) - 0.3])
    figure.update_xaxes(title_text="setting", row=2)
    figure.update_layout(legend=UNDER, margin={"b": 110})
    return figure


def _ends(values: list[float]) -> tuple[float, float]:
    """The lowest and the highest value; NaN without values."""
    known = [value for value in values if isfinite(value)]
    return min(known, default=nan), max(known, default=nan)


def _labels(figure: go.Figure, found: Sweep, names: list[str]) -> None:
    """Label each setting with its speeds and how many of its answers are coherent.

    With many settings the labels go above the highest run.
    """
    few = len(names) <= WORDY
    gap = " " if few else "<br>"
    columns: tuple[list[float], ...] = ([], [])
    texts: tuple[list[str], ...] = ([], [])
    for setting in found.settings:
        runs, summed = found.of(setting), found.summed(setting)
        low, high = (three(summed[name]) for name in ("slowest", "fastest"))
        spread = f"{low} to {high}"
        if found.enough("speed"):
            spread = f"{three(summed['tokens_per_second'])}{gap}({spread})"
        texts[0].append(spread)
        texts[1].append(f"{summed['coherent']} of {summed['runs']}{gap}coherent")
        for at, name in enumerate(("tokens_per_second", "kl")):
            low_end, high_end = _ends([getattr(run, name) for run in runs])
            columns[at].append((low_end + high_end) / 2 if few else high_end)
    for row, (values, labels) in enumerate(zip(columns, texts, strict=True), 1):
        figure.add_trace(
            go.Scatter(
                x=names, y=values, mode="markers+text",
                text=[f"{NO_BREAK}{text}" if few else text for text in labels],
                name="labels", showlegend=False, hoverinfo="skip",
                textposition="middle right" if few else "top center",
                marker={"size": 26 if few else 12, "opacity": 0},
            ),
            row=row, col=1,
        )  # fmt: skip


def _averages(figure: go.Figure, found: Sweep, names: list[str]) -> None:
    """Each setting's median speed and mean KL, if there are enough runs."""
    what = (
        ("speed", "tokens_per_second", "median of the speed"),
        ("loss", "kl", "mean of the KL, over tokens"),
    )
    for row, (kind, key, name) in enumerate(what, 1):
        if not found.enough(kind):
            continue
        figure.add_trace(
            go.Scatter(
                x=names, y=[found.summed(setting)[key] for setting in found.settings],
                mode="markers", name=name, hoverinfo="skip",
                marker={"symbol": "line-ew-open", "size": 26, "color": EITHER.hit,
                        "line": {"color": EITHER.hit, "width": 3}},
            ),
            row=row, col=1,
        )  # fmt: skip
