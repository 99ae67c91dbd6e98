"""What a feed holds between two frames: the call that is open, and what is to be told.

An `OpenCall` gathers the look-ups, reads and times of one call of the model until its tokens'
records can be made of them; `Pending` gathers what the next frame tells. Both fold with a few
NumPy calls what came one by one. They know nothing of clocks, threads or who listens.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from ...events import ResidentLayers, Routed, StepDone
from ...trace.time_parts import PARTS, TIMES, call_times, divide
from .frames import NO_EXPERT, STEP
from .merge_frames import UNNAMED, routing_rows, widened

KNOWN_ROWS = 64
"""Frames that cut a call anywhere ask for many different rows of layers; so many are kept."""

NO_PARTS = (math.nan,) * len(PARTS)

Routing: TypeAlias = tuple[npt.NDArray[np.uint16], npt.NDArray[np.bool_]]
"""What some steps chose, uint16 [steps, layers, k], and which of it was resident, bool."""

_CALL = np.dtype([(name, np.int64) for name in TIMES])

_Part: TypeAlias = tuple[list[int], list[int], npt.NDArray[np.int32], npt.NDArray[np.bool_]]
"""Layers, how many experts each chose, and all of these side by side: [tokens, sum of them]."""


class Pending:
    """What the next frame will tell, apart from the call that is still open."""

    def __init__(self) -> None:
        self.steps: list[npt.NDArray[np.void]] = []
        self.times: list[tuple[int, ...]] = []  # `TIMES` of each call that `steps` lists
        self.routing: list[Routing] = []
        self.chosen: list[npt.NDArray[np.int64]] = []
        self.resident = np.zeros(0, np.int64)  # when the run began; told once
        self.moves: list[int] = []
        self.move_steps: list[int] = []
        self.text: list[str] = []
        self.evictions = 0

    def say(self, text: str, end: int) -> None:
        """Text that was let go of belongs to the step before it, if that is still here."""
        self.text.append(text)
        if self.steps and len(self.steps[-1]):
            self.steps[-1]["text_end"][-1] = end

    def book_moves(self, step: int) -> None:
        """The moves since the last time were made during `step`."""
        self.move_steps += [step] * (len(self.moves) - len(self.move_steps))

    def changed(
        self, moves: npt.NDArray[np.uint32], size: int
    ) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint8]]:
        """Each expert that came or went, sorted by its number below `size`, and its last state.

        `moves` is what `self.moves` lists.
        """
        if not len(moves) and not len(self.resident):
            return np.zeros(0, np.uint32), np.zeros(0, np.uint8)
        states = np.full(size, UNNAMED, np.uint8)
        states[self.resident] = 1
        states[moves >> 1] = moves & 1  # of several moves of an expert the last one stays
        index = np.flatnonzero(states != UNNAMED)
        return index.astype(np.uint32), states[index]

    def routed(self, layers: int) -> Routing:
        """What the steps chose, of the newest as many as are kept."""
        parts = self.routing
        if not parts:
            return np.zeros((0, layers, 0), np.uint16), np.zeros((0, layers, 0), bool)
        if len(parts) == 1:
            experts, hits = parts[0]
        else:
            k = max(experts.shape[2] for experts, _ in parts)
            experts = np.concatenate([widened(part, k, NO_EXPERT) for part, _ in parts])
            hits = np.concatenate([widened(part, k, False) for _, part in parts])
        first = max(0, len(experts) - routing_rows(*experts.shape[1:]))
        return experts[first:], hits[first:]

    def counted(self, size: int) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
        """How often each expert was chosen, sparse and sorted by its number below `size`."""
        if not self.chosen:
            return np.zeros(0, np.uint32), np.zeros(0, np.uint32)
        chosen = self.chosen[0] if len(self.chosen) == 1 else np.concatenate(self.chosen)
        if 4 * len(chosen) > size:  # a prompt: sorting would cost a hundred times as much
            counts = np.bincount(chosen, minlength=size)
            index = np.flatnonzero(counts)
            return index.astype(np.uint32), counts[index].astype(np.uint32)
        # A few tokens: sorted, equal numbers stand side by side. np.unique does the same, slower.
        chosen = np.sort(chosen)
        new = np.ones(len(chosen) + 1, bool)
        np.not_equal(chosen[1:], chosen[:-1], out=new[1:-1])
        at = np.flatnonzero(new)
        return chosen[at[:-1]].astype(np.uint32), (at[1:] - at[:-1]).astype(np.uint32)

    def stepped(self, kernels: str) -> npt.NDArray[np.void]:
        """The step records in one array, their times divided: all calls' in one go."""
        if not self.steps:
            return np.zeros(0, STEP)
        # np.concatenate takes 40 µs to compare the two dtypes.
        lengths = [len(part) for part in self.steps]
        out = self.steps[0] if len(lengths) == 1 else np.zeros(sum(lengths), STEP)
        at = 0
        for part in self.steps if len(lengths) > 1 else ():
            out[at : at + len(part)] = part
            at += len(part)
        parts = divide(np.array(self.times, _CALL), kernels)
        if len(out) == len(lengths):  # tokens one by one
            out["parts_ms"] = parts
        else:
            tokens = np.array(lengths)
            out["parts_ms"] = np.repeat(parts / np.maximum(tokens, 1)[:, None], tokens, axis=0)
        return out


class Rows:
    """How many experts each layer chooses, and the numbers its experts begin at.

    A model asks the same layers in every call, so what was worked out once is kept.
    """

    def __init__(self, experts: int) -> None:
        self._experts = experts  # of the widest layer
        self._known: dict[tuple[int, ...], tuple[list[int], npt.NDArray[np.int64]]] = {}

    def of(
        self, layers: tuple[int, ...], chosen: Iterable[npt.NDArray[np.int32]], total: int
    ) -> tuple[list[int], npt.NDArray[np.int64]]:
        """Of each layer's row of `chosen` its width, and of each of its `total` columns the first
        number of its layer's experts: int64 [total].
        """
        known = self._known.get(layers)
        if known is None or len(known[1]) != total:
            widths = [row.shape[1] for row in chosen]
            known = widths, np.repeat(np.array(layers) * self._experts, widths)
            if len(self._known) < KNOWN_ROWS:
                self._known[layers] = known
        return known


class OpenCall:
    """One call of the model while it lasts: its look-ups and reads so far.

    Reads made between two calls (by a look-ahead) belong to the later one: `before` hands them on.
    """

    def __init__(self, phase: int, tokens: int, before: OpenCall | None = None) -> None:
        self.phase = phase
        self.tokens = tokens
        self.routed: list[Routed] = []
        self.held: list[ResidentLayers] = []
        self.last: Routed | None = None
        self.needs: npt.NDArray[np.intp] | None = None
        self.hits = np.zeros(tokens, np.int64)
        self.layers = 0  # routed so far
        self.parts: list[_Part] = []
        self.route_ns = self.lookup_ns = self.wait_ns = self.install_ns = 0
        self.served: list[int] | None = None  # of its switches: in all, experts, telling
        self.asked = 0  # look-ups of each token, over all layers routed so far
        self.read_ns: list[int] = before.read_ns if before else []
        self.read_nbytes: list[int] = before.read_nbytes if before else []
        self.read_rows = [0] * len(self.read_ns)  # which token a read was for; with one, unused

    def first_need(self, layer: int, expert: int, width: int) -> int:
        """The first token of this call that chose `expert` in the layer just routed."""
        if self.last is None or self.last.layer != layer:
            return 0
        if self.needs is None:
            experts = self.last.experts
            self.needs = np.zeros(width, np.intp)
            # Written backwards, so that the first of equals is what stays.
            rows = np.repeat(np.arange(len(experts)), experts.shape[1])
            self.needs[experts.ravel()[::-1]] = rows[::-1]
        return int(self.needs[expert])

    def fold(self, pending: Pending, known: Rows) -> None:
        """Count the choices told since the last fold, all layers in one go."""
        rows, self.routed = self.routed, []
        if rows:
            # Turned into columns once: a named tuple's fields cost more one by one.
            layers, chosen, found, route_ns, lookup_ns = zip(*rows, strict=True)
            hits = np.concatenate(found, axis=1)
            self._count(pending, known, layers, chosen, np.concatenate(chosen, axis=1), hits)
            self.route_ns += sum(route_ns)
            self.lookup_ns += sum(lookup_ns)
        together, self.held = self.held, []
        for held in together:
            ns = int(held.ns.sum())
            self.serve(ns, ns, 0)
            experts = held.experts.reshape(1, -1)
            layers, hits = tuple(held.layers.tolist()), np.ones(experts.shape, bool)
            self._count(pending, known, layers, held.experts[:, None], experts, hits)

    def serve(self, ns: int, experts_ns: int, report_ns: int) -> None:
        """A switch told how long it took."""
        if self.served is None:
            self.served = [0, 0, 0]
        served = self.served
        served[0] += ns
        served[1] += experts_ns
        served[2] += report_ns

    def times(self, done: StepDone) -> tuple[int, ...]:
        """The `TIMES` of this call, which is over."""
        sums = (self.route_ns, self.lookup_ns, self.wait_ns, self.install_ns)
        served = None if self.served is None else (self.served[0], self.served[1], self.served[2])
        return call_times(done, *sums, served)

    def _count(
        self,
        pending: Pending,
        known: Rows,
        layers: tuple[int, ...],
        chosen: Iterable[npt.NDArray[np.int32]],
        experts: npt.NDArray[np.int32],
        hits: npt.NDArray[np.bool_],
    ) -> None:
        """Count what `layers` have `chosen`, [tokens, k] each; side by side in the last two."""
        widths, first = known.of(layers, chosen, experts.shape[1])
        pending.chosen.append((experts + first).ravel())
        self.parts.append(([*layers], widths, experts, hits))
        self.hits += hits.sum(axis=1)
        self.asked += hits.shape[1]
        self.layers += len(layers)

    def routing(self, layers: int) -> Routing:
        """Which experts each of this call's tokens chose, and whether they were there."""
        k = max((max(widths) for _, widths, _, _ in self.parts), default=0)
        if [layer for part in self.parts for layer in part[0]] == list(range(layers)) and all(
            widths.count(k) == len(widths) for _, widths, _, _ in self.parts
        ):
            # The usual case, all layers alike: two copies in place of one per layer.
            shape, parts = (self.tokens, layers, k), self.parts
            if not parts:
                return np.zeros(shape, np.uint16), np.zeros(shape, bool)
            _, _, experts, hits = parts[0]
            if len(parts) > 1:
                experts = np.concatenate([part[2] for part in parts], axis=1)
                hits = np.concatenate([part[3] for part in parts], axis=1)
            return experts.astype(np.uint16).reshape(shape), hits.reshape(shape)
        chosen = np.full((self.tokens, layers, k), NO_EXPERT, np.uint16)
        found = np.zeros(chosen.shape, bool)
        for names, widths, experts, hits in self.parts:
            at = 0
            for layer, n in zip(names, widths, strict=True):
                chosen[:, layer, :n] = experts[:, at : at + n]
                found[:, layer, :n] = hits[:, at : at + n]
                at += n
        return chosen, found

    def counted(self) -> tuple[int, int]:
        """Hits and look-ups so far, over all tokens."""
        return int(self.hits.sum()), self.asked * self.tokens

    def steps(self, done: StepDone, text_end: int) -> npt.NDArray[np.void]:
        """The records of this call's tokens, which share its time equally; not divided yet."""
        out = np.zeros(self.tokens, STEP)
        if not self.tokens:
            return out
        if self.tokens == 1:
            out[0] = self._step(done, text_end)
            return out
        share = 1e-6 / self.tokens
        out["token_ms"] = done.ns * share
        out["text_end"] = text_end
        out["hits"] = self.hits
        out["misses"] = self.asked - self.hits
        for name in ("read_p50_ms", "read_p95_ms", "read_max_ms"):
            out[name] = np.nan
        out["phase"] = self.phase
        groups: dict[int, list[int]] = {}
        for row, read_ns in zip(self.read_rows, self.read_ns, strict=True):
            groups.setdefault(row, []).append(read_ns)
        nbytes = np.bincount(self.read_rows, self.read_nbytes, minlength=1)
        for row, latencies in groups.items():
            _tell_reads(out, row, latencies, nbytes[row])
        return out

    def _step(self, done: StepDone, text_end: int) -> tuple[object, ...]:
        """The record of a call of one token: as a tuple, it is written in one go."""
        hits = int(self.hits[0])
        return (
            sum(self.read_nbytes),
            done.ns / 1e6,
            *_latencies(self.read_ns),
            NO_PARTS,
            hits,
            self.asked - hits,
            len(self.read_ns),
            text_end,
            self.phase,
        )


def _latencies(ns: list[int]) -> tuple[float, float, float]:
    """Median, 95th percentile and maximum in ms, NaN where nothing was read."""
    if not ns:
        return math.nan, math.nan, math.nan
    ordered = sorted(ns)
    return _quantile(ordered, 0.5) / 1e6, _quantile(ordered, 0.95) / 1e6, ordered[-1] / 1e6


def _tell_reads(out: npt.NDArray[np.void], row: int, ns: list[int], nbytes: float) -> None:
    """Write the reads of one token into its record."""
    if not ns:
        return
    record = out[row]
    record["nbytes"] = nbytes
    record["reads"] = len(ns)
    record["read_p50_ms"], record["read_p95_ms"], record["read_max_ms"] = _latencies(ns)


def _quantile(ordered: list[int], q: float) -> float:
    """NumPy's linear rule. np.quantile itself costs 60 µs a call, a tenth of a fast token."""
    at = (len(ordered) - 1) * q
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)
