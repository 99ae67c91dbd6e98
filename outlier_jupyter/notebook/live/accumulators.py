"""The state of a frame builder between two frames: the open call, and the pending frame.

An `OpenCall` collects the lookups, reads and times of one call of the model until the records of
its tokens are made. A `PendingFrame` collects the content of the next frame. Both combine many
events with a few NumPy calls. They know no clocks, threads or subscribers.
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
from .merge_frames import UNCHANGED, routing_rows, widened

CACHED_LAYER_SETS = 64
"""How many sets of layers to cache: frames may end anywhere in a call, which makes many sets."""

NO_PARTS = (math.nan,) * len(PARTS)

Routing: TypeAlias = tuple[npt.NDArray[np.uint16], npt.NDArray[np.bool_]]
"""The experts of some steps, uint16 [steps, layers, k], and which were resident, bool."""

_CALL = np.dtype([(name, np.int64) for name in TIMES])

_Part: TypeAlias = tuple[list[int], list[int], npt.NDArray[np.int32], npt.NDArray[np.bool_]]
"""Layers, each one's number of experts, and their experts and hits, [tokens, sum of numbers]."""


class PendingFrame:
    """The content of the next frame, except for the open call."""

    def __init__(self) -> None:
        self.steps: list[npt.NDArray[np.void]] = []
        self.times: list[tuple[int, ...]] = []  # `TIMES` of each call in `steps`
        self.routing: list[Routing] = []
        self.chosen: list[npt.NDArray[np.int64]] = []
        self.resident = np.zeros(0, np.int64)  # at the start of the run; sent once
        self.moves: list[int] = []
        self.move_steps: list[int] = []
        self.text: list[str] = []
        self.evictions = 0

    def add_text(self, text: str, end: int) -> None:
        """Add text; it belongs to the last step, if that is still pending."""
        self.text.append(text)
        if self.steps and len(self.steps[-1]):
            self.steps[-1]["text_end"][-1] = end

    def assign_moves(self, step: int) -> None:
        """Assign the moves since the last call of this method to `step`."""
        self.move_steps += [step] * (len(self.moves) - len(self.move_steps))

    def state_changes(
        self, moves: npt.NDArray[np.uint32], size: int
    ) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint8]]:
        """The experts paged in or evicted, sorted by number, and the last state of each.

        Args:
            moves: `self.moves` as an array.
            size: the number of experts.
        """
        if not len(moves) and not len(self.resident):
            return np.zeros(0, np.uint32), np.zeros(0, np.uint8)
        states = np.full(size, UNCHANGED, np.uint8)
        states[self.resident] = 1
        states[moves >> 1] = moves & 1  # with repeated indices the last assignment wins
        index = np.flatnonzero(states != UNCHANGED)
        return index.astype(np.uint32), states[index]

    def newest_routing(self, layers: int) -> Routing:
        """The routing of the newest steps, as many as a snapshot keeps."""
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

    def expert_counts(self, size: int) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
        """How often each expert was chosen: numbers below `size`, sorted, and counts."""
        if not self.chosen:
            return np.zeros(0, np.uint32), np.zeros(0, np.uint32)
        chosen = self.chosen[0] if len(self.chosen) == 1 else np.concatenate(self.chosen)
        if 4 * len(chosen) > size:  # a prompt: sorting costs a hundred times as much
            counts = np.bincount(chosen, minlength=size)
            index = np.flatnonzero(counts)
            return index.astype(np.uint32), counts[index].astype(np.uint32)
        # A few tokens: sorting brings equal numbers together. np.unique does the same, slower.
        chosen = np.sort(chosen)
        new = np.ones(len(chosen) + 1, bool)
        np.not_equal(chosen[1:], chosen[:-1], out=new[1:-1])
        at = np.flatnonzero(new)
        return chosen[at[:-1]].astype(np.uint32), (at[1:] - at[:-1]).astype(np.uint32)

    def step_records(self, kernels: str) -> npt.NDArray[np.void]:
        """The step records of all calls in one array, with their times divided into parts."""
        if not self.steps:
            return np.zeros(0, STEP)
        # np.concatenate takes 40 µs to compare two structured dtypes.
        lengths = [len(part) for part in self.steps]
        out = self.steps[0] if len(lengths) == 1 else np.zeros(sum(lengths), STEP)
        at = 0
        for part in self.steps if len(lengths) > 1 else ():
            out[at : at + len(part)] = part
            at += len(part)
        parts = divide(np.array(self.times, _CALL), kernels)
        if len(out) == len(lengths):  # one token per call
            out["parts_ms"] = parts
        else:
            tokens = np.array(lengths)
            out["parts_ms"] = np.repeat(parts / np.maximum(tokens, 1)[:, None], tokens, axis=0)
        return out


class LayerColumns:
    """For each column of side-by-side routing, the first expert number of its layer.

    A model runs the same layers in every call, so results are cached.
    """

    def __init__(self, experts: int) -> None:
        self._experts = experts  # of the widest layer
        self._cache: dict[tuple[int, ...], tuple[list[int], npt.NDArray[np.int64]]] = {}

    def of(
        self, layers: tuple[int, ...], chosen: Iterable[npt.NDArray[np.int32]], total: int
    ) -> tuple[list[int], npt.NDArray[np.int64]]:
        """The width of each layer's array in `chosen`, and the first expert number of the layer of
        each of the `total` columns, int64 [total].
        """
        columns = self._cache.get(layers)
        if columns is None or len(columns[1]) != total:
            widths = [row.shape[1] for row in chosen]
            columns = widths, np.repeat(np.array(layers) * self._experts, widths)
            if len(self._cache) < CACHED_LAYER_SETS:
                self._cache[layers] = columns
        return columns


class OpenCall:
    """The current call of the model: its lookups and reads so far."""

    def __init__(self, phase: int, tokens: int) -> None:
        self.phase = phase
        self.tokens = tokens
        self.routed: list[Routed] = []
        self.resident: list[ResidentLayers] = []
        self.last: Routed | None = None
        self.needs: npt.NDArray[np.intp] | None = None
        self.hits = np.zeros(tokens, np.int64)
        self.layers = 0  # routed so far
        self.parts: list[_Part] = []
        self.route_ns = self.lookup_ns = self.wait_ns = self.install_ns = 0
        self.served: list[int] | None = None  # ns of its switches: total, experts, reporting
        self.lookups = 0  # of each token, over all layers routed so far
        self.read_ns: list[int] = []
        self.read_nbytes: list[int] = []
        self.read_rows: list[int] = []  # the token of each read; unused with one token

    def first_need(self, layer: int, expert: int, width: int) -> int:
        """The first token of this call that chose `expert` in the layer routed last."""
        if self.last is None or self.last.layer != layer:
            return 0
        if self.needs is None:
            experts = self.last.experts
            self.needs = np.zeros(width, np.intp)
            # In reverse order, so that the first token of each expert is assigned last.
            rows = np.repeat(np.arange(len(experts)), experts.shape[1])
            self.needs[experts.ravel()[::-1]] = rows[::-1]
        return int(self.needs[expert])

    def fold(self, pending: PendingFrame, columns: LayerColumns) -> None:
        """Count the routing since the last fold, all layers at once."""
        rows, self.routed = self.routed, []
        if rows:
            # Transposed once: access to single fields of named tuples costs more.
            layers, chosen, found, route_ns, lookup_ns = zip(*rows, strict=True)
            hits = np.concatenate(found, axis=1)
            self._count(pending, columns, layers, chosen, np.concatenate(chosen, axis=1), hits)
            self.route_ns += sum(route_ns)
            self.lookup_ns += sum(lookup_ns)
        together, self.resident = self.resident, []
        for part in together:
            ns = int(part.ns.sum())
            self.add_served(ns, ns, 0)
            experts = part.experts.reshape(1, -1)
            layers, hits = tuple(part.layers.tolist()), np.ones(experts.shape, bool)
            self._count(pending, columns, layers, part.experts[:, None], experts, hits)

    def add_served(self, ns: int, experts_ns: int, report_ns: int) -> None:
        """Add the times that a switch reported, in ns."""
        if self.served is None:
            self.served = [0, 0, 0]
        served = self.served
        served[0] += ns
        served[1] += experts_ns
        served[2] += report_ns

    def times(self, done: StepDone) -> tuple[int, ...]:
        """The `TIMES` of this call, at its end."""
        sums = (self.route_ns, self.lookup_ns, self.wait_ns, self.install_ns)
        served = None if self.served is None else (self.served[0], self.served[1], self.served[2])
        return call_times(done, *sums, served)

    def _count(
        self,
        pending: PendingFrame,
        columns: LayerColumns,
        layers: tuple[int, ...],
        chosen: Iterable[npt.NDArray[np.int32]],
        experts: npt.NDArray[np.int32],
        hits: npt.NDArray[np.bool_],
    ) -> None:
        """Count `chosen` of `layers`, [tokens, k] each; `experts` and `hits` have all columns."""
        widths, first = columns.of(layers, chosen, experts.shape[1])
        pending.chosen.append((experts + first).ravel())
        self.parts.append(([*layers], widths, experts, hits))
        self.hits += hits.sum(axis=1)
        self.lookups += hits.shape[1]
        self.layers += len(layers)

    def routing(self, layers: int) -> Routing:
        """The experts that each token of this call chose, and which were resident."""
        k = max((max(widths) for _, widths, _, _ in self.parts), default=0)
        if [layer for part in self.parts for layer in part[0]] == list(range(layers)) and all(
            widths.count(k) == len(widths) for _, widths, _, _ in self.parts
        ):
            # The usual case, all layers alike: two copies instead of one per layer.
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

    def lookup_counts(self) -> tuple[int, int]:
        """Hits and lookups so far, over all tokens."""
        return int(self.hits.sum()), self.lookups * self.tokens

    def steps(self, done: StepDone, text_end: int) -> npt.NDArray[np.void]:
        """The records of this call's tokens, with equal shares of its time, without `parts_ms`."""
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
        out["misses"] = self.lookups - self.hits
        for name in ("read_p50_ms", "read_p95_ms", "read_max_ms"):
            out[name] = np.nan
        out["phase"] = self.phase
        groups: dict[int, list[int]] = {}
        for row, read_ns in zip(self.read_rows, self.read_ns, strict=True):
            groups.setdefault(row, []).append(read_ns)
        nbytes = np.bincount(self.read_rows, self.read_nbytes, minlength=1)
        for row, latencies in groups.items():
            _write_reads(out, row, latencies, nbytes[row])
        return out

    def _step(self, done: StepDone, text_end: int) -> tuple[object, ...]:
        """The record of a call of one token, as a tuple: one assignment writes it."""
        hits = int(self.hits[0])
        return (
            sum(self.read_nbytes),
            done.ns / 1e6,
            *_latencies(self.read_ns),
            NO_PARTS,
            hits,
            self.lookups - hits,
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


def _write_reads(out: npt.NDArray[np.void], row: int, ns: list[int], nbytes: float) -> None:
    """Write the reads of one token into its record."""
    if not ns:
        return
    record = out[row]
    record["nbytes"] = nbytes
    record["reads"] = len(ns)
    record["read_p50_ms"], record["read_p95_ms"], record["read_max_ms"] = _latencies(ns)


def _quantile(ordered: list[int], q: float) -> float:
    """NumPy's linear quantile. np.quantile costs 60 µs a call, a tenth of a fast token."""
    at = (len(ordered) - 1) * q
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)
