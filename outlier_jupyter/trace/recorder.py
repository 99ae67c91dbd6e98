"""Turns the events of one run into a `Trace`, on the decode thread, into arrays made ahead.

It listens and never asks: nothing is evaluated because somebody records. An event is only kept
when it comes; some calls' layers at a time are folded into the arrays in one go. Arrays grow by
doubling when a run is longer than foreseen, so a run of any length is held whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ..events import (
    CallStarted,
    Compared,
    Event,
    Evicted,
    PagedIn,
    Prefetched,
    ResidentLayers,
    Routed,
    Served,
    StepDone,
    Waited,
    Weighed,
)
from .schema import CALL, EVICTION, LAYER_PARTS, PREFETCHED, READ, TraceInfo
from .time_parts import booked
from .trace import Trace

EMPTY = {"_tokens": 0, "_produced": -1, "_experts": -1, "_weights": np.nan, "_hits": False}
"""The arrays that grow, and what stands in them where nothing was recorded."""

TOGETHER = 16
"""Calls of one token that are folded together. A token's weights drive this code and its data
from the processor's caches: to fold one call there takes three times what the next one takes."""


_Switches: TypeAlias = tuple[npt.NDArray[np.int64], ...]
"""The fields of `Served`, each [switches]."""


@dataclass(slots=True)
class _OpenCall:
    """What one call told, as it came; `first` is its first step, `done` how it ended."""

    started: CallStarted
    first: int
    routed: list[Routed] = field(default_factory=list)
    weighed: list[Weighed] = field(default_factory=list)
    waited: list[Waited] = field(default_factory=list)
    served: list[Served] = field(default_factory=list)
    held: list[ResidentLayers] = field(default_factory=list)
    reads: list[tuple[int, ...]] = field(default_factory=list)
    evictions: list[tuple[int, ...]] = field(default_factory=list)
    prefetched: list[Prefetched] = field(default_factory=list)
    done: StepDone | None = None


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
        CallStarted, Routed, Weighed, Served, ResidentLayers, Waited, PagedIn, Evicted, Prefetched,
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
        self._whole: list[_OpenCall] = []  # not folded yet
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
        call = self._call = _OpenCall(event, self._steps)
        # Two of these a layer: a list's own method costs half of one of ours.
        self._take[Routed] = call.routed.append
        self._take[Weighed] = call.weighed.append
        self._take[Waited] = call.waited.append
        self._take[Served] = call.served.append
        self._take[ResidentLayers] = call.held.append
        self._take[Prefetched] = call.prefetched.append

    def _page_in(self, event: PagedIn) -> None:
        layer, expert, _, nbytes, start_ns, ns = event
        self._call.reads.append((self._first_need(expert), layer, expert, nbytes, start_ns, ns))

    def _evict(self, event: Evicted) -> None:
        layer, expert, _, by_layer, by_expert = event
        step = self._first_need(by_expert)
        self._call.evictions.append((step, layer, expert, by_layer, by_expert))

    def _first_need(self, expert: int) -> int:
        """The first step of this call that routed to `expert` in the layer just routed."""
        call = self._call
        if len(call.started.tokens) == 1:
            return call.first
        return call.first + int((call.routed[-1].experts == expert).any(axis=1).argmax())

    def _end(self, event: StepDone) -> None:
        """The call is whole: its numbers are told at once, its layers folded with others'."""
        call, n = self._call, len(self._call.started.tokens)
        call.done = event
        self._whole.append(call)
        self._steps += n
        looked_up = [routed.hits for routed in call.routed]
        held = sum(held.experts.size for held in call.held)
        asked = held + sum(hits.size for hits in looked_up)
        self.call_ns = event.ns
        self.call_hits = held + sum(int(np.count_nonzero(hits)) for hits in looked_up)
        self.call_misses = asked - self.call_hits
        self.call_nbytes = sum(read[3] for read in call.reads)
        if n > 1 or len(self._whole) == TOGETHER:
            self._fold()

    def _fold(self) -> None:
        """Fold the calls that are whole into the arrays."""
        if self._steps > len(self._tokens):
            self._grow(2 * self._steps)
        for call in self._whole:
            self._fold_one(call)
        self._whole.clear()

    def _fold_one(self, call: _OpenCall) -> None:
        first = call.first
        rows = slice(first, first + len(call.started.tokens))
        assert call.done is not None
        self._tokens[rows] = call.started.tokens
        self._produced[rows.stop - 1] = call.done.produced
        chosen = [routed.experts for routed in call.routed]
        wide = [rows.shape[1] for rows in chosen] + [held.experts.shape[1] for held in call.held]
        self._widen(max(wide, default=0))
        _fill(self._experts[rows], call.routed, chosen)
        _fill(self._hits[rows], call.routed, [routed.hits for routed in call.routed])
        _fill(self._weights[rows], call.weighed, [weighed.weights for weighed in call.weighed])
        for layers, experts, weights, _, _ in call.held:
            k = experts.shape[1]
            self._experts[first, layers, :k], self._hits[first, layers, :k] = experts, True
            self._weights[first, layers, :k] = weights
        self._reads += call.reads
        self._evictions += call.evictions
        self._early += [(first, *event) for event in call.prefetched]
        self._book(call, call.done)

    def _book(self, call: _OpenCall, done: StepDone) -> None:
        """One row of `calls`."""
        sums = (
            sum(routed.route_ns for routed in call.routed),
            sum(routed.lookup_ns for routed in call.routed),
            sum(waited.ns for waited in call.waited),
            sum(waited.install_ns for waited in call.waited),
        )
        switches: tuple[int, int, int] | None = None
        served = _switches(call)
        if len(served[0]):
            switches = (int(served[2].sum()), int(served[3].sum()), int(served[4].sum()))
            self._layer_us.append(self._layer_times(call, served))
        phase, tokens, start_ns = call.started
        row = (phase, call.first, len(tokens), start_ns)
        self._calls.append((*row, *booked(done, *sums, switches)))

    def _layer_times(self, call: _OpenCall, served: _Switches) -> npt.NDArray[np.int32]:
        """The call's row of `layer_us`."""
        times = np.zeros((len(LAYER_PARTS), self._layers), np.int64)
        since, routing, lookup, waiting, installing, computing, telling = times
        for routed in call.routed:
            routing[routed.layer] = routed.route_ns
        for layer, wait_ns, install_ns in call.waited:
            waiting[layer] += wait_ns
            installing[layer] += install_ns
        layers, start, ns, experts, told = served
        since[layers[:1]] = start[:1] - call.started.start_ns
        since[layers[1:]] = start[1:] - start[:-1] - ns[:-1]
        computing[layers], telling[layers], lookup[layers] = experts, told, ns
        lookup -= routing + waiting + installing + computing + telling
        np.maximum(lookup, 0, out=lookup)
        return (times // 1000).T.astype(np.int32)

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
        self._fold()
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
            prefetched=np.array(self._early, PREFETCHED),
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


def _switches(call: _OpenCall) -> _Switches:
    """What the call's switches told, in the order in which they served."""
    held: list[_Switches] = [(h.layers, h.start_ns, h.ns, h.ns, 0 * h.ns) for h in call.held]
    if len(held) == 1 and not call.served:
        return held[0]
    flat = np.fromiter(chain.from_iterable(call.served), np.int64, 5 * len(call.served))
    table = np.concatenate([flat.reshape(-1, 5).T, *held], axis=1)
    return tuple(table[:, np.argsort(table[1], kind="stable")])


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
