"""Events of a run → frames for the live view, at most one every 50 ms.

A `Feed` is a listener: it is called on the decode thread with every event, and must cost next to
nothing there. So an event is only put in a list; when a frame is due the list is folded with a
few NumPy calls. It knows nothing of Jupyter: whoever wants the frames gives a callback.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..events import (
    DECODE,
    PREFILL,
    CallStarted,
    Event,
    Evicted,
    PagedIn,
    PromptEncoded,
    Routed,
    RunDone,
    StepDone,
    TextProduced,
)
from .frames import STEP, Frame, History, Totals

INTERVAL_MS = 50.0

# What a frame tells something of; an event of another kind is dropped at once. True where a frame
# may be cut. Not at StepDone: the text and the next call follow it at once, and a frame cut before
# the text would show every token one frame late.
_TOLD = {
    PromptEncoded: False,
    CallStarted: True,
    Routed: True,
    Evicted: False,
    PagedIn: False,
    StepDone: False,
    TextProduced: True,
    RunDone: True,
}


class Feed:
    """Folds the events of one run into frames and hands them to `on_frame`.

    `on_frame` is called on the thread that delivers the events (or that asks for a snapshot),
    never by two at once. Events after `RunDone` belong to another run and are ignored.

    Args:
        layers: MoE layers of the model.
        experts: experts of its widest layer.
        slots: how many experts fit in RAM.
        resident_at_start: int16 [n, 2], the (layer, expert) pairs in RAM when the run begins.
        on_frame: called with each frame.
        run: number of the run, carried by every frame.
        interval_ms: the least time between two frames; the last one is sent at once.
        clock: nanoseconds that never go back.
    """

    def __init__(
        self,
        *,
        layers: int,
        experts: int,
        slots: int,
        resident_at_start: npt.NDArray[np.int16],
        on_frame: Callable[[Frame], object],
        run: int = 0,
        interval_ms: float = INTERVAL_MS,
        clock: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self._shape = (layers, experts)
        self._slots = slots
        self._on_frame = on_frame
        self._run = run
        self._interval_ns = round(interval_ms * 1e6)
        self._clock = clock
        self._due = 0  # the first frame goes out with the first event that allows a cut
        self._began: int | None = None
        self._queue: list[Event] = []
        self._lock = threading.RLock()
        self._history = History()
        self._seq = 0
        self._done = False
        self._prompt_tokens = 0
        self._text_bytes = 0
        self._totals = Totals()
        self._call = _Call(PREFILL, 0)
        self._pending = _Pending(experts)
        pairs = np.asarray(resident_at_start, np.int64).reshape(-1, 2)
        self._pending.changes = dict.fromkeys((pairs[:, 0] * experts + pairs[:, 1]).tolist(), 1)

    def __call__(self, event: Event) -> None:
        """Take one event."""
        kind = type(event)
        may_cut = _TOLD.get(kind)
        if may_cut is None:
            return
        self._queue.append(event)
        if may_cut and (self._clock() >= self._due or kind is RunDone):
            self._cut()

    def snapshot(self) -> Frame:
        """The whole state up to now; what no frame has told yet goes out as one first."""
        with self._lock:
            if self._queue or not self._seq:
                self._cut()
            whole = self._history.snapshot()
        assert whole is not None  # _cut has just added a frame where there was none
        return whole

    def _cut(self) -> None:
        """Fold what is queued and hand out one frame."""
        with self._lock:
            now = self._clock()
            self._due = now + self._interval_ns
            if self._began is None:
                self._began = now
            # Taken as two steps that each are atomic: an event that another thread appends
            # between them stays in the queue.
            events = self._queue[:]
            del self._queue[: len(events)]
            if self._done:
                return
            self._fold(events)
            frame = self._frame(now)
            self._history.add(frame)
            self._on_frame(frame)

    def _fold(self, events: Sequence[Any]) -> None:
        """Sort the events into what is pending. `Any`: isinstance would cost three times more."""
        pending, call = self._pending, self._call
        changes, width = pending.changes, self._shape[1]
        for event in events:
            kind = type(event)
            if kind is PagedIn:
                layer, expert, _, nbytes, _, ns = event
                changes[layer * width + expert] = 1
                call.read_ns.append(ns)
                call.read_nbytes.append(nbytes)
                if call.tokens > 1:
                    call.read_rows.append(call.first_need(layer, expert, width))
            elif kind is Evicted:
                changes[event.layer * width + event.expert] = 0
                pending.evictions += 1
            elif kind is Routed:
                call.routed.append(event)
                call.last, call.needs = event, None
            elif kind is CallStarted:
                call = self._call = _Call(event.phase, len(event.tokens), call)
            elif kind is StepDone:
                self._close(call, event.ns)
                call = self._call = _Call(PREFILL, 0)
            elif kind is TextProduced:
                pending.text.append(event.text)
            elif kind is PromptEncoded:
                self._prompt_tokens = len(event.tokens)
            elif kind is RunDone:
                self._done = True
                self._close(call, None)
                return
        call.fold(pending)

    def _close(self, call: _Call, ns: int | None) -> None:
        """The call is over, after `ns`: its steps, reads and look-ups become part of the frame.

        None: it was cut short. What it chose and read did happen and stays counted, but it makes
        no step, as in the trace.
        """
        call.fold(self._pending)
        tokens = 0 if ns is None else call.tokens
        decode = tokens if call.phase == DECODE else 0
        t, (hits, asked) = self._totals, call.counted()
        self._totals = t._replace(
            steps=t.steps + tokens,
            lookups=t.lookups + asked,
            hits=t.hits + hits,
            reads=t.reads + len(call.read_ns),
            nbytes=t.nbytes + sum(call.read_nbytes),
            decode_steps=t.decode_steps + decode,
            decode_lookups=t.decode_lookups + (asked if decode else 0),
            decode_hits=t.decode_hits + (hits if decode else 0),
            decode_ns=t.decode_ns + (ns or 0 if decode else 0),
        )
        if ns is not None:
            self._pending.steps.append(call.steps(ns))

    def _frame(self, now: int) -> Frame:
        """The frame of everything pending, which is empty afterwards."""
        pending, call, totals = self._pending, self._call, self._totals
        layers, experts = self._shape
        self._pending = _Pending(experts)
        totals = self._totals = totals._replace(
            evictions=totals.evictions + pending.evictions, elapsed_ns=now - (self._began or now)
        )
        # The open call counts in what is shown, and joins the totals for good when it ends.
        hits, asked = call.counted()
        shown = totals._replace(
            lookups=totals.lookups + asked,
            hits=totals.hits + hits,
            reads=totals.reads + len(call.read_ns),
            nbytes=totals.nbytes + sum(call.read_nbytes),
        )
        if self._done:
            shown = totals
        steps = pending.stepped()
        index, count = pending.counted(layers * experts)
        changes = sorted(pending.changes.items())
        text = "".join(pending.text)
        frame = Frame(
            run=self._run,
            seq=self._seq + 1,
            since=self._seq,
            first_step=totals.steps - len(steps),
            layers=layers,
            experts=experts,
            slots=self._slots,
            prompt_tokens=self._prompt_tokens,
            text=text,
            text_start=self._text_bytes,
            steps=steps,
            count_index=index,
            count=count,
            change_index=np.array([expert for expert, _ in changes], np.uint32),
            change_state=np.array([state for _, state in changes], np.uint8),
            totals=shown,
            final=self._done,
        )
        self._seq += 1
        self._text_bytes += len(text.encode("utf-8", "replace"))
        return frame


class _Pending:
    """What the next frame will tell, apart from the call that is still open."""

    def __init__(self, experts: int) -> None:
        self.experts = experts
        self.steps: list[npt.NDArray[np.void]] = []
        self.chosen: list[npt.NDArray[np.int64]] = []
        self.changes: dict[int, int] = {}
        self.text: list[str] = []
        self.evictions = 0

    def counted(self, size: int) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
        """How often each expert was chosen, sparse and sorted by its number below `size`."""
        if not self.chosen:
            return np.zeros(0, np.uint32), np.zeros(0, np.uint32)
        # np.unique would sort: four times the cost for one token, a hundred times for a prompt.
        counts = np.bincount(np.concatenate(self.chosen), minlength=size)
        index = np.flatnonzero(counts)
        return index.astype(np.uint32), counts[index].astype(np.uint32)

    def stepped(self) -> npt.NDArray[np.void]:
        """The step records in one array. np.concatenate takes 40 µs to compare the two dtypes."""
        if len(self.steps) == 1:
            return self.steps[0]
        out = np.zeros(sum(map(len, self.steps)), STEP)
        at = 0
        for part in self.steps:
            out[at : at + len(part)] = part
            at += len(part)
        return out


class _Call:
    """One call of the model while it lasts: its look-ups and reads so far.

    Reads made between two calls (by a look-ahead) belong to the later one: `before` hands them on.
    """

    def __init__(self, phase: int, tokens: int, before: _Call | None = None) -> None:
        self.phase = phase
        self.tokens = tokens
        self.routed: list[Routed] = []
        self.last: Routed | None = None
        self.needs: npt.NDArray[np.intp] | None = None
        self.hits = np.zeros(tokens, np.int64)
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

    def fold(self, pending: _Pending) -> None:
        """Count the choices routed since the last fold, all layers in one go."""
        rows, self.routed = self.routed, []
        if not rows:
            return
        experts = np.concatenate([row.experts for row in rows], axis=1)
        hits = np.concatenate([row.hits for row in rows], axis=1)
        widths = [row.experts.shape[1] for row in rows]
        offsets = np.repeat([row.layer * pending.experts for row in rows], widths)
        pending.chosen.append((experts + offsets).ravel())
        self.hits += hits.sum(axis=1)
        self.asked += hits.shape[1]

    def counted(self) -> tuple[int, int]:
        """Hits and look-ups so far, over all tokens."""
        return int(self.hits.sum()), self.asked * self.tokens

    def steps(self, ns: int) -> npt.NDArray[np.void]:
        """The records of this call's tokens, which share its time equally."""
        out = np.zeros(self.tokens, STEP)
        if not self.tokens:
            return out
        out["token_ms"] = ns / 1e6 / self.tokens
        out["hits"] = self.hits
        out["misses"] = self.asked - self.hits
        for name in ("read_p50_ms", "read_p95_ms", "read_max_ms"):
            out[name] = np.nan
        out["phase"] = self.phase
        if self.tokens == 1:
            _tell_reads(out, 0, self.read_ns, sum(self.read_nbytes))
            return out
        groups: dict[int, list[int]] = {}
        for row, read_ns in zip(self.read_rows, self.read_ns, strict=True):
            groups.setdefault(row, []).append(read_ns)
        nbytes = np.bincount(self.read_rows, self.read_nbytes, minlength=1)
        for row, latencies in groups.items():
            _tell_reads(out, row, latencies, nbytes[row])
        return out


def _tell_reads(out: npt.NDArray[np.void], row: int, ns: list[int], nbytes: float) -> None:
    """Write the reads of one token into its record."""
    if not ns:
        return
    ordered = sorted(ns)
    record = out[row]
    record["nbytes"] = nbytes
    record["reads"] = len(ordered)
    record["read_p50_ms"] = _quantile(ordered, 0.5) / 1e6
    record["read_p95_ms"] = _quantile(ordered, 0.95) / 1e6
    record["read_max_ms"] = ordered[-1] / 1e6


def _quantile(ordered: list[int], q: float) -> float:
    """NumPy's linear rule. np.quantile itself costs 60 µs a call, a tenth of a fast token."""
    at = (len(ordered) - 1) * q
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)
