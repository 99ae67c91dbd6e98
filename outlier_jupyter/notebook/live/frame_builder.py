"""Build frames for the live view from the events of a run, at most one every 50 ms.

Within a token frames are rarer: the routing of its layers is sent when the token is done, and until
then a frame contains only reads and evictions. Frames are also rarer where they are expensive to
build and send, or where the receiver requests it. A later frame contains more; nothing is lost.

A `FrameBuilder` is a subscriber: the decode thread calls it with every event, so it must cost next
to nothing. It only appends each event to a list. When a frame is due, a few NumPy calls fold the
list. It knows nothing of Jupyter: frames go to a callback.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ...events import (
    DECODE,
    PREFILL,
    CallStarted,
    Event,
    Evicted,
    PagedIn,
    PromptEncoded,
    ResidentLayers,
    Resized,
    Routed,
    RunDone,
    Served,
    StepDone,
    TextProduced,
    Waited,
)
from .accumulators import LayerColumns, OpenCall, PendingFrame
from .frame_head import NO_TOKEN
from .frames import Frame, Totals, utf16_units
from .merge_frames import History
from .order_column import Order, OrderColumn

INTERVAL_MS = 50.0

IN_TOKEN_FACTOR = 5
"""The least number of intervals between frames within a token: enough to show reads."""

COST_FACTOR = 200
"""The wait after a frame is at least its cost times this, so that frames take a 200th of a run's
time: recording and live view together should slow a run by 1 % at most."""

MAX_COST_WAIT_MS = 500.0
"""The longest wait for that reason, so that a view keeps moving where frames are expensive. The
first frame causes none: it contains all resident experts and is expensive once."""

# Whether a frame may end at an event. Not at StepDone: the text and the next call follow at once,
# and a frame without the text would show every token one frame late.
_MAY_EMIT = {
    PromptEncoded: False,
    CallStarted: True,
    Routed: True,
    Evicted: False,
    PagedIn: False,
    Waited: False,
    Served: False,
    ResidentLayers: False,
    StepDone: False,
    Resized: False,
    TextProduced: True,
    RunDone: True,
}


class FrameBuilder:
    """Folds the events of one run into frames and passes them to `on_frame`.

    `on_frame` is called on the thread that delivers the events (or calls `snapshot`), never by two
    at once. Events after `RunDone` belong to another run and are ignored.

    Args:
        layers: MoE layers of the model.
        experts: experts of its widest layer.
        slots: of the expert cache.
        resident_at_start: int16 [n, 2], the resident (layer, expert) pairs when the run begins.
        on_frame: called with each frame. If it returns a number, that is the least time until
            the next frame in ms.
        kernels: of the engine (`TraceInfo.kernels`); they define the parts of a token's time.
        order: the eviction order now; None if it is not to be sent.
        run: number of the run, carried by every frame.
        interval_ms: the least time between two frames; the last one is sent at once.
        clock: a monotonic clock in nanoseconds.
    """

    KINDS: tuple[type[Event], ...] = tuple(_MAY_EMIT)
    """The events that frames are built from; others are ignored."""

    def __init__(
        self,
        *,
        layers: int,
        experts: int,
        slots: int,
        resident_at_start: npt.NDArray[np.int16],
        on_frame: Callable[[Frame], object],
        kernels: str = "",
        order: Order | None = None,
        run: int = 0,
        interval_ms: float = INTERVAL_MS,
        clock: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self._shape = (layers, experts)
        self._slots = slots
        self._on_frame = on_frame
        self._kernels = kernels
        self._run = run
        self._interval_ns = round(interval_ms * 1e6)
        self._clock = clock
        self._due = 0  # the first frame ends at the first event where one may
        self._order = OrderColumn(order, clock)
        self._due_in_token = 0  # the same within a call of one token
        self._one_token = False  # whether the open call has one token
        self._began: int | None = None
        self._queue: list[Event] = []
        self._lock = threading.RLock()
        self._history = History()
        self._seq, self._done = 0, False
        self._prompt_tokens = 0
        self._text_units = 0
        self._totals = Totals()
        self._first_token = NO_TOKEN
        self._call = OpenCall(PREFILL, 0)
        self._columns = LayerColumns(experts)
        self._pending = PendingFrame()
        pairs = np.asarray(resident_at_start, np.int64).reshape(-1, 2)
        self._pending.resident = pairs[:, 0] * experts + pairs[:, 1]

    def __call__(self, event: Event) -> None:
        """Receive one event."""
        kind = type(event)
        may_emit = _MAY_EMIT.get(kind)
        if may_emit is None:
            return
        self._queue.append(event)
        if not may_emit:
            return
        if isinstance(event, CallStarted):
            self._one_token = len(event.tokens) == 1
        due = self._due_in_token if kind is Routed and self._one_token else self._due
        if self._clock() >= due or kind is RunDone:
            self._emit()

    def snapshot(self) -> Frame:
        """The whole state up to now; pending events are sent as a frame first."""
        with self._lock:
            if self._queue or not self._seq:
                self._emit()
            whole = self._history.snapshot()
        assert whole is not None  # _emit has added one
        return whole

    def _emit(self) -> None:
        """Fold the queued events and send one frame."""
        with self._lock:
            now = self._clock()
            if self._began is None:
                self._began = now
            # Two atomic steps: an event appended by another thread in between stays queued.
            events = self._queue[:]
            del self._queue[: len(events)]
            if self._done:
                return
            self._fold(events)
            order = self._order.fields(now, self._totals.steps, self._done)
            begin = self._clock() if order else now  # an order has a wait of its own
            frame = self._make_frame(now, order)
            self._history.add(frame)
            requested_ms = self._on_frame(frame)
            wait = requested_ms * 1e6 if isinstance(requested_ms, int | float) else 0
            if frame.since:
                wait = max(wait, min(COST_FACTOR * (self._clock() - begin), MAX_COST_WAIT_MS * 1e6))
            wait = round(wait)
            self._due = now + max(self._interval_ns, wait)
            self._due_in_token = now + max(IN_TOKEN_FACTOR * self._interval_ns, wait)

    def _fold(self, events: Sequence[Any]) -> None:
        """Add events to the pending frame and call. `Any`: isinstance is three times slower."""
        pending, call = self._pending, self._call
        move, width = pending.moves.append, self._shape[1]
        for event in events:
            kind = type(event)
            if kind is PagedIn:
                layer, expert, _, nbytes, _, ns, _ = event
                move(2 * (layer * width + expert) + 1)
                call.read_ns.append(ns)
                call.read_nbytes.append(nbytes)
                if call.tokens > 1:
                    call.read_rows.append(call.first_need(layer, expert, width))
            elif kind is Evicted:
                move(2 * (event.layer * width + event.expert))
                pending.evictions += 1
            elif kind is Routed:
                call.routed.append(event)
                if call.tokens > 1:
                    call.last, call.needs = event, None
            elif kind is Served:
                call.add_served(*event[2:])
            elif kind is Waited:
                _, wait_ns, install_ns = event
                call.wait_ns += wait_ns
                call.install_ns += install_ns
            elif kind is ResidentLayers:
                call.resident.append(event)
            elif kind is CallStarted:
                self._assign_moves(call)
                call = self._call = OpenCall(event.phase, len(event.tokens))
            elif kind is StepDone:
                self._close_call(call, event)
                call = self._call = OpenCall(PREFILL, 0)
            elif kind is TextProduced:
                self._text_units += utf16_units(event.text)
                pending.add_text(event.text, self._text_units)
            elif kind is Resized:
                self._slots = event.slots
            elif kind is PromptEncoded:
                self._prompt_tokens = len(event.tokens)
            elif kind is RunDone:
                self._done = True
                self._close_call(call, None)
                return
        self._assign_moves(call)
        if call.tokens > 1:
            # The routing of a single token is sent at its end, so that counts equal the sum over
            # the steps sent; a chunk of a prompt takes too long for that.
            call.fold(pending, self._columns)

    def _assign_moves(self, call: OpenCall) -> None:
        """Assign the reads and evictions since the last time to this call."""
        self._pending.assign_moves(self._totals.steps + max(1, call.tokens) - 1)

    def _close_call(self, call: OpenCall, done: StepDone | None) -> None:
        """End a call: its steps, reads and lookups become part of the pending frame.

        Args:
            call: the call.
            done: its last event; None if it was cut short. Its reads stay resident then, but as in
                the trace it makes no step and nothing of it is counted.
        """
        self._assign_moves(call)
        if done is None:
            return
        call.fold(self._pending, self._columns)
        tokens, decode = call.tokens, call.tokens if call.phase == DECODE else 0
        t, (hits, lookups) = self._totals, call.lookup_counts()
        self._totals = t._replace(
            steps=t.steps + tokens,
            lookups=t.lookups + lookups,
            hits=t.hits + hits,
            reads=t.reads + len(call.read_ns),
            nbytes=t.nbytes + sum(call.read_nbytes),
            decode_steps=t.decode_steps + decode,
            decode_lookups=t.decode_lookups + (lookups if decode else 0),
            decode_hits=t.decode_hits + (hits if decode else 0),
            decode_ns=t.decode_ns + (done.ns if decode else 0),
        )
        if done.produced >= 0:
            self._first_token = min(self._first_token, t.steps + tokens - 1)
        self._pending.steps.append(call.steps(done, self._text_units))
        self._pending.times.append(call.times(done))
        self._pending.routing.append(call.routing(self._shape[0]))

    def _make_frame(self, now: int, order: dict[str, Any]) -> Frame:
        """Make a frame of everything pending, with an order, and start an empty one."""
        pending, call, totals = self._pending, self._call, self._totals
        layers, experts = self._shape
        self._pending = PendingFrame()
        totals = self._totals = totals._replace(
            evictions=totals.evictions + pending.evictions, elapsed_ns=now - (self._began or now)
        )
        # The open call is included in this frame; it joins the totals when it ends.
        hits, lookups = call.lookup_counts()
        shown = totals._replace(
            lookups=totals.lookups + lookups,
            hits=totals.hits + hits,
            reads=totals.reads + len(call.read_ns),
            nbytes=totals.nbytes + sum(call.read_nbytes),
        )
        if self._done:
            shown = totals
        steps = pending.step_records(self._kernels)
        index, count = pending.expert_counts(layers * experts)
        moves = np.array(pending.moves, np.uint32)
        change_index, change_state = pending.state_changes(moves, layers * experts)
        experts_of, hits_of = pending.newest_routing(layers)
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
            text_start=self._text_units - utf16_units(text),
            steps=steps,
            count_index=index,
            count=count,
            change_index=change_index,
            change_state=change_state,
            experts_of=experts_of,
            hits_of=hits_of,
            move_step=np.array(pending.move_steps, np.uint32),
            move=moves,
            totals=shown,
            call_tokens=call.tokens,
            call_layers=call.layers,
            first_token=self._first_token,
            final=self._done,
            **order,
        )
        self._seq += 1
        return frame
