"""Turns the events of one run into a `Trace`, on the decode thread, into arrays made ahead.

It listens and never asks: nothing is evaluated because somebody records. An event is only kept
when it comes; at the end of a call its layers are folded into the arrays in one go. Arrays grow
by doubling when a run is longer than foreseen, so a run of any length is held whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from ..events import (
    CallStarted,
    Compared,
    Event,
    Evicted,
    HeldLayers,
    PagedIn,
    ReadEarly,
    Routed,
    Served,
    StepDone,
    Waited,
    Weighed,
)
from .trace import CALL, EARLY, EVICTION, LAYER_PARTS, READ, Trace, TraceInfo

EMPTY = {"_tokens": 0, "_produced": -1, "_experts": -1, "_weights": np.nan, "_hits": False}
"""The arrays that grow, and what stands in them where nothing was recorded."""


class Recorder:
    """An event sink for one run.

    Args:
        layers: how many MoE layers the model has.
        steps: how many steps are foreseen (prompt tokens + tokens to generate).
        resident: int16 [n, 2], the (layer, expert) pairs in a slot now.

    Attributes:
        call_ns, call_hits, call_misses, call_nbytes: of the last whole call.
    """

    KINDS: tuple[type[Event], ...] = (
        CallStarted, Routed, Weighed, Served, HeldLayers, Waited, PagedIn, Evicted, ReadEarly,
        StepDone, Compared,
    )  # fmt: skip
    """The events that a trace is made of; others are passed over."""

    def __init__(self, layers: int, steps: int, resident: npt.NDArray[np.int16]) -> None:
        self.call_ns = self.call_hits = self.call_misses = self.call_nbytes = 0
        self._resident = resident
        self._tokens = np.zeros(steps, np.int32)
        self._produced = np.full(steps, -1, np.int32)
        self._experts = np.full((steps, layers, 0), -1, np.int16)
        self._weights = np.full((steps, layers, 0), np.nan, np.float32)
        self._hits = np.zeros((steps, layers, 0), bool)
        self._reads: list[tuple[int, ...]] = []
        self._evictions: list[tuple[int, ...]] = []
        self._early: list[tuple[int, ...]] = []
        self._calls: list[tuple[int, ...]] = []
        self._layer_us: list[npt.NDArray[np.int32]] = []
        self._layers = layers
        self._compared: list[tuple[int, float, bool]] = []
        self._steps = 0
        self._take: dict[type[Event], Callable[[Any], object]] = {
            CallStarted: self._begin,
            PagedIn: self._page_in,
            Evicted: self._evict,
            StepDone: self._end,
            Compared: lambda event: self._compared.append((self._steps - 1, *event)),
        }
        self._begin(CallStarted(0, np.zeros(0, np.int32), 0))

    def __call__(self, event: Event) -> None:
        """Take one event; the kinds that carry nothing to keep are passed over."""
        take = self._take.get(type(event))
        if take is not None:
            take(event)

    def _begin(self, event: CallStarted) -> None:
        """A call begins; what a call that was cut short had kept is dropped."""
        self._call = event
        self._routed: list[Routed] = []
        self._weighed: list[Weighed] = []
        self._waited: list[Waited] = []
        self._served: list[Served] = []
        self._held: list[HeldLayers] = []
        self._call_reads: list[tuple[int, ...]] = []
        self._call_evictions: list[tuple[int, ...]] = []
        self._call_early: list[ReadEarly] = []
        # Two of these a layer: a list's own method costs half of one of ours.
        self._take[Routed] = self._routed.append
        self._take[Weighed] = self._weighed.append
        self._take[Waited] = self._waited.append
        self._take[Served] = self._served.append
        self._take[HeldLayers] = self._held.append
        self._take[ReadEarly] = self._call_early.append

    def _page_in(self, event: PagedIn) -> None:
        layer, expert, _, nbytes, start_ns, ns = event
        self._call_reads.append((self._first_need(expert), layer, expert, nbytes, start_ns, ns))

    def _evict(self, event: Evicted) -> None:
        layer, expert, _, by_layer, by_expert = event
        step = self._first_need(by_expert)
        self._call_evictions.append((step, layer, expert, by_layer, by_expert))

    def _first_need(self, expert: int) -> int:
        """The first step of this call that routed to `expert` in the layer just routed."""
        if len(self._call.tokens) == 1:
            return self._steps
        return self._steps + int((self._routed[-1].experts == expert).any(axis=1).argmax())

    def _end(self, event: StepDone) -> None:
        """The call is whole: fold it into the arrays."""
        first, n = self._steps, len(self._call.tokens)
        self._steps += n
        if self._steps > len(self._tokens):
            self._grow(2 * self._steps)
        self._tokens[first : self._steps] = self._call.tokens
        self._produced[self._steps - 1] = event.produced
        chosen = [routed.experts for routed in self._routed]
        wide = [rows.shape[1] for rows in chosen] + [held.experts.shape[1] for held in self._held]
        self._widen(max(wide, default=0))
        rows = slice(first, self._steps)
        _fill(self._experts[rows], self._routed, chosen)
        _fill(self._hits[rows], self._routed, [routed.hits for routed in self._routed])
        _fill(self._weights[rows], self._weighed, [weighed.weights for weighed in self._weighed])
        for layers, experts, weights, _, _ in self._held:
            k = experts.shape[1]
            self._experts[first, layers, :k], self._hits[first, layers, :k] = experts, True
            self._weights[first, layers, :k] = weights
        self._reads += self._call_reads
        self._evictions += self._call_evictions
        self._early += [(first, *event) for event in self._call_early]
        self._book(first, n, event)

    def _book(self, first: int, n: int, event: StepDone) -> None:
        """One row of `calls`, and the numbers of the last call."""
        asked = sum(routed.experts.size for routed in self._routed)
        asked += sum(held.experts.size for held in self._held)
        self.call_ns = event.ns
        self.call_hits = int(np.count_nonzero(self._hits[first : self._steps]))
        self.call_misses = asked - self.call_hits
        self.call_nbytes = sum(read[3] for read in self._call_reads)
        routes = sum(routed.route_ns for routed in self._routed)
        waits = sum(waited.ns for waited in self._waited)
        installs = sum(waited.install_ns for waited in self._waited)
        lookups = sum(routed.lookup_ns for routed in self._routed)
        switches, experts, told = 0, 0, 0
        served = self._switches()
        if len(served):
            switches, experts, told = (int(total) for total in served.sum(axis=0)[2:])
            # All of a switch that is nothing else: besides the look-up, booking who leaves.
            lookups = switches - routes - waits - installs - experts - told
            self._layer_us.append(self._layer_times(served))
        row = (self._call.phase, first, n, self._call.start_ns, event.ns)
        times = (routes, lookups, waits, installs, event.sample_ns, event.forward_ns)
        outside = max(0, event.forward_ns - switches)
        self._calls.append((*row, *times, outside, experts, told + event.told_ns))

    def _switches(self) -> npt.NDArray[np.int64]:
        """The fields of `Served`, [switches, 5], in the order in which they served."""
        held = [np.stack((h.layers, h.start_ns, h.ns, h.ns, 0 * h.ns), 1) for h in self._held]
        if len(held) == 1 and not self._served:
            return held[0]
        table = np.concatenate([_table(self._served), *held])
        return table[np.argsort(table[:, 1], kind="stable")]

    def _layer_times(self, served: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
        """This call's row of `layer_us`; `served` as `_switches` gives it."""
        rows = np.zeros((self._layers, len(LAYER_PARTS)), np.int64)
        rows[[routed.layer for routed in self._routed], 1] = [
            routed.route_ns for routed in self._routed
        ]
        for layer, wait_ns, install_ns in self._waited:
            rows[layer, 3] += wait_ns
            rows[layer, 4] += install_ns
        layers, start, ns, experts, told = served.T
        rows[layers, 0] = start
        rows[layers[0], 0] -= self._call.start_ns
        rows[layers[1:], 0] -= start[:-1] + ns[:-1]
        rows[layers, 5], rows[layers, 6] = experts, told
        rows[layers, 2] = ns - rows[layers, 1] - rows[layers, 3:].sum(axis=1)
        return (rows // 1000).astype(np.int32)

    def _grow(self, steps: int) -> None:
        for name, fill in EMPTY.items():
            old = getattr(self, name)
            new = np.full((steps, *old.shape[1:]), fill, old.dtype)
            new[: len(old)] = old
            setattr(self, name, new)

    def _widen(self, k: int) -> None:
        if k <= self._experts.shape[2]:
            return
        for name in ("_experts", "_weights", "_hits"):
            old = getattr(self, name)
            new = np.full((*old.shape[:2], k), EMPTY[name], old.dtype)
            new[:, :, : old.shape[2]] = old
            setattr(self, name, new)

    def trace(self, info: TraceInfo) -> Trace:
        """What was recorded so far. A call cut short by an interrupt or an error is left out."""
        table = np.array(self._calls, CALL)
        call_of_step = np.repeat(np.arange(len(table), dtype=np.int32), table["steps"])
        share = table["ns"] // np.maximum(table["steps"], 1)
        steps = self._steps
        kl, agrees = _compared(self._compared, steps)
        return Trace(
            tokens=self._tokens[:steps].copy(),
            produced=self._produced[:steps].copy(),
            phase=table["phase"][call_of_step],
            call=call_of_step,
            step_ns=share[call_of_step],
            experts=self._experts[:steps].copy(),
            weights=self._weights[:steps].copy(),
            hits=self._hits[:steps].copy(),
            reads=np.array(self._reads, READ),
            evictions=np.array(self._evictions, EVICTION),
            calls=table,
            resident_at_start=self._resident,
            info=info,
            early=np.array(self._early, EARLY),
            **self._by_layer(),
            kl=kl,
            agrees=agrees,
        )

    def _by_layer(self) -> dict[str, npt.NDArray[np.int32]]:
        """`layer_us`, where every call has it."""
        whole = len(self._layer_us) == len(self._calls) > 0
        return {"layer_us": np.stack(self._layer_us)} if whole else {}


def _compared(
    found: list[tuple[int, float, bool]], steps: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """What was measured of each step; nothing where nothing was."""
    count = steps if found else 0
    kl, agrees = np.full(count, np.nan, np.float32), np.zeros(count, bool)
    for step, nats, same in found:
        kl[step], agrees[step] = nats, same
    return kl, agrees


def _table(events: Sequence[Served]) -> npt.NDArray[np.int64]:
    """A row of five for each of these; a third of what np.array takes."""
    flat = np.fromiter(chain.from_iterable(events), np.int64, 5 * len(events))
    return flat.reshape(-1, 5)


def _fill(
    into: npt.NDArray[Any],
    events: Sequence[Any],
    layers: list[npt.NDArray[Any]],
) -> None:
    """Write each event's layer, [steps, k], to its place in `into`, [steps, layers, widest k]."""
    if layers and [event.layer for event in events] == list(range(into.shape[1])):
        together = np.concatenate(layers, axis=1)
        if together.size == into.size:
            # The usual case, all layers as wide as the widest: one copy in place of one per layer.
            into[:] = together.reshape(into.shape)
            return
    for event, layer in zip(events, layers, strict=True):
        into[:, event.layer, : layer.shape[1]] = layer
