"""Records the events of one run into preallocated arrays, on the decode thread, as a `Trace`.

It only receives events and evaluates nothing. An event is first just stored; the layers of several
calls are then copied into the arrays together. The arrays double when a run is longer than
expected, so a run of any length is recorded whole.
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
    Predicted,
    RanksServed,
    ResidentLayers,
    Routed,
    Served,
    StepDone,
    Waited,
    Weighed,
)
from .predictions import arrays_of, unpredicted
from .rank_arrays import RankRecord
from .schema import CALL, EVICTION, LAYER_PARTS, READ, TraceInfo
from .segments import UNKNOWN
from .time_parts import call_times
from .trace import Trace

EMPTY = {"_tokens": 0, "_produced": -1, "_experts": -1, "_weights": np.nan, "_hits": False}
"""The arrays that grow, and their value where nothing was recorded."""

BATCH = 16
"""Single-token calls that are copied together. A token's weights drive this code and its data out
of the processor's caches: the first call of a batch takes three times as long as the next one."""


_Switches: TypeAlias = tuple[npt.NDArray[np.int64], ...]
"""The fields of `Served`, each [switches]."""


@dataclass(slots=True)
class _OpenCall:
    """The events of one call, in order; `first` is its first step, `done` its last event."""

    started: CallStarted
    first: int
    routed: list[Routed] = field(default_factory=list)
    weighed: list[Weighed] = field(default_factory=list)
    waited: list[Waited] = field(default_factory=list)
    served: list[Served] = field(default_factory=list)
    resident: list[ResidentLayers] = field(default_factory=list)
    reads: list[tuple[int, ...]] = field(default_factory=list)
    evictions: list[tuple[int, ...]] = field(default_factory=list)
    predicted: list[Predicted] = field(default_factory=list)
    ranks: list[RanksServed] = field(default_factory=list)
    done: StepDone | None = None


class Recorder:
    """An event sink for one run.

    Args:
        layers: number of MoE layers of the model.
        steps: expected number of steps (prompt tokens + tokens to generate).
        resident: int16 [n, 2], the (layer, expert) pairs resident now.

    Attributes:
        call_ns, call_hits, call_misses, call_nbytes: of the last complete call.
    """

    KINDS: tuple[type[Event], ...] = (
        CallStarted, Routed, Weighed, Served, ResidentLayers, Waited, PagedIn, Evicted,
        Predicted, RanksServed, StepDone, Compared,
    )  # fmt: skip
    """The events that a trace is made of; others are ignored."""

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
        self._calls: list[tuple[int, ...]] = []
        self._layer_us: list[npt.NDArray[np.int32]] = []
        self._layers, self._ranks = layers, RankRecord(layers)
        self._compared: list[tuple[int, float, bool]] = []
        self._predicted: npt.NDArray[np.int32] | None = None
        self._steps = 0
        self._complete: list[_OpenCall] = []  # not copied yet
        self._handlers: dict[type[Event], Callable[[Any], object]] = {
            CallStarted: self._begin,
            PagedIn: self._page_in,
            Evicted: self._evict,
            StepDone: self._end,
            Compared: lambda event: self._compared.append((self._steps - 1, *event)),
        }
        self._begin(CallStarted(0, np.zeros(0, np.int32), 0))

    def __call__(self, event: Event) -> None:
        """Record one event; kinds other than `KINDS` are ignored."""
        handler = self._handlers.get(type(event))
        if handler is not None:
            handler(event)

    def _begin(self, event: CallStarted) -> None:
        """A call begins; the events of an interrupted call are dropped."""
        call = self._call = _OpenCall(event, self._steps)
        # Two of these per layer: `list.append` costs half of a method of ours.
        self._handlers[Routed] = call.routed.append
        self._handlers[Weighed] = call.weighed.append
        self._handlers[Waited] = call.waited.append
        self._handlers[Served] = call.served.append
        self._handlers[ResidentLayers] = call.resident.append
        self._handlers[Predicted] = call.predicted.append
        self._handlers[RanksServed] = call.ranks.append

    def _page_in(self, event: PagedIn) -> None:
        layer, expert, _, *rest = event
        self._call.reads.append((self._first_need(expert), layer, expert, *rest))

    def _evict(self, event: Evicted) -> None:
        layer, expert, _, by_layer, by_expert = event
        for_memory = (layer, expert) == (by_layer, by_expert)
        step = self._call.first if for_memory else self._first_need(by_expert)
        self._call.evictions.append((step, layer, expert, by_layer, by_expert))

    def _first_need(self, expert: int) -> int:
        """The first step of this call that chose `expert` in the layer just routed."""
        call = self._call
        if len(call.started.tokens) == 1:
            return call.first
        return call.first + int((call.routed[-1].experts == expert).any(axis=1).argmax())

    def _end(self, event: StepDone) -> None:
        """The call is complete: set its totals now, and copy its layers with those of others."""
        call, n = self._call, len(self._call.started.tokens)
        call.done = event
        self._complete.append(call)
        self._steps += n
        hits = [routed.hits for routed in call.routed]
        resident = sum(layers.experts.size for layers in call.resident)
        lookups = resident + sum(each.size for each in hits)
        self.call_ns = event.ns
        self.call_hits = resident + sum(int(np.count_nonzero(each)) for each in hits)
        self.call_misses = lookups - self.call_hits
        self.call_nbytes = sum(read[3] for read in call.reads)
        if n > 1 or len(self._complete) == BATCH:
            self._copy_complete()

    def call_experts(self) -> npt.NDArray[np.int16]:
        """What each layer chose for the last token of the last complete call, [layers, k]."""
        call = self._call
        widths = [each.experts.shape[1] for each in call.routed]
        k = max(widths + [each.experts.shape[1] for each in call.resident], default=0)
        found = np.full((self._layers, k), -1, np.int16)
        for layer, experts, *_ in call.routed:
            found[layer, : experts.shape[1]] = experts[-1]
        for layers, experts, *_ in call.resident:
            found[layers, : experts.shape[1]] = experts
        return found

    def _copy_complete(self) -> None:
        """Copy the complete calls into the arrays."""
        if self._steps > len(self._tokens):
            self._grow(2 * self._steps)
        for call in self._complete:
            self._copy(call)
        self._complete.clear()

    def _copy(self, call: _OpenCall) -> None:
        first = call.first
        rows = slice(first, first + len(call.started.tokens))
        assert call.done is not None
        self._tokens[rows] = call.started.tokens
        self._produced[rows.stop - 1] = call.done.produced
        chosen = [routed.experts for routed in call.routed]
        widths = [each.shape[1] for each in chosen]
        widths += [each.experts.shape[1] for each in call.resident]
        self._widen(max(widths, default=0))
        _fill(self._experts[rows], call.routed, chosen)
        _fill(self._hits[rows], call.routed, [routed.hits for routed in call.routed])
        _fill(self._weights[rows], call.weighed, [weighed.weights for weighed in call.weighed])
        for layers, experts, weights, _, _ in call.resident:
            k = experts.shape[1]
            self._experts[first, layers, :k], self._hits[first, layers, :k] = experts, True
            self._weights[first, layers, :k] = weights
        self._reads += call.reads
        self._evictions += call.evictions
        for (numbers,) in call.predicted:
            into = self._predictions(numbers.shape[1])
            into[rows.stop - len(numbers) : rows.stop] = numbers
        self._add_call(call, call.done)

    def _predictions(self, width: int) -> npt.NDArray[np.int32]:
        """The numbers of predictions, as long as the other arrays."""
        found, steps = self._predicted, len(self._tokens)
        if found is None or len(found) < steps:
            longer = unpredicted(steps, width)
            if found is not None:
                longer[: len(found)] = found
            found = self._predicted = longer
        return found

    def _add_call(self, call: _OpenCall, done: StepDone) -> None:
        """Add the call's row of `calls`."""
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
        self._ranks.add(call.ranks)
        phase, tokens, start_ns = call.started
        row = (phase, call.first, len(tokens), start_ns)
        self._calls.append((*row, *call_times(done, *sums, switches)))

    def _layer_times(self, call: _OpenCall, served: _Switches) -> npt.NDArray[np.int32]:
        """The call's row of `layer_us`."""
        times = np.zeros((len(LAYER_PARTS), self._layers), np.int64)
        since, routing, lookup, waiting, installing, computing, reporting = times
        for routed in call.routed:
            routing[routed.layer] = routed.route_ns
        for layer, wait_ns, install_ns in call.waited:
            waiting[layer] += wait_ns
            installing[layer] += install_ns
        layers, start, ns, experts, report = served
        since[layers[:1]] = start[:1] - call.started.start_ns
        since[layers[1:]] = start[1:] - start[:-1] - ns[:-1]
        computing[layers], reporting[layers], lookup[layers] = experts, report, ns
        lookup -= routing + waiting + installing + computing + reporting
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

    def trace(self, info: TraceInfo, kinds: bytes = b"") -> Trace:
        """The trace so far, without a call that an interrupt or an error ended.

        Args:
            kinds: of the tokens read and of the last one sampled; too few are filled up.
        """
        self._copy_complete()
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
            **self._by_layer(),
            **self._ranks.arrays(len(self._calls)),
            kl=kl,
            agrees=agrees,
            **arrays_of(None if self._predicted is None else self._predicted[:steps]),
            kinds=_kinds(kinds, steps),
        )

    def _by_layer(self) -> dict[str, Any]:
        """`layer_us`, if every call has it."""
        complete = len(self._layer_us) == len(self._calls) > 0
        return {"layer_us": np.stack(self._layer_us)} if complete else {}


def _kinds(kinds: bytes, steps: int) -> npt.NDArray[np.uint8]:
    """`kinds`, [steps + 1], `UNKNOWN` at the end where a run was cut short; [0] without."""
    whole = kinds[: steps + 1].ljust(steps + 1, bytes([UNKNOWN])) if kinds else b""
    return np.frombuffer(whole, np.uint8).copy()


def _compared(
    found: list[tuple[int, float, bool]], steps: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """`kl` and `agrees`, [steps]; empty if nothing was compared."""
    count = steps if found else 0
    kl, agrees = np.full(count, np.nan, np.float32), np.zeros(count, bool)
    for step, nats, same in found:
        kl[step], agrees[step] = nats, same
    return kl, agrees


def _switches(call: _OpenCall) -> _Switches:
    """The `Served` fields of the call's switches, in the order in which they ran."""
    resident: list[_Switches] = [
        (r.layers, r.start_ns, r.ns, r.ns, 0 * r.ns) for r in call.resident
    ]
    if len(resident) == 1 and not call.served:
        return resident[0]
    flat = np.fromiter(chain.from_iterable(call.served), np.int64, 5 * len(call.served))
    table = np.concatenate([flat.reshape(-1, 5).T, *resident], axis=1)
    return tuple(table[:, np.argsort(table[1], kind="stable")])


def _fill(
    into: npt.NDArray[Any],
    events: Sequence[Any],
    layers: list[npt.NDArray[Any]],
) -> None:
    """Write each event's layer, [steps, k], to its layer of `into`, [steps, layers, widest k]."""
    if layers and [event.layer for event in events] == list(range(into.shape[1])):
        joined = np.concatenate(layers, axis=1)
        if joined.size == into.size:
            # The usual case, all layers equally wide: one copy instead of one per layer.
            into[:] = joined.reshape(into.shape)
            return
    for event, layer in zip(events, layers, strict=True):
        into[:, event.layer, : layer.shape[1]] = layer
