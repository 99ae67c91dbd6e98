"""The charts of answers, as scenes: routing by layer, settings and masks as dots in rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ....formatting import percent, small
from ....studies.ablate import Ablation
from ....studies.answers import setting_text
from ....studies.compare import Comparison
from ....studies.sweep_result import Sweep
from ....trace.divergence import RoutingDivergence
from . import scene as s

if TYPE_CHECKING:
    import pandas

ROWS = 6
"""The most rows of dots."""
LABEL = 48
"""The most characters of a row's label."""


@dataclass(frozen=True)
class Strip:
    """A row of dots: one value per run or mask, a bar over a range, and a mark of one value.

    Attributes:
        label: its name.
        values: the dots.
        span: the ends of the bar; None for none.
        mark: the larger mark; None for none.
    """

    label: str
    values: Sequence[float]
    span: tuple[float, float] | None = None
    mark: float | None = None


def strips(title: str, spoken: str, rows: Sequence[Strip], unit: str, zero: bool) -> s.Scene:
    """Rows of dots on one scale, their labels above them."""
    scene = s.Scene(title, spoken)
    rows = rows[:ROWS]
    ends = [v for row in rows for v in (*row.values, *(row.span or ()), row.mark) if v is not None]
    known = [v for v in ends if np.isfinite(v)] + ([0.0] if zero else [])
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    room = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    x = s.Scale(low - room, high + room, 24, s.RIGHT)
    for value in s.ticks(x.low, x.high, 4):
        at = float(x(value))
        line = np.array([[at, s.TOP - 8], [at, s.BOTTOM]])
        scene.marks.append(s.Line([line], "ink" if zero and value == 0 else "grid"))
        scene.marks.append(s.Text(at, s.BOTTOM + 16, f"{value:,.10g}", anchor="middle"))
    scene.marks.append(s.Text((24 + s.RIGHT) / 2, s.HEIGHT - 12, unit, anchor="middle"))
    step = (s.BOTTOM - s.TOP + 8) / max(len(rows), 1)
    for i, row in enumerate(rows):
        top = s.TOP - 8 + i * step
        _strip(scene, row, x, top + 12, top + min(24.0, step * 0.72))
    return scene


def _strip(scene: s.Scene, row: Strip, x: s.Scale, text: float, middle: float) -> None:
    label = row.label if len(row.label) <= LABEL else f"{row.label[: LABEL - 1]}…"
    scene.marks.append(s.Text(26, text, label, "ink"))
    if row.span and np.isfinite(row.span).all():
        left, right = (float(x(v)) for v in row.span)
        box = np.array([[left, middle - 3, max(right - left, 2.0), 6.0]])
        scene.marks.append(s.Box(box, "frame"))
    dots = [np.array([[float(x(v)), middle]]) for v in row.values if np.isfinite(v)]
    scene.marks.append(s.Line(dots, "top", 5))
    if row.mark is not None and np.isfinite(row.mark):
        at = float(x(row.mark))
        scene.marks.append(s.Box(np.array([[at - 2, middle - 7, 4.0, 14.0]]), "miss"))


def ablation(found: Ablation) -> s.Scene:
    """The change of log-probability of each text, and under each random mask."""
    title = "Change of log-probability"
    rows = [
        Strip(name, found.by_chance("change", i).tolist(), found.interval("change", i),
              found.mean("change", i))
        for i, name in enumerate(found.names)
    ]  # fmt: skip
    scene = strips(title, f"{title}: {found.sentence}", rows, "nats per token", zero=True)
    s.legend(scene, [("miss", "these experts", None), ("top", "a random mask", "dot"),
                     ("frame", "95 % of random", None)])  # fmt: skip
    return scene


def sweep(found: Sweep) -> s.Scene:
    """The speed of each setting's runs, and the median of enough."""
    title = "Speed by setting"
    enough, rows = found.enough("speed"), []
    for setting in found.settings:
        values = [row.tokens_per_second for row in found.of(setting)]
        known = [v for v in values if np.isfinite(v)]
        mark = float(np.median(known)) if enough and known else None
        span = (min(known), max(known)) if len(known) > 1 else None
        rows.append(Strip(setting_text(setting), values, span, mark))
    more = f", the first {ROWS} settings" if len(rows) > ROWS else ""
    scene = strips(f"{title}{more}", f"{title}: {found.sentence}", rows, "tokens/s", zero=False)
    median: list[tuple[str, str, s.Dash | None]] = [("miss", "median", None)] if enough else []
    s.legend(scene, [("top", "a run", "dot"), ("frame", "lowest to highest", None), *median])
    return scene


def overlap(frame: pandas.DataFrame) -> s.Scene:
    """The share of experts that a token shares with the one before, and by chance, by layer."""
    title = "Shared with the token before"
    mean, chance = (percent(float(frame[name].mean())) for name in ("overlap", "chance_overlap"))
    scene = s.Scene(title, f"{title}, by layer: {mean} on average, {chance} by chance.")
    layers = len(frame)
    x = s.Scale(-0.5, layers - 0.5, s.LEFT, s.RIGHT)
    top = float(np.nanmax(frame[["overlap", "chance_overlap"]].to_numpy()))
    y = s.Scale(0, min(100.0, 115 * top) or 1.0, s.BOTTOM, s.TOP)
    s.y_axis(scene, y, "share (%)", s.ticks(0, y.high, 4), lines=True)
    s.x_axis(scene, x, "layer")
    wide = min(18.0, 0.7 * (s.RIGHT - s.LEFT) / layers)
    tops = y(100 * frame.overlap.fillna(0).to_numpy())
    left = x(np.arange(layers)) - wide / 2
    scene.marks.append(s.Box(
        np.stack([left, tops, np.full(layers, wide), s.BOTTOM - tops], axis=1), "hit"
    ))  # fmt: skip
    ticks = y(100 * frame.chance_overlap.fillna(0).to_numpy())
    lines = [np.array([[a - 1, b], [a + wide + 1, b]]) for a, b in zip(left, ticks, strict=True)]
    scene.marks.append(s.Line(lines, "ink", 2))
    s.legend(scene, [("hit", "measured", None), ("ink", "by chance", "solid")])
    return scene


def divergence(found: Comparison, i: int, j: int) -> s.Scene:
    """Divergence above chance of two runs by layer; layers within chance are pale."""
    return of_layers(found.pairs[i, j], f"{found.names[i]} and {found.names[j]}")


def of_layers(pair: RoutingDivergence, names: str) -> s.Scene:
    """The same of two samples with these `names`."""
    title = "Divergence above chance"
    layers, sure = len(pair.js), set(pair.differing().tolist())
    values = np.nan_to_num(pair.excess)
    scene = s.Scene(
        title, f"{title} of {names}, by layer: {len(sure)} of "
        f"{layers} layers beyond chance, at most {small(float(values.max(initial=0)))} bits.",
    )  # fmt: skip
    x = s.Scale(-0.5, layers - 0.5, s.LEFT, s.RIGHT)
    high = float(np.nanmax(np.append(pair.high[np.isfinite(pair.high)], values.max(initial=0))))
    low = min(0.0, float(values.min(initial=0)), *pair.low[np.isfinite(pair.low)].tolist())
    y = s.Scale(low * 1.1, high * 1.08 or 1.0, s.BOTTOM, s.TOP)
    s.y_axis(scene, y, "bits", s.ticks(y.low, y.high, 4), lines=True)
    s.x_axis(scene, x, "layer")
    wide, zero = min(18.0, 0.7 * (s.RIGHT - s.LEFT) / max(layers, 1)), float(y(0))
    for role, mine in (("hit", True), ("frame", False)):
        at = [n for n in range(layers) if (n in sure) is mine]
        tops = y(values[at]) if at else np.zeros(0)
        boxes = [
            [float(x(n)) - wide / 2, min(float(t), zero), wide, abs(zero - float(t))]
            for n, t in zip(at, tops, strict=True)
        ]
        scene.marks.append(s.Box(np.array(boxes).reshape(-1, 4), role))
    lines = [
        np.array([[float(x(n)), float(y(pair.low[n]))], [float(x(n)), float(y(pair.high[n]))]])
        for n in range(layers)
        if np.isfinite([pair.low[n], pair.high[n]]).all()
    ]
    lines = [np.clip(line, [0, s.TOP - 4], [s.WIDTH, s.BOTTOM]) for line in lines]
    scene.marks.append(s.Line(lines, "ink", 1))
    s.legend(scene, [("hit", "beyond chance", None), ("frame", "within chance", None),
                     ("ink", "95 % interval", "solid")])  # fmt: skip
    return scene
