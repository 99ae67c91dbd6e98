"""The four charts of a finished run, as scenes. All numbers come from `trace.measures`."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ....formatting import percent, three
from ....trace.measures import Timeline, first_token, frequency, prefill_spans, residency, timeline
from ....trace.trace import Trace
from .. import palette
from . import scene as s
from .text import no_reads, no_routing

BINS = 180
"""The most bars: each is then at least two pixels wide."""

LEVELS = 64


def all_charts(trace: Trace) -> list[s.Scene]:
    """Routing frequency, residency, hits and misses, read latency, in this order."""
    line = timeline(trace, BINS)
    return [routing(trace), resident(trace), lookups(trace, line), latency(trace, line)]


def routing(trace: Trace) -> s.Scene:
    """How often each expert was chosen: layers × experts, over the whole run."""
    title = "Routing frequency"
    if reason := no_routing(trace):
        return s.no_data(s.Scene(title, f"{title}: no data, {reason}"), reason)
    counts = frequency(trace)
    exists = _exists(trace, counts.shape)
    layer, expert = np.unravel_index(int(counts.argmax()), counts.shape)
    never = float((counts[exists] == 0).mean())
    scene = s.Scene(
        title,
        f"{title}: heatmap of {counts.shape[0]} layers by {counts.shape[1]} experts. Most "
        f"chosen: expert {expert} of layer {layer}, {counts.max():,} times. "
        f"{percent(never)} of the experts were never chosen.",
    )
    shade, colours = count_shades(counts)
    _heatmap(scene, np.where(exists, shade, 0).astype(np.uint8), colours)
    s.legend(scene, [("empty", "never", None)])
    chosen = counts > 0
    _colour_key(scene, colours[shade[chosen].min() :], int(counts[chosen].min()), counts.max())
    return scene


def count_shades(
    counts: npt.NDArray[np.integer],
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """How often experts were chosen, [layers, experts], as cells and the colours that they name.

    By square root: on a linear scale most experts would be the same dark blue. Cell 0 is
    transparent, for experts that a layer does not have, and 1 is "never".
    """
    shade = np.ceil(np.sqrt(counts / max(1, counts.max())) * LEVELS).astype(np.uint8) + 1
    colours = np.array([(0, 0, 0, 0), palette.NEUTRAL], np.uint8)
    ramp = np.pad(palette.ramp(LEVELS), ((0, 0), (0, 1)), constant_values=255)
    return shade, np.concatenate([colours, ramp])


def resident(trace: Trace) -> s.Scene:
    """Which experts are resident when the run ends: layers × experts."""
    title = "Residency at the end"
    if reason := no_routing(trace):
        return s.no_data(s.Scene(title, f"{title}: no data, {reason}"), reason)
    cells = residency(trace)
    exists = _exists(trace, cells.shape)
    count, total = int(cells.sum()), int(exists.sum())
    scene = s.Scene(
        title,
        f"{title}: {count:,} of {total:,} experts are in RAM, {percent(count / total)}. "
        f"By layer between {cells.sum(1).min():,} and {cells.sum(1).max():,}.",
    )
    colours = np.array([(0, 0, 0, 0), palette.NEUTRAL, (*palette.RESIDENT, 255)], np.uint8)
    _heatmap(scene, np.where(exists, cells + 1, 0).astype(np.uint8), colours)
    s.legend(
        scene,
        [
            ("resident", f"in RAM ({count:,})", None),
            ("empty", f"on SSD ({total - count:,})", None),
        ],
    )
    return scene


def lookups(trace: Trace, line: Timeline) -> s.Scene:
    """Hits and misses per token as stacked bars, hits below."""
    title = "Hits and misses per token"
    if reason := no_routing(trace):
        return s.no_data(s.Scene(title, f"{title}: no data, {reason}"), reason)
    total = line.hits + line.misses
    share = float((line.hits * line.steps).sum() / max((total * line.steps).sum(), 1e-12))
    scene = s.Scene(
        title,
        f"{title}: stacked bars over {trace.steps:,} tokens. {percent(share)} of the lookups "
        f"hit; misses per token between {three(float(line.misses.min()))} and "
        f"{three(float(line.misses.max()))}.",
    )
    x = _step_scale(trace)
    y = s.Scale(0, float(max(total.max(), 1)) * 1.04, s.BOTTOM, s.TOP)
    prefill, edges = _prefill(scene, trace, x)
    s.y_axis(scene, y, _per_step("lookups", line), s.ticks(0, y.high, 4), lines=True)
    left, right = x(line.first), x(line.first + line.steps)
    # Wide bars have gaps; narrow ones overlap a little, or rounding would leave seams.
    gap = 1.0 if right[0] - left[0] > 4 else -0.6
    right = np.minimum(right - gap / 2, s.RIGHT)
    left = left + max(gap, 0) / 2
    for role, top in (("miss", y(total)), ("hit", y(line.hits))):
        rects = np.stack([left, top, right - left, s.BOTTOM - top], axis=1)
        scene.marks.append(s.Box(rects, role))
    scene.marks.append(edges)
    s.x_axis(scene, _token_scale(trace), _step_title(line), least=1)
    s.legend(scene, [("hit", "hit", None), ("miss", "miss (read from SSD)", None), *prefill])
    return scene


def latency(trace: Trace, line: Timeline) -> s.Scene:
    """p50, p95 and max read latency per token; tokens without reads are gaps."""
    title = "Read latency per token"
    if reason := no_reads(trace):
        return s.no_data(s.Scene(title, f"{title}: no data, {reason}"), reason)
    seen = line.latency_ms[np.isfinite(line.latency_ms)]
    scene = s.Scene(
        title,
        f"{title}: lines over {trace.steps:,} tokens in ms. Highest {three(float(seen.max()))} "
        f"ms, median of the tokens' p50 {three(float(np.nanmedian(line.latency_ms[:, 0])))} ms.",
    )
    x, y = _step_scale(trace), _latency_scale(seen)
    prefill, edges = _prefill(scene, trace, x)
    scene.marks.append(edges)
    places = s.log_ticks(y.low, y.high) if y.log else s.ticks(0, y.high, 4)
    s.y_axis(scene, y, "ms (log scale)" if y.log else "ms", places, lines=True)
    middle = x(line.first + line.steps / 2)
    roles: list[tuple[str, s.Dash]] = [("p50", "solid"), ("p95", "dash"), ("top", "dot")]
    for column, (role, dash) in reversed(list(enumerate(roles))):
        values = line.latency_ms[:, column]
        pieces = _pieces(middle, values, y, trace.phase[line.first])
        scene.marks.append(s.Line(pieces, role, 1.6, dash))
    s.x_axis(scene, _token_scale(trace), _step_title(line), least=1)
    s.legend(
        scene,
        [("p50", "p50", "solid"), ("p95", "p95", "dash"), ("top", "max", "dot"), *prefill],
    )
    return scene


def _pieces(
    x: npt.NDArray[np.float64],
    values: npt.NDArray[np.float64],
    y: s.Scale,
    phase: npt.NDArray[np.uint8],
) -> list[npt.NDArray[np.float64]]:
    """The segments of `values` without a gap and within one phase, in pixels."""
    known = np.flatnonzero(np.isfinite(values))
    breaks = (np.diff(known) > 1) | (np.diff(phase[known].astype(int)) != 0)
    runs = np.split(known, np.flatnonzero(breaks) + 1)
    return [np.stack([x[run], y(values[run])], axis=1) for run in runs if len(run)]


def _latency_scale(seen: npt.NDArray[np.float64]) -> s.Scale:
    """Linear from 0, or logarithmic if one slow read would flatten all others."""
    top = float(seen.max()) or 1.0
    least = float(seen[seen > 0].min(initial=top))
    if top / least <= 20 or (seen <= 0).any():
        return s.Scale(0, top * 1.06, s.BOTTOM, s.TOP)
    low = 10 ** (math.floor(math.log10(least) * 4) / 4)
    return s.Scale(low, top * 1.25, s.BOTTOM, s.TOP, log=True)


def _exists(trace: Trace, shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """Which cells of layers × experts exist: a layer may have fewer experts than the widest."""
    widths = np.asarray(trace.info.experts_per_layer)[: shape[0], None]
    return np.asarray(np.arange(shape[1])[None, :] < widths)


def _heatmap(scene: s.Scene, cells: npt.NDArray[np.uint8], colours: npt.NDArray[np.uint8]) -> None:
    layers, experts = cells.shape
    wide, high = s.RIGHT - s.LEFT, s.BOTTOM - s.TOP
    scene.marks.append(s.Picture(s.LEFT, s.TOP, wide, high, cells, colours))
    half = 0.5  # ticks are at the middle of a cell
    x = s.Scale(-half, experts - half, s.LEFT, s.RIGHT)
    y = s.Scale(-half, layers - half, s.TOP, s.BOTTOM)
    s.y_axis(scene, y, "layer", s.ticks(0, layers - 1, 6, whole=True), lines=False)
    s.x_axis(scene, x, "expert")


def _colour_key(scene: s.Scene, ramp: npt.NDArray[np.uint8], low: int, high: int) -> None:
    """The used part of the colour ramp, with its ends, after the legend's swatch."""
    label = f"{low:,}"
    scene.marks.append(s.Text(76, 45, label))
    x = 76 + s.text_width(label) + 8
    row = np.arange(len(ramp), dtype=np.uint8)[None, :]
    scene.marks.append(s.Picture(x, 36, 70, 10, row, ramp))
    scene.marks.append(s.Text(x + 76, 45, f"{high:,} times chosen (square-root scale)"))


def _step_scale(trace: Trace) -> s.Scale:
    return s.Scale(0, trace.steps, s.LEFT, s.RIGHT)


def _token_scale(trace: Trace) -> s.Scale:
    """Of the same axis in tokens, at the middle of their steps; the prompt is before token 1."""
    before = first_token(trace) - 0.5
    return s.Scale(-before, trace.steps - before, s.LEFT, s.RIGHT)


def _prefill(
    scene: s.Scene, trace: Trace, x: s.Scale
) -> tuple[list[tuple[str, str, s.Dash | None]], s.Line]:
    """Shade the prefill steps; returns their legend entry and the edges to draw."""
    spans = np.asarray(prefill_spans(trace), float).reshape(-1, 2)
    if not len(spans):
        return [], s.Line([], "ink")
    left, right = x(spans[:, 0]), x(spans[:, 1])
    top, high = np.full(len(left), s.TOP), np.full(len(left), s.BOTTOM - s.TOP)
    scene.marks.append(s.Box(np.stack([left, top, right - left, high], axis=1), "band"))
    edge = [np.array([[at, s.TOP], [at, s.BOTTOM]]) for at in right if at < s.RIGHT - 0.5]
    return [("band", "prefill", None)], s.Line(edge, "ink", 1, "dot")


def _step_title(line: Timeline) -> str:
    return "token" if line.size == 1 else f"token (in bins of {line.size})"


def _per_step(what: str, line: Timeline) -> str:
    return what if line.size == 1 else f"{what}, mean per token"
