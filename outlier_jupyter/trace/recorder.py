"""Turns the events of one run into a `Trace`, on the decode thread, into arrays made ahead.

It listens and never asks: nothing is evaluated because somebody records. Arrays grow by
doubling when a run is longer than foreseen, so a run of any length is held whole.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..events import (
    CallStarted,
    Event,
    Evicted,
    PagedIn,
    Routed,
    StepDone,
    Waited,
    Weighed,
)
from .trace import CALL, EVICTION, READ, Trace, TraceInfo

EMPTY = {"_tokens": 0, "_produced": -1, "_experts": -1, "_weights": np.nan, "_hits": False}
"""The arrays that grow, and what stands in them where nothing was recorded."""


class Recorder:
    """An event sink for one run.

    Args:
        layers: how many MoE layers the model has.
        steps: how many steps are foreseen (prompt tokens + tokens to generate).
        resident: int16 [n, 2], the (layer, expert) pairs in a slot now.

    Attributes:
        call_ns, call_hits, call_misses, call_nbytes: of the call under way, or of the last one.
    """

    def __init__(self, layers: int, steps: int, resident: npt.NDArray[np.int16]) -> None:
        self._resident = resident
        self._steps = 0
        self._tokens = np.zeros(steps, np.int32)
        self._produced = np.full(steps, -1, np.int32)
        self._experts = np.full((steps, layers, 0), -1, np.int16)
        self._weights = np.full((steps, layers, 0), np.nan, np.float32)
        self._hits = np.zeros((steps, layers, 0), bool)
        self._reads: list[tuple[int, ...]] = []
        self._evictions: list[tuple[int, ...]] = []
        self._calls: list[dict[str, int]] = []
        self._done = 0
        self._first_needs: npt.NDArray[np.int32] = np.zeros((0, 0), np.int32)
        self.call_ns = self.call_hits = self.call_misses = self.call_nbytes = 0

    def __call__(self, event: Event) -> None:
        """Take one event; the kinds that carry nothing to keep are passed over."""
        if isinstance(event, Routed):
            self._routed(event)
        elif isinstance(event, PagedIn):
            step = self._first_need(event.expert)
            self.call_nbytes += event.nbytes
            self._reads.append(
                (step, event.layer, event.expert, event.nbytes, event.start_ns, event.ns)
            )
        elif isinstance(event, Evicted):
            step = self._first_need(event.by_expert)
            self._evictions.append(
                (step, event.layer, event.expert, event.by_layer, event.by_expert)
            )
        elif isinstance(event, Waited):
            self._add(read_wait_ns=event.ns, install_ns=event.install_ns)
        elif isinstance(event, Weighed):
            first = self._calls[-1]["first_step"]
            n, k = event.weights.shape
            self._weights[first : first + n, event.layer, :k] = event.weights
        elif isinstance(event, CallStarted):
            self._call_started(event)
        elif isinstance(event, StepDone):
            self.call_ns = event.ns
            self._add(ns=event.ns, sample_ns=event.sample_ns)
            self._produced[self._steps - 1] = event.produced
            self._done += 1

    def _call_started(self, event: CallStarted) -> None:
        n = len(event.tokens)
        first, self._steps = self._steps, self._steps + n
        while self._steps > len(self._tokens):
            self._grow(2 * len(self._tokens) + n)
        self._tokens[first : self._steps] = event.tokens
        call = dict.fromkeys(CALL.names or (), 0)
        call.update(phase=event.phase, first_step=first, steps=n, start_ns=event.start_ns)
        self._calls.append(call)
        self.call_ns = self.call_hits = self.call_misses = self.call_nbytes = 0

    def _routed(self, event: Routed) -> None:
        n, k = event.experts.shape
        if k > self._experts.shape[2]:
            self._widen(k)
        first = self._calls[-1]["first_step"]
        self._experts[first : first + n, event.layer, :k] = event.experts
        self._hits[first : first + n, event.layer, :k] = event.hits
        self._add(route_ns=event.route_ns, lookup_ns=event.lookup_ns)
        self._first_needs = event.experts
        hits = int(event.hits.sum())
        self.call_hits += hits
        self.call_misses += event.hits.size - hits

    def _first_need(self, expert: int) -> int:
        """The first step of this call that routed to `expert` in the layer just routed."""
        first: int = self._calls[-1]["first_step"]
        row = (self._first_needs == expert).any(axis=1).argmax() if first + 1 < self._steps else 0
        return first + int(row)

    def _add(self, **spent: int) -> None:
        call = self._calls[-1]
        for name, ns in spent.items():
            call[name] += ns

    def _grow(self, steps: int) -> None:
        for name, fill in EMPTY.items():
            old = getattr(self, name)
            new = np.full((steps, *old.shape[1:]), fill, old.dtype)
            new[: len(old)] = old
            setattr(self, name, new)

    def _widen(self, k: int) -> None:
        for name in ("_experts", "_weights", "_hits"):
            old = getattr(self, name)
            new = np.full((*old.shape[:2], k), EMPTY[name], old.dtype)
            new[:, :, : old.shape[2]] = old
            setattr(self, name, new)

    def trace(self, info: TraceInfo) -> Trace:
        """What was recorded so far. A call cut short by an interrupt or an error is left out."""
        calls = self._calls[: self._done]
        steps = sum(call["steps"] for call in calls)
        call_of_step = np.repeat(np.arange(len(calls)), [call["steps"] for call in calls])
        table = np.array([tuple(call.values()) for call in calls], CALL)
        share = table["ns"] // np.maximum(table["steps"], 1)
        return Trace(
            tokens=self._tokens[:steps].copy(),
            produced=self._produced[:steps].copy(),
            phase=table["phase"][call_of_step],
            call=call_of_step.astype(np.int32),
            step_ns=share[call_of_step],
            experts=self._experts[:steps].copy(),
            weights=self._weights[:steps].copy(),
            hits=self._hits[:steps].copy(),
            reads=_rows(self._reads, READ, steps),
            evictions=_rows(self._evictions, EVICTION, steps),
            calls=table,
            resident_at_start=self._resident,
            info=info,
        )


def _rows(rows: list[tuple[int, ...]], dtype: np.dtype[Any], steps: int) -> npt.NDArray[np.void]:
    table = np.array(rows, dtype)
    return table[table["step"] < steps]
