"""Explains why a token was slow: its time by part, its layers in order, and the cause of each miss.

For every miss it finds when the expert was evicted and for which expert. A replay of the whole
trace decides whether Belady's cache of the same size would have kept it. Limits are bytes divided
by a measured rate; an unmeasured rate is unknown, not guessed. The result is plain data:
`explanation_text.py` makes its text, `notebook/render` its HTML and figure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..aliases import alias, old_names
from ..display import draw
from ..errors import OptionError, TraceError
from ..events import DECODE
from ..residency.replay import Outcome, simulate
from . import explanation_text
from .rank_use import Awaited, awaited
from .time_parts import PARTS, parts_of_calls, parts_of_layers
from .what_if import routing_of

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from .trace import Trace

FAST = 0.95
"""The quantile of a run's read rates that stands for the disk's speed where it was not probed."""


@dataclass(frozen=True)
class Miss:
    """An expert that had to be read.

    Attributes:
        layer, expert, nbytes: which, and the bytes read; 0 if the read was not recorded.
        start_ms, ms: when its read began, from the start of the call, and how long it took; NaN if
            the read was not recorded.
        evicted_at: the step in which it was last evicted; None if it was not resident before.
        evicted_by: the (layer, expert) that took its slot; None if `evicted_at` is None.
        resident_under_belady: whether Belady's cache would have kept it; None if unknown.
        left_at, taken_by, held_by_belady: old names of these three.
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
class ExplainedLayer:
    """One layer of the token.

    Attributes:
        layer: the MoE layer, from 0.
        experts, weights: the router's choices for this token, in its order.
        misses: the experts that the call read in this layer.
        parts: `LAYER_PARTS` in ms; empty if not recorded.
    """

    layer: int
    experts: tuple[int, ...]
    weights: tuple[float, ...]
    misses: tuple[Miss, ...]
    parts: Mapping[str, float]


@dataclass(frozen=True)
class Limit:
    """A lower bound of a time: `nbytes` at `rate` bytes a second, 0 if unknown.

    `source` says how the rate was measured.
    """

    nbytes: int
    rate: float
    source: str

    @property
    def ms(self) -> float:
        """Milliseconds; NaN if bytes or rate are unknown."""
        return 1e3 * self.nbytes / self.rate if self.rate and self.nbytes else float("nan")


@dataclass(frozen=True)
class Explanation:
    """What one token's time was spent on. `print` it, display it, or draw its `figure()`.

    Attributes:
        step, call_steps, phase: the step, the tokens of its call, and 0 prefill or 1 decode.
        name, names: the label of the token, and the labels of the others by step.
        ms: wall time of its call.
        parts: ms of each measured part; they add up to `ms`.
        usual: the median of each part over the run's decode calls, ms; empty for a prompt's call.
        usual_ms: the median time of these calls; NaN for a prompt's call.
        slower_than: share of the run's decode calls that were faster; NaN for a prompt's call.
        decode_calls: how many decode calls the run has.
        lookups: lookups of the call, over all layers.
        layers: its layers in order.
        disk, memory: lower bounds of reading its misses and of reading its weights from memory.
        slots, policy, kernels: of the run.
        ranks: who was waited for, the longest first; () where one process computes.
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
    decode_calls: int
    lookups: int
    layers: tuple[ExplainedLayer, ...] = field(repr=False)
    disk: Limit
    memory: Limit
    slots: int
    policy: str
    kernels: str
    ranks: tuple[Awaited, ...] = ()

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
    """Explains the tokens of one trace; computes once what is common to all of them."""

    def __init__(self, trace: Trace) -> None:
        if not trace.has("calls"):
            raise TraceError("this trace has no times: nothing can be explained")
        self._trace = trace
        self._parts = parts_of_calls(trace)
        decode = (trace.calls["phase"] == DECODE) & (trace.calls["steps"] == 1)
        self._decode_ms = np.sort(trace.calls["ns"][decode] / 1e6)
        self._usual = {name: float(np.median(value[decode])) for name, value in self._parts.items()
                       if decode.any() and not np.isnan(value[decode]).all()}  # fmt: skip
        self._belady: Outcome | None = None
        self._replayed = False
        self._evicted = np.lexsort([trace.evictions[name] for name in ("expert", "layer")])
        keys = trace.evictions[self._evicted]
        self._evicted_key = keys["layer"].astype(np.int64) << 16 | keys["expert"]
        self._rates = _rates(trace)

    def explain(
        self,
        step: int,
        names: Mapping[int, str] | None = None,
        memory_rate: float | None = None,
    ) -> Explanation:
        """See `Trace.explain`."""
        trace = self._trace
        if trace.shared:
            raise TraceError(
                "this run shared its calls with other prompts, whose reads are not in its trace, "
                "so a token's time cannot be explained: run the prompt by itself"
            )
        if not -trace.steps <= step < trace.steps:
            raise OptionError(
                f"step={step!r} is not in this run: it has {trace.steps} steps, from 0"
            )
        step %= trace.steps
        call = int(trace.call[step])
        row = trace.calls[call]
        decode = int(row["phase"]) == DECODE and int(row["steps"]) == 1
        ms = float(row["ns"]) / 1e6
        known = {name: float(value[call]) for name, value in self._parts.items()}
        names = names if names is not None else {}
        first = int(row["first_step"])
        return Explanation(
            step=step,
            call_steps=int(row["steps"]),
            phase=int(row["phase"]),
            name=names.get(step, f"step {step}"),
            names=names,
            ms=ms,
            parts={name: value for name, value in known.items() if not np.isnan(value)},
            usual=self._usual if decode else {},
            usual_ms=float(np.median(self._decode_ms)) if decode else float("nan"),
            slower_than=float(np.searchsorted(self._decode_ms, ms) / len(self._decode_ms))
            if decode
            else float("nan"),
            decode_calls=len(self._decode_ms),
            lookups=int((trace.experts[first : first + int(row["steps"])] >= 0).sum()),
            layers=tuple(self._layers(step, call)),
            disk=self._disk_limit(call),
            memory=self._memory_limit(call, memory_rate),
            slots=trace.info.slots,
            policy=trace.info.policy,
            kernels=trace.info.kernels,
            ranks=awaited(trace.rank_us[call], trace.info.hosts) if len(trace.rank_us) else (),
        )

    def _layers(self, step: int, call: int) -> list[ExplainedLayer]:
        trace = self._trace
        times = parts_of_layers(trace, call)
        missed = self._misses(call)
        layers = []
        for layer in range(trace.layers):
            chosen = trace.experts[step, layer]
            valid = chosen >= 0
            layers.append(
                ExplainedLayer(
                    layer,
                    tuple(chosen[valid].tolist()),
                    tuple(trace.weights[step, layer][valid].tolist()),
                    tuple(missed.get(layer, ())),
                    {name: float(value[layer]) for name, value in times.items()} if times else {},
                )
            )
        return layers

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
            evicted_at, evicted_by = self._last_eviction(*key, first, end)
            belady = self.belady
            found.setdefault(layer, []).append(
                Miss(
                    *key,
                    nbytes=0 if read is None else int(read["nbytes"]),
                    start_ms=np.nan if read is None else (int(read["start_ns"]) - begin) / 1e6,
                    ms=np.nan if read is None else int(read["ns"]) / 1e6,
                    evicted_at=evicted_at,
                    evicted_by=evicted_by,
                    resident_under_belady=None
                    if belady is None
                    else bool(belady.hits[first + s, layer, i]),
                )
            )
        for of_layer in found.values():
            of_layer.sort(key=lambda miss: miss.start_ms)
        return found

    def _last_eviction(
        self, layer: int, expert: int, first: int, end: int
    ) -> tuple[int | None, tuple[int, int] | None]:
        """The step of the last eviction of (layer, expert) before its lookup, and by what."""
        key = layer << 16 | expert
        low, high = np.searchsorted(self._evicted_key, (key, key + 1))
        rows = self._trace.evictions[np.sort(self._evicted[low:high])]
        earlier = rows["by_layer"] < layer
        earlier |= (rows["by_layer"] == layer) & (rows["by_expert"] == expert)  # to free memory
        before = rows[(rows["step"] < first) | ((rows["step"] < end) & earlier)]
        if not len(before):
            return None, None
        last = before[-1]
        return int(last["step"]), (int(last["by_layer"]), int(last["by_expert"]))

    @property
    def belady(self) -> Outcome | None:
        """Belady's replay at the run's size; None if the trace lacks the size or the experts."""
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
            return Limit(nbytes, trace.info.disk_rate, "measured by a probe")
        if len(self._rates):
            rate = float(np.quantile(self._rates, FAST))
            return Limit(
                nbytes,
                rate,
                f"what each of the fastest {1 - FAST:.0%} of this run's reads reached by itself",
            )
        return Limit(nbytes, 0.0, "")

    def _memory_limit(self, call: int, rate: float | None) -> Limit:
        """The dense weights once, but a table of embeddings, and each distinct expert once."""
        trace, row = self._trace, self._trace.calls[call]
        steps = slice(int(row["first_step"]), int(row["first_step"] + row["steps"]))
        sizes = trace.info.expert_nbytes or (0,) * trace.layers
        nbytes = trace.info.dense_nbytes - trace.info.embedding_nbytes
        for layer in range(trace.layers):
            chosen = trace.experts[steps, layer]
            nbytes += len(np.unique(chosen[chosen >= 0])) * sizes[layer]
        known = rate or trace.info.memory_rate
        return Limit(nbytes if trace.info.dense_nbytes else 0, known, "measured")


def _rates(trace: Trace) -> npt.NDArray[Any]:
    """Bytes a second of each group of reads that one layer waited for together."""
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
    """The steps of the slowest decode calls, the slowest first."""
    decode = np.flatnonzero(trace.phase == DECODE)
    order = np.argsort(-trace.step_ns[decode], kind="stable")[:count]
    return np.asarray(decode[order], np.int64)


__all__ = ["PARTS", "ExplainedLayer", "Explainer", "Explanation", "Limit", "Miss", "slowest"]

__getattr__ = old_names(__name__, LayerStory="ExplainedLayer")
