"""Events of a run → frames for the live view, at most one every 50 ms.

Within a token there are fewer still: what its layers chose is told when the token is done, and
till then a frame tells only of arrivals and evictions. Fewer, too, where a frame costs much to
make and to hand out, or where who gets it asks for fewer: a frame that comes later tells more,
and nothing is lost.

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

from ...events import (
    DECODE,
    PREFILL,
    CallStarted,
    Event,
    Evicted,
    PagedIn,
    PromptEncoded,
    ResidentLayers,
    Routed,
    RunDone,
    Served,
    StepDone,
    TextProduced,
    Waited,
)
from .accumulators import OpenCall, Pending, Rows
from .frames import NO_TOKEN, Frame, Totals, utf16_units
from .merge_frames import History

INTERVAL_MS = 50.0

WITHIN = 5
"""In the middle of a token at least so many intervals lie between frames: enough to see reads."""

SPARE = 200
"""After a frame at least so many times what it cost passes, so that frames take a 200th of a run's
time: with what recording takes besides, a run that is watched is to be slower by 1 % at most."""

LONGEST_MS = 500.0
"""But no longer, so that a view keeps moving where frames are dear; and not after the first one,
which tells of all experts in RAM and is dear once."""

# Whether a frame may be cut at an event. Not at StepDone: the text and the next call follow it at
# once, and a frame cut before the text would show every token one frame late.
_MAY_CUT = {
    PromptEncoded: False,
    CallStarted: True,
    Routed: True,
    Evicted: False,
    PagedIn: False,
    Waited: False,
    Served: False,
    ResidentLayers: False,
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
        on_frame: called with each frame. A number that it returns is the least time until the
            next one in ms; anything else asks for nothing.
        kernels: of the engine (`TraceInfo.kernels`): which parts of a token's time there are.
        run: number of the run, carried by every frame.
        interval_ms: the least time between two frames; the last one is sent at once.
        clock: nanoseconds that never go back.
    """

    KINDS: tuple[type[Event], ...] = tuple(_MAY_CUT)
    """The events that frames are made of; others are passed over."""

    def __init__(
        self,
        *,
        layers: int,
        experts: int,
        slots: int,
        resident_at_start: npt.NDArray[np.int16],
        on_frame: Callable[[Frame], object],
        kernels: str = "",
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
        self._due = 0  # the first frame goes out with the first event that allows a cut
        self._due_within = 0  # the same, where a call of one token is not over
        self._alone = False  # the call that is open is over one token
        self._began: int | None = None
        self._queue: list[Event] = []
        self._lock = threading.RLock()
        self._history = History()
        self._seq = 0
        self._done = False
        self._prompt_tokens = 0
        self._text_units = 0
        self._totals = Totals()
        self._first_token = NO_TOKEN
        self._call = OpenCall(PREFILL, 0)
        self._rows = Rows(experts)
        self._pending = Pending()
        pairs = np.asarray(resident_at_start, np.int64).reshape(-1, 2)
        self._pending.resident = pairs[:, 0] * experts + pairs[:, 1]

    def __call__(self, event: Event) -> None:
        """Take one event."""
        kind = type(event)
        may_cut = _MAY_CUT.get(kind)
        if may_cut is None:
            return
        self._queue.append(event)
        if not may_cut:
            return
        if isinstance(event, CallStarted):
            self._alone = len(event.tokens) == 1
        due = self._due_within if kind is Routed and self._alone else self._due
        if self._clock() >= due or kind is RunDone:
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
            wanted = self._on_frame(frame)
            wait = wanted * 1e6 if isinstance(wanted, int | float) else 0
            if frame.since:
                wait = max(wait, min(SPARE * (self._clock() - now), LONGEST_MS * 1e6))
            wait = round(wait)
            self._due = now + max(self._interval_ns, wait)
            self._due_within = now + max(WITHIN * self._interval_ns, wait)

    def _fold(self, events: Sequence[Any]) -> None:
        """Sort the events into what is pending. `Any`: isinstance would cost three times more."""
        pending, call = self._pending, self._call
        move, width = pending.moves.append, self._shape[1]
        for event in events:
            kind = type(event)
            if kind is PagedIn:
                layer, expert, _, nbytes, _, ns = event
                move(2 * (layer * width + expert) + 1)
                call.read_ns.append(ns)
                call.read_nbytes.append(nbytes)
                if call.tokens > 1:
                    call.read_rows.append(call.first_need(layer, expert, width))
            elif kind is Evicted:
                layer, expert, _, _, _ = event
                move(2 * (layer * width + expert))
                pending.evictions += 1
            elif kind is Routed:
                call.routed.append(event)
                if call.tokens > 1:
                    call.last, call.needs = event, None
            elif kind is Served:
                _, _, ns, experts_ns, report_ns = event
                call.serve(ns, experts_ns, report_ns)
            elif kind is Waited:
                _, wait_ns, install_ns = event
                call.wait_ns += wait_ns
                call.install_ns += install_ns
            elif kind is ResidentLayers:
                call.held.append(event)
            elif kind is CallStarted:
                self._book_moves(call)
                call = self._call = OpenCall(event.phase, len(event.tokens), call)
            elif kind is StepDone:
                self._close(call, event)
                call = self._call = OpenCall(PREFILL, 0)
            elif kind is TextProduced:
                self._text_units += utf16_units(event.text)
                pending.say(event.text, self._text_units)
            elif kind is PromptEncoded:
                self._prompt_tokens = len(event.tokens)
            elif kind is RunDone:
                self._done = True
                self._close(call, None)
                return
        self._book_moves(call)
        if call.tokens > 1:
            # A token's choices are told when it is done, so that what is counted is the sum of
            # what the steps chose; a chunk of a prompt takes too long for that.
            call.fold(pending, self._rows)

    def _book_moves(self, call: OpenCall) -> None:
        """Say of the arrivals and evictions since the last time that they were this call's."""
        self._pending.book_moves(self._totals.steps + max(1, call.tokens) - 1)

    def _close(self, call: OpenCall, done: StepDone | None) -> None:
        """The call is over: its steps, reads and look-ups become part of the frame.

        None: it was cut short. What it brought into RAM is there; as in the trace it makes no step,
        and nothing of it is counted.
        """
        self._book_moves(call)
        if done is None:
            return
        call.fold(self._pending, self._rows)
        tokens, decode = call.tokens, call.tokens if call.phase == DECODE else 0
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
            decode_ns=t.decode_ns + (done.ns if decode else 0),
        )
        if done.produced >= 0:
            self._first_token = min(self._first_token, t.steps + tokens - 1)
        self._pending.steps.append(call.steps(done, self._text_units))
        self._pending.times.append(call.times(done))
        self._pending.routing.append(call.routing(self._shape[0]))

    def _frame(self, now: int) -> Frame:
        """The frame of everything pending, which is empty afterwards."""
        pending, call, totals = self._pending, self._call, self._totals
        layers, experts = self._shape
        self._pending = Pending()
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
        steps = pending.stepped(self._kernels)
        index, count = pending.counted(layers * experts)
        moves = np.array(pending.moves, np.uint32)
        change_index, change_state = pending.changed(moves, layers * experts)
        experts_of, hits_of = pending.routed(layers)
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
        )
        self._seq += 1
        return frame
