"""Why was this token slow: its time part by part, its layers in order, and what each read was for.

For every expert that had to be read it is told whether the run had held it before, which token's
which expert took its slot, and whether a cache of the same size that knew the future (Belady's)
would still have had it, from a replay of the whole trace. Limits are bytes over a rate that was
measured; a rate nobody measured is unknown, not guessed. It says all this as plain data; the words
are in `explained.py`, the figure in `notebook/figures`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..aliases import alias
from ..display import draw
from ..errors import OptionError, TraceError
from ..events import DECODE
from ..residency.replay import Outcome, simulate
from . import explanation_text
from .time_parts import PARTS, parts_of_calls, parts_of_layers
from .what_if import routing_of

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from .trace import Trace

FAST = 0.95
"""Of the rates of a run's reads, the one this share is slower than stands for what the disk can."""


@dataclass(frozen=True)
class Miss:
    """An expert that had to be read.

    Attributes:
        layer, expert, nbytes: which, and how much was read; 0 bytes where the read is not known.
        start_ms, ms: when its read began, since the call's beginning, and how long it took; NaN
            where the read is not known.
        evicted_at: the step during which it was evicted; None if it was not resident in this run.
        evicted_by: the (layer, expert) that took the slot; None likewise.
        resident_under_belady: whether a cache that knew the future would have had it; None if not
            known.
    """

    layer: int
    expert: int
    nbytes: int
    start_ms: float
    ms: float
    evicted_at: int | None
    evicted_by: tuple[int, int] | None
    resident_under_belady: bool | None
    left_at = alias("evicted_at")
    taken_by = alias("evicted_by")
    held_by_belady = alias("resident_under_belady")


@dataclass(frozen=True)
class LayerStory:
    """One layer of the token.

    Attributes:
        layer: the MoE layer, from 0.
        experts, weights: what the router chose for this token, in its order.
        misses: what its call read in this layer.
        parts: `LAYER_PARTS` in ms; empty where they were not recorded.
    """

    layer: int
    experts: tuple[int, ...]
    weights: tuple[float, ...]
    misses: tuple[Miss, ...]
    parts: Mapping[str, float]


@dataclass(frozen=True)
class Limit:
    """How long something takes at least: `nbytes` at `rate` bytes a second, 0 if unknown.

    `source` says in words where the rate is from.
    """

    nbytes: int
    rate: float
    source: str

    @property
    def ms(self) -> float:
        """Milliseconds; NaN where bytes or rate are not known."""
        return 1e3 * self.nbytes / self.rate if self.rate and self.nbytes else float("nan")


@dataclass(frozen=True)
class Explanation:
    """What one token's time was spent on. `print` it, display it, or ask for its `figure()`.

    Attributes:
        step, call_steps, phase: the step, how many tokens its call read, 0 prefill or 1 decode.
        name, names: what the token is called, and what others are, by step.
        ms: of its call. `parts`: ms of each part, NaN left out, adding up to it.
        usual: the median of each part over the run's decode calls, ms; empty for a prompt's call.
        usual_ms: the median of those calls, ms; NaN for a prompt's call.
        slower_than: share of the run's decode calls that were faster; NaN for a prompt's.
        lookups: choices of the call, over all layers. `layers`: in order.
        disk, memory: how long reading its bytes, and touching its weights, takes at least.
        slots, policy, kernels: of the run.
    """

    step: int
    call_steps: int
    phase: int
    name: str
    names: Mapping[int, str] = field(repr=False)
    ms: float
    parts: Mapping[str, float]
    usual: Mapping[str, float]
    usual_ms: float
    slower_than: float
    lookups: int
    layers: tuple[LayerStory, ...] = field(repr=False)
    disk: Limit
    memory: Limit
    slots: int
    policy: str
    kernels: str

    @property
    def misses(self) -> list[Miss]:
        """All of its misses, in the order in which they were read."""
        return [miss for layer in self.layers for miss in layer.misses]

    def figure(self) -> Figure:
        """Its layers over time, and its reads; a Plotly figure."""
        return draw("Explanation.figure", self)

    def __str__(self) -> str:
        return explanation_text.plain(self)

    def _repr_markdown_(self) -> str:
        return explanation_text.markdown(self)

    def _repr_html_(self) -> str:
        return draw("Explanation.html", self)


class Explainer:
    """One trace, asked about several tokens: what concerns all of them is worked out once."""

    def __init__(self, trace: Trace) -> None:
        if not trace.has("calls"):
            raise TraceError("this trace has no times, so there is nothing slow to explain")
        self._trace = trace
        self._parts = parts_of_calls(trace)
        decode = (trace.calls["phase"] == DECODE) & (trace.calls["steps"] == 1)
        self._decode_ms = np.sort(trace.calls["ns"][decode] / 1e6)
        self._usual = {name: float(np.median(value[decode])) for name, value in self._parts.items()
                       if decode.any() and not np.isnan(value[decode]).all()}  # fmt: skip
        self._belady: Outcome | None = None
        self._replayed = False
        order = ("expert", "layer")
        self._gone = np.lexsort([trace.evictions[name] for name in order])
        keys = trace.evictions[self._gone]
        self._gone_key = keys["layer"].astype(np.int64) << 16 | keys["expert"]
        self._rates = _rates(trace)

    def explain(
        self,
        step: int,
        names: Mapping[int, str] | None = None,
        memory_rate: float | None = None,
    ) -> Explanation:
        """See `Trace.explain`."""
        trace = self._trace
        if not -trace.steps <= step < trace.steps:
            raise OptionError(
                f"step={step!r} is not in this run: it has {trace.steps} steps, from 0"
            )
        step %= trace.steps
        call = int(trace.call[step])
        row = trace.calls[call]
        alone = int(row["phase"]) == DECODE and int(row["steps"]) == 1
        ms = float(row["ns"]) / 1e6
        known = {name: float(value[call]) for name, value in self._parts.items()}
        named = names if names is not None else {}
        first = int(row["first_step"])
        return Explanation(
            step=step,
            call_steps=int(row["steps"]),
            phase=int(row["phase"]),
            name=named.get(step, f"step {step}"),
            names=named,
            ms=ms,
            parts={name: value for name, value in known.items() if not np.isnan(value)},
            usual=self._usual if alone else {},
            usual_ms=float(np.median(self._decode_ms)) if alone else float("nan"),
            slower_than=float(np.searchsorted(self._decode_ms, ms) / len(self._decode_ms))
            if alone
            else float("nan"),
            lookups=int((trace.experts[first : first + int(row["steps"])] >= 0).sum()),
            layers=tuple(self._layers(step, call)),
            disk=self._disk_limit(call),
            memory=self._memory_limit(call, memory_rate),
            slots=trace.info.slots,
            policy=trace.info.policy,
            kernels=trace.info.kernels,
        )

    def _layers(self, step: int, call: int) -> list[LayerStory]:
        trace = self._trace
        times = parts_of_layers(trace, call)
        missed = self._misses(call)
        told = []
        for layer in range(trace.layers):
            chosen = trace.experts[step, layer]
            there = chosen >= 0
            told.append(
                LayerStory(
                    layer,
                    tuple(chosen[there].tolist()),
                    tuple(trace.weights[step, layer][there].tolist()),
                    tuple(missed.get(layer, ())),
                    {name: float(value[layer]) for name, value in times.items()} if times else {},
                )
            )
        return told

    def _misses(self, call: int) -> dict[int, list[Miss]]:
        """Each layer's misses in one call, in the order of their reads."""
        trace = self._trace
        row = trace.calls[call]
        first, end = int(row["first_step"]), int(row["first_step"] + row["steps"])
        if not trace.has("hits"):
            return {}
        reads = trace.reads[(trace.reads["step"] >= first) & (trace.reads["step"] < end)]
        read_of = {(int(read["layer"]), int(read["expert"])): read for read in reads}
        at, layers, choices = np.nonzero(~trace.hits[first:end] & (trace.experts[first:end] >= 0))
        found: dict[int, list[Miss]] = {}
        seen = set()
        begin = int(row["start_ns"])
        for s, layer, i in sorted(zip(at.tolist(), layers.tolist(), choices.tolist(), strict=True),
                                  key=lambda each: each[1]):  # fmt: skip
            key = (layer, int(trace.experts[first + s, layer, i]))
            if key in seen:
                continue
            seen.add(key)
            read = read_of.get(key)
            evicted_at, evicted_by = self._left(*key, first, end)
            held = self.belady
            found.setdefault(layer, []).append(
                Miss(
                    *key,
                    nbytes=0 if read is None else int(read["nbytes"]),
                    start_ms=np.nan if read is None else (int(read["start_ns"]) - begin) / 1e6,
                    ms=np.nan if read is None else int(read["ns"]) / 1e6,
                    evicted_at=evicted_at,
                    evicted_by=evicted_by,
                    resident_under_belady=None
                    if held is None
                    else bool(held.hits[first + s, layer, i]),
                )
            )
        for of_layer in found.values():
            of_layer.sort(key=lambda miss: miss.start_ms)
        return found

    def _left(
        self, layer: int, expert: int, first: int, end: int
    ) -> tuple[int | None, tuple[int, int] | None]:
        """When (layer, expert) was evicted last before its look-up in a call, and for whom."""
        key = layer << 16 | expert
        low, high = np.searchsorted(self._gone_key, (key, key + 1))
        rows = self._trace.evictions[np.sort(self._gone[low:high])]
        before = rows[(rows["step"] < first) | ((rows["step"] < end) & (rows["by_layer"] < layer))]
        if not len(before):
            return None, None
        last = before[-1]
        return int(last["step"]), (int(last["by_layer"]), int(last["by_expert"]))

    @property
    def belady(self) -> Outcome | None:
        """The replay that knows the future, at the run's size; None where it cannot be had."""
        if not self._replayed:
            self._replayed = True
            trace = self._trace
            if trace.info.slots and trace.layers and trace.info.experts_per_layer:
                start = trace.resident_at_start
                self._belady = simulate(routing_of(trace), "belady", trace.info.slots, start)
        return self._belady

    def _disk_limit(self, call: int) -> Limit:
        trace = self._trace
        mine = trace.call[trace.reads["step"]] == call
        nbytes = int(trace.reads["nbytes"][mine].sum())
        if trace.info.disk_rate:
            return Limit(nbytes, trace.info.disk_rate, "as the disk was probed")
        if len(self._rates):
            rate = float(np.quantile(self._rates, FAST))
            return Limit(nbytes, rate, f"what the fastest {1 - FAST:.0%} of this run's reads had")
        return Limit(nbytes, 0.0, "")

    def _memory_limit(self, call: int, rate: float | None) -> Limit:
        """Dense weights once, and each distinct expert of the call once."""
        trace, row = self._trace, self._trace.calls[call]
        steps = slice(int(row["first_step"]), int(row["first_step"] + row["steps"]))
        sizes = trace.info.expert_nbytes or (0,) * trace.layers
        nbytes = trace.info.dense_nbytes
        for layer in range(trace.layers):
            chosen = trace.experts[steps, layer]
            nbytes += len(np.unique(chosen[chosen >= 0])) * sizes[layer]
        known = rate or trace.info.memory_rate
        return Limit(nbytes if trace.info.dense_nbytes else 0, known, "as memory was measured")


def _rates(trace: Trace) -> npt.NDArray[Any]:
    """Bytes a second of the reads that one layer waited for together, one rate for each."""
    reads = trace.reads
    if not len(reads):
        return np.zeros(0)
    group = trace.call[reads["step"]].astype(np.int64) * max(trace.layers, 1) + reads["layer"]
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    begin = np.minimum.reduceat(reads["start_ns"][order], starts)
    end = np.maximum.reduceat((reads["start_ns"] + reads["ns"])[order], starts)
    nbytes = np.add.reduceat(reads["nbytes"][order], starts)
    took = end - begin
    return np.asarray(nbytes[took > 0] / took[took > 0] * 1e9)


def slowest(trace: Trace, count: int = 10) -> npt.NDArray[np.int64]:
    """The steps of the decode calls that took longest, the slowest first."""
    decode = np.flatnonzero(trace.phase == DECODE)
    order = np.argsort(-trace.step_ns[decode], kind="stable")[:count]
    return np.asarray(decode[order], np.int64)


__all__ = ["PARTS", "Explainer", "Explanation", "LayerStory", "Limit", "Miss", "slowest"]
