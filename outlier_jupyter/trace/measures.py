"""Counts, rates and quantiles of a trace.

Figures, tables and the command line all call these functions, so they show the same numbers. No
plotting, no IO.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import nan
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..aliases import alias
from ..events import DECODE, PREFILL
from ..formatting import count, percent, size_words, small, three

if TYPE_CHECKING:
    from .trace import Trace

QUANTILES = (0.5, 0.95, 1.0)
"""p50, p95 and max: the quantiles of read latency in all views."""


@dataclass(frozen=True)
class Summary:
    """The headline numbers of a run. Rates are NaN where nothing was counted.

    Attributes:
        prompt_tokens, decoded_steps: tokens read in prefill and in decode.
        prefill_seconds, decode_seconds: wall time of their calls.
        tokens_per_second: decode steps over `decode_seconds`.
        lookups, hits: of prefill and decode together; `hit_rate` is hits over lookups.
        decode_hit_rate, prefill_hit_rate: the same of one phase.
        reads, bytes_read: experts read from disk.
        read_p50_ms, read_p95_ms, read_max_ms: read latency.
        compared: tokens compared with the exact model (`measure_loss`).
        kl: their mean KL(exact ‖ run) in nats.
        top1_agreement: the share of them for which the exact model would have chosen the same.
        generated: tokens produced: the prompt's last step makes the first, decode steps the rest.
    """

    prompt_tokens: int
    decoded_steps: int
    prefill_seconds: float
    decode_seconds: float
    tokens_per_second: float
    lookups: int
    hits: int
    hit_rate: float
    decode_hit_rate: float
    reads: int
    bytes_read: int
    read_p50_ms: float
    read_p95_ms: float
    read_max_ms: float
    compared: int = 0
    kl: float = nan
    top1_agreement: float = nan
    prefill_hit_rate: float = nan
    generated: int = 0
    hit_words = alias("hit_text")
    loss_words = alias("loss_text")

    def __str__(self) -> str:
        """One line: speed, hit rate, bytes read, latency; loss if any."""
        loss = self.loss_text()
        return (
            f"{three(self.tokens_per_second)} tokens/s · {self.hit_text()} · "
            f"{size_words(self.bytes_read)} in {count(self.reads, 'read')} · read latency "
            f"p50 {three(self.read_p50_ms)} ms, "
            f"p95 {three(self.read_p95_ms)} ms{f' · {loss}' if loss else ''}"
        )

    def short(self) -> str:
        """A few words: how many tokens, how fast, hit rate, bytes read."""
        if not self.decoded_steps:
            read = f"prompt of {count(self.prompt_tokens, 'token')}"
            return f"{read}, {size_words(self.bytes_read)} read"
        return (
            f"{count(self.generated or self.decoded_steps, 'token')} at "
            f"{three(self.tokens_per_second)} tokens/s, hit rate {percent(self.decode_hit_rate)} "
            f"in decode, {size_words(self.bytes_read)} read in all"
        )

    def hit_text(self) -> str:
        """The hit rates of both phases, the same in every view."""
        return (
            f"hit rate in decode {percent(self.decode_hit_rate)}, in prefill "
            f"{percent(self.prefill_hit_rate)}"
        )

    def loss_text(self) -> str:
        """How far the run was from the exact model, over the `compared` tokens; "" if unknown."""
        if not self.compared:
            return ""
        return (
            f"against the exact model: KL {small(self.kl)} nats per token, top-1 agreement "
            f"{percent(self.top1_agreement)}"
        )


def widest(trace: Trace) -> int:
    """The largest number of experts in any layer; 0 for a dense model."""
    return max(trace.info.experts_per_layer, default=0)


def frequency(
    trace: Trace, phase: int | npt.NDArray[np.bool_] | None = None
) -> npt.NDArray[np.int64]:
    """How often each expert was chosen: int64 [layers, experts].

    Args:
        phase: counts the steps of this phase, or those of a mask; None all.
    """
    mine = phase if phase is None or isinstance(phase, np.ndarray) else trace.phase == phase
    experts = trace.experts if mine is None else trace.experts[mine]
    counts = np.zeros((trace.layers, widest(trace)), np.int64)
    for layer in range(trace.layers):
        chosen = experts[:, layer].ravel()
        counts[layer] = np.bincount(chosen[chosen >= 0], minlength=counts.shape[1])
    return counts


def hits_per_step(trace: Trace) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Hits and misses of each step over all its layers: two int64 [steps], 0 if not recorded."""
    if not trace.has("hits"):
        return np.zeros(trace.steps, np.int64), np.zeros(trace.steps, np.int64)
    lookups = (trace.experts >= 0).sum(axis=(1, 2))
    hits = (trace.hits & (trace.experts >= 0)).sum(axis=(1, 2))
    return hits.astype(np.int64), (lookups - hits).astype(np.int64)


def bytes_per_step(trace: Trace) -> npt.NDArray[np.int64]:
    """Bytes of expert weights read for each step: int64 [steps]."""
    totals = np.zeros(trace.steps, np.int64)
    np.add.at(totals, trace.reads["step"], trace.reads["nbytes"])
    return totals


def read_latency_per_step(trace: Trace) -> npt.NDArray[np.float64]:
    """Read latency in ms of each step's reads at `QUANTILES`: float64 [steps, 3], NaN if none."""
    out = np.full((trace.steps, len(QUANTILES)), np.nan)
    if not len(trace.reads):
        return out  # np.split would make one empty group
    order = np.argsort(trace.reads["step"], kind="stable")
    steps = trace.reads["step"][order]
    latencies = trace.reads["ns"][order] / 1e6
    found, starts = np.unique(steps, return_index=True)
    for step, group in zip(found, np.split(latencies, starts[1:]), strict=True):
        out[step] = quantiles(group)
    return out


def quantiles(values_ms: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """`values_ms` at `QUANTILES`, by NumPy's linear rule; NaN when there are none."""
    if not len(values_ms):
        return np.full(len(QUANTILES), np.nan)
    return np.asarray(np.quantile(values_ms, QUANTILES), np.float64)


def residency(trace: Trace, step: int | None = None) -> npt.NDArray[np.bool_]:
    """Which experts were resident after `step` (default: the last): bool [layers, experts]."""
    last = trace.steps - 1 if step is None else step
    shape = trace.layers, widest(trace)
    resident = np.zeros(shape, bool)
    resident[trace.resident_at_start[:, 0], trace.resident_at_start[:, 1]] = True
    balance = resident.astype(np.int64)
    for moved, sign in ((trace.reads, 1), (trace.evictions, -1)):
        then = moved[moved["step"] <= last]
        cells = then["layer"].astype(np.int64) * shape[1] + then["expert"]
        balance += sign * np.bincount(cells, minlength=balance.size).reshape(shape)
    return balance > 0


def bytes_per_token(trace: Trace) -> npt.NDArray[np.float64]:
    """Bytes read per step, a prefill call's divided equally among its steps: float64 [steps].

    A call reads once for all its steps, so undivided a prefill would be a spike at its start.
    """
    per_step = bytes_per_step(trace)
    _, starts, call_of = _calls(trace)
    if not trace.steps:
        return np.zeros(0)
    lengths = np.diff(np.append(starts, trace.steps))
    return np.asarray((np.add.reduceat(per_step, starts) / lengths)[call_of], np.float64)


def first_token(trace: Trace) -> int:
    """The step that produced token 1, the prompt's last; 0 if no token was generated."""
    found = np.flatnonzero(trace.produced >= 0)
    found = found if len(found) else np.flatnonzero(trace.phase == DECODE)
    return int(found[0]) if len(found) else 0


def token_name(trace: Trace, step: int) -> str:
    """The name of a step, as in the live view: "token 6", or "prompt token 3"."""
    first = first_token(trace)
    generated = bool((trace.produced >= 0).any() or (trace.phase == DECODE).any())
    token = step - first + 1
    return f"token {token:,}" if generated and token > 0 else f"prompt token {step + 1:,}"


def prefill_spans(trace: Trace) -> list[tuple[int, int]]:
    """The spans of prefill steps before token 1, as (first, one past the last).

    The prompt's last step produced token 1, and is shown as that.
    """
    shaded = trace.phase == PREFILL
    shaded[np.flatnonzero(trace.produced >= 0)[:1]] = False
    edges = np.flatnonzero(np.diff(np.pad(shaded, 1).astype(np.int8)))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


@dataclass(frozen=True)
class Timeline:
    """A run over its steps, in bins of `size` steps (1 unless the run is long).

    Attributes:
        size: steps per bin; the last bin may have fewer.
        first: int64 [bins], the first step of each bin.
        steps: int64 [bins], the number of steps of each bin.
        hits, misses: float64 [bins], the mean per step.
        nbytes: float64 [bins], the mean of `bytes_per_token`.
        latency_ms: float64 [bins, 3], `QUANTILES` over all reads of the calls that overlap the bin;
            NaN without reads.
    """

    size: int
    first: npt.NDArray[np.int64]
    steps: npt.NDArray[np.int64]
    hits: npt.NDArray[np.float64]
    misses: npt.NDArray[np.float64]
    nbytes: npt.NDArray[np.float64]
    latency_ms: npt.NDArray[np.float64]


def timeline(trace: Trace, limit: int = 2000) -> Timeline:
    """Hits, misses, bytes and read latency over the steps, in at most `limit` equal bins."""
    size = max(1, -(-trace.steps // limit))
    first = np.arange(0, trace.steps, size, dtype=np.int64)
    steps = np.diff(np.append(first, trace.steps)).astype(np.int64)

    def mean(values: npt.NDArray[np.int64] | npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        if not len(first):
            return np.zeros(0)
        return np.asarray(np.add.reduceat(values, first) / steps, np.float64)

    hits, misses = hits_per_step(trace)
    return Timeline(
        size=size,
        first=first,
        steps=steps,
        hits=mean(hits),
        misses=mean(misses),
        nbytes=mean(bytes_per_token(trace)),
        latency_ms=_latency_of_bins(trace, first, first + steps),
    )


def _latency_of_bins(
    trace: Trace, first: npt.NDArray[np.int64], end: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """`QUANTILES` of the reads of all calls that overlap [first, end) of each bin."""
    out = np.full((len(first), len(QUANTILES)), np.nan)
    order = np.argsort(trace.reads["step"], kind="stable")
    read_step, latency = trace.reads["step"][order], trace.reads["ns"][order] / 1e6
    _, starts, call_of = _calls(trace)
    ends = np.append(starts[1:], trace.steps)
    # A long prefill call spans many bins: its quantiles are computed once.
    known: dict[tuple[int, int], npt.NDArray[np.float64]] = {}
    for i, (a, b) in enumerate(zip(first, end, strict=True)):
        low, high = np.searchsorted(read_step, (starts[call_of[a]], ends[call_of[b - 1]]))
        key = (int(low), int(high))
        if key not in known:
            known[key] = quantiles(latency[low:high])
        out[i] = known[key]
    return out


def _calls(
    trace: Trace,
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """The calls of the steps: their rows, their first steps, and each step's index into both."""
    return np.unique(trace.call, return_index=True, return_inverse=True)


def summarise(trace: Trace) -> Summary:
    """The headline numbers of a run."""
    hits, misses = hits_per_step(trace)
    decode = trace.phase == DECODE
    seconds = {p: float(trace.step_ns[trace.phase == p].sum()) / 1e9 for p in (PREFILL, DECODE)}
    p50, p95, top = quantiles(trace.reads["ns"] / 1e6)
    return Summary(
        prompt_tokens=int((~decode).sum()),
        decoded_steps=int(decode.sum()),
        prefill_seconds=seconds[PREFILL],
        decode_seconds=seconds[DECODE],
        tokens_per_second=_ratio(float(decode.sum()), seconds[DECODE]),
        lookups=int(hits.sum() + misses.sum()),
        hits=int(hits.sum()),
        hit_rate=_ratio(float(hits.sum()), float(hits.sum() + misses.sum())),
        decode_hit_rate=_ratio(float(hits[decode].sum()), float((hits + misses)[decode].sum())),
        prefill_hit_rate=_ratio(float(hits[~decode].sum()), float((hits + misses)[~decode].sum())),
        reads=len(trace.reads),
        bytes_read=int(trace.reads["nbytes"].sum()),
        read_p50_ms=float(p50),
        read_p95_ms=float(p95),
        read_max_ms=float(top),
        generated=int((trace.produced >= 0).sum()),
        **_loss(trace),
    )


def _loss(trace: Trace) -> dict[str, Any]:
    known = np.isfinite(trace.kl)
    if not known.any():
        return {}
    return {
        "compared": int(known.sum()),
        "kl": float(trace.kl[known].mean(dtype=np.float64)),
        "top1_agreement": float(trace.agrees[known].mean()),
    }


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")
