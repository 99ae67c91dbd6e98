"""Make a frame from the trace of a finished run, equal to the last one of its frame builder.

So the live view shows finished runs and current ones alike. This module knows traces and frames,
and no widgets.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ...events import DECODE
from ...runs.run import Run, produced_by
from ...trace import Trace
from ...trace.measures import (
    bytes_per_step,
    frequency,
    hits_per_step,
    read_latency_per_step,
    residency,
    widest,
)
from ...trace.time_parts import parts_of_tokens
from .eviction_orders import order_after
from .frame_head import NO_TOKEN
from .frames import NO_EXPERT, STEP, Frame, Totals, utf16_units
from .merge_frames import as_snapshot


def frame_of_run(run: Run) -> Frame:
    """The whole `run` as a final snapshot, bounded as every snapshot is."""
    trace = run.trace
    counts = frequency(trace).ravel()
    index = np.flatnonzero(counts)
    resident = np.flatnonzero(residency(trace).ravel())
    move_step, move = _moves(trace)
    experts = trace.experts.astype(np.uint16)
    experts[trace.experts < 0] = NO_EXPERT
    whole = Frame(
        run=0,
        seq=1,
        since=0,
        first_step=0,
        layers=trace.layers,
        experts=widest(trace),
        slots=trace.info.slots,
        prompt_tokens=int((trace.phase != DECODE).sum()),
        text=run.text,
        text_start=0,
        steps=_steps(run),
        count_index=index.astype(np.uint32),
        count=counts[index].astype(np.uint32),
        change_index=resident.astype(np.uint32),
        change_state=np.ones(len(resident), np.uint8),
        experts_of=experts,
        # Lookups that were not recorded are not drawn as misses.
        hits_of=trace.hits if trace.has("hits") else np.ones_like(trace.hits),
        move_step=move_step,
        move=move,
        totals=_totals(trace),
        first_token=int(next(iter(produced_by(trace)), NO_TOKEN)),
        final=True,
        **order_after(trace, -1),
    )
    return as_snapshot(whole)


def _steps(run: Run) -> npt.NDArray[np.void]:
    trace = run.trace
    out = np.zeros(trace.steps, STEP)
    if not trace.steps:
        return out
    out["nbytes"] = bytes_per_step(trace)
    out["token_ms"] = trace.step_ns / 1e6
    quantiles = read_latency_per_step(trace)
    for column, name in enumerate(("read_p50_ms", "read_p95_ms", "read_max_ms")):
        out[name] = quantiles[:, column]
    out["parts_ms"] = np.stack(list(parts_of_tokens(trace).values()), axis=1)
    out["hits"], out["misses"] = hits_per_step(trace)
    out["reads"] = np.bincount(trace.reads["step"], minlength=trace.steps)[: trace.steps]
    out["phase"] = trace.phase
    # The text of a sampled token follows the step that sampled it.
    sampled = np.flatnonzero(trace.produced >= 0)
    ends = run.text_ends[: len(sampled)]
    text_ends = np.zeros(trace.steps, np.int64)
    text_ends[sampled[: len(ends)]] = ends
    out["text_end"] = _utf16_offsets(run.text, np.maximum.accumulate(text_ends))
    return out


def _utf16_offsets(text: str, ends: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Convert offsets in characters to offsets in UTF-16 code units."""
    if utf16_units(text) == len(text):
        return ends
    wide = np.array([0, *(utf16_units(character) for character in text)], np.int64)
    return np.asarray(np.cumsum(wide)[np.minimum(ends, len(text))], np.int64)


def _moves(trace: Trace) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
    """Reads and evictions by the last step of their call, as a frame builder orders them.

    A trace does not record which came first if an expert was both paged in and evicted within a
    call. But an expert's moves alternate, and its residency at the start determines the first one.
    """
    width = widest(trace)
    ends = trace.calls["first_step"] + trace.calls["steps"] - 1
    both = (trace.reads, trace.evictions)
    step = np.concatenate([ends[trace.call[moved["step"]]] for moved in both])
    index = np.concatenate(
        [moved["layer"].astype(np.int64) * width + moved["expert"] for moved in both]
    )
    paged_in = np.repeat([1, 0], [len(moved) for moved in both])
    at_start = trace.resident_at_start.astype(np.int64)
    resident = np.zeros(trace.layers * width, np.int64)
    resident[at_start[:, 0] * width + at_start[:, 1]] = 1
    last_turn: dict[int, int] = {}
    order = np.zeros(len(step), np.int64)
    code = 2 * index + paged_in
    for at in np.argsort(step, kind="stable").tolist():
        n = last_turn[code[at]] = last_turn.get(code[at], -1) + 1
        order[at] = 2 * n + int(paged_in[at] == resident[index[at]])
    by_time = np.lexsort((order, step))
    return step[by_time].astype(np.uint32), code[by_time].astype(np.uint32)


def _totals(trace: Trace) -> Totals:
    hits, misses = hits_per_step(trace)
    decode = trace.phase == DECODE
    return Totals(
        steps=trace.steps,
        lookups=int((hits + misses).sum()),
        hits=int(hits.sum()),
        reads=len(trace.reads),
        nbytes=int(trace.reads["nbytes"].sum()),
        evictions=len(trace.evictions),
        elapsed_ns=int(trace.calls["ns"].sum()),
        decode_steps=int(decode.sum()),
        decode_lookups=int((hits + misses)[decode].sum()),
        decode_hits=int(hits[decode].sum()),
        decode_ns=int(trace.step_ns[decode].sum()),
    )
