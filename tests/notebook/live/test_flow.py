"""How much goes to the page and into the saved notebook: messages, bytes, and the pace."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator

import numpy as np
import pytest

from outlier_jupyter.events import (
    DECODE,
    CallStarted,
    Event,
    Evicted,
    PagedIn,
    Routed,
    RunDone,
    StepDone,
    TextProduced,
    Waited,
)
from outlier_jupyter.notebook.live.finished_run import frame_of_run
from outlier_jupyter.notebook.live.frame_builder import FrameBuilder
from outlier_jupyter.notebook.live.frames import STEP, Frame, decode
from outlier_jupyter.notebook.live.merge_frames import (
    KEPT_MOVES,
    KEPT_ROUTING_BYTES,
    KEPT_STEPS,
    KEPT_TEXT_BYTES,
)
from outlier_jupyter.notebook.live.widget import LiveView
from outlier_jupyter.runs.run import Run
from outlier_jupyter.testing import FakeClock
from outlier_jupyter.trace import CALL, EVICTION, READ, Trace, TraceInfo

from .test_widget import frame as frame_of
from .test_widget import on_a_page

NONE_RESIDENT = np.zeros((0, 2), np.int16)
MS = 1_000_000


def watched(clock: FakeClock, layers: int = 4, experts: int = 16) -> tuple[FrameBuilder, LiveView]:
    """A feed that pushes to a view whose comm is a fake one, by one clock."""
    view = LiveView(clock=lambda: clock.now / 1e9)
    on_a_page(view)
    feed = FrameBuilder(
        **{"layers": layers, "experts": experts, "slots": 40, "resident_at_start": NONE_RESIDENT},
        on_frame=view.push,
        clock=clock,
    )
    return feed, view


def tokens(n: int, layers: int = 4, experts: int = 16, k: int = 2) -> Iterator[Event]:
    """The events of `n` decode steps: of each layer's choices one misses, and is read."""
    kept = [
        [
            np.arange(k, dtype=np.int32)[None] + (step + layer) % (experts - k)
            for layer in range(layers)
        ]
        for step in range(16)
    ]
    hits = np.ones((1, k), bool)
    hits[0, 0] = False
    for step in range(n):
        yield CallStarted(DECODE, np.zeros(1, np.int32), 0)
        for layer, chosen in enumerate(kept[step % 16]):
            yield Routed(layer, chosen, hits, 1000, 1000)
            yield Evicted(layer, (step + layer + 9) % experts, 0, layer, 0)
            yield PagedIn(layer, int(chosen[0, 0]), 0, 2_654_208, 0, MS)
            yield Waited(layer, 1000, 1000)
        yield StepDone(1, 30 * MS, 1000)
        yield TextProduced(f" word{step}")
    yield RunDone("length")


@pytest.mark.parametrize("per_s", [3, 30, 400])
def test_a_run_sends_at_most_25_messages_in_any_second(per_s: int) -> None:
    """At any rate of tokens: frames, snapshots and status together."""
    clock = FakeClock()
    feed, view = watched(clock)
    sent: list[int] = []
    for event in tokens(8 * per_s):
        clock.now += 10**9 // (per_s * 19)  # 19 events a token
        before = len(view.comm.sent)
        feed(event)
        sent += [clock.now] * (len(view.comm.sent) - before)
    view.finish("length", feed.snapshot())
    assert len(sent) > 3 * 7  # at any rate of tokens there are frames to send
    busiest = max(np.searchsorted(sent, at + 10**9) - n for n, at in enumerate(sent))
    assert busiest <= 25
    assert decode(view.snapshot).totals.steps == 8 * per_s
    view.comm = None


def test_the_page_sets_the_pace_and_misses_nothing() -> None:
    """A hidden page requests a frame a second; frames together contain every step."""
    clock = FakeClock()
    feed, view = watched(clock)
    counts = []
    for asked in (1000, 0):
        view.comm.receive({"type": "pace", "ms": asked})
        before = len(view.comm.custom())
        for event in tokens(200):
            clock.now += 10**9 // (20 * 19)
            if type(event) is not RunDone:
                feed(event)
        counts.append(len(view.comm.custom()) - before)
    assert counts[0] <= 12 and counts[1] >= 100
    frames = [decode(*buffers) for _, buffers in view.comm.custom()]
    assert sum(len(frame.steps) for frame in frames) in (399, 400)
    view.comm = None


@pytest.mark.parametrize(("asked", "kept"), [(10**9, 2000), (-5, 0), ("soon", 0), (None, 0)])
def test_a_page_may_not_ask_for_silence(asked: object, kept: float) -> None:
    """A pace is bounded, and a value that is no number counts as 0."""
    _, view = watched(FakeClock())
    view.comm.receive({"type": "pace", "ms": asked})
    assert view.push(frame_of(1)) == kept
    view.comm = None


@pytest.mark.parametrize(("cost", "gap"), [(1, 200), (2, 400), (10, 500)])
def test_frames_that_cost_much_come_seldom(cost: int, gap: int) -> None:
    """Frames take a 200th of a run's time: after one of 1 ms come 200 ms without, at most 500."""
    clock = FakeClock()
    cut: list[int] = []

    def dear(frame: Frame) -> None:
        cut.append(clock.now)
        clock.now += cost * MS

    feed = FrameBuilder(
        **{"layers": 4, "experts": 16, "slots": 40, "resident_at_start": NONE_RESIDENT},
        on_frame=dear,
        clock=clock,
    )
    for event in tokens(200):
        clock.now += MS
        feed(event)
    first, *gaps = np.diff(cut[:-1])  # the last one is sent at once
    assert first < 100 * MS  # the first one has all experts in RAM, and is slow once
    assert len(gaps) > 5 and min(gaps) >= gap * MS and max(gaps) < (gap + 50) * MS


def a_long_run(steps: int, layers: int, k: int, experts: int) -> Run:
    """A finished run of made-up numbers: in each step four layers read one expert and evict one."""
    random = np.random.default_rng(0)
    moving = 4
    n = steps * moving
    reads, gone = np.zeros(n, READ), np.zeros(n, EVICTION)
    for moved in (reads, gone):
        moved["step"] = np.repeat(np.arange(steps), moving)
        moved["layer"] = np.tile(np.arange(moving), steps)
    first = random.integers(0, experts, moving)
    at = (first[None] + np.arange(steps)[:, None]) % experts
    reads["expert"], gone["expert"] = at.ravel(), ((at - 30) % experts).ravel()
    reads["nbytes"], reads["ns"] = 2_654_208, random.integers(5 * 10**5, 2 * MS, n)
    calls = np.zeros(steps, CALL)
    calls["phase"], calls["first_step"], calls["steps"] = DECODE, np.arange(steps), 1
    calls["ns"] = 30 * MS
    chosen = random.integers(0, experts, (steps, layers, k)).astype(np.int16)
    start = np.array([(a, (f - i) % experts) for a, f in enumerate(first) for i in range(1, 31)])
    words = [f" word{step}" for step in range(steps)]
    trace = Trace(
        **{
            "tokens": np.arange(steps, dtype=np.int32),
            "produced": np.arange(steps, dtype=np.int32),
        },
        **{"phase": np.full(steps, DECODE, np.uint8), "call": np.arange(steps, dtype=np.int32)},
        step_ns=np.full(steps, 30 * MS),
        experts=chosen,
        weights=np.full(chosen.shape, np.nan, np.float32),
        hits=random.random(chosen.shape) < 0.9,
        **{"reads": reads, "evictions": gone, "calls": calls},
        resident_at_start=start.astype(np.int16),
        info=TraceInfo(
            model="made up",
            layer_names=tuple(map(str, range(layers))),
            experts_per_layer=(experts,) * layers,
            expert_nbytes=(2_654_208,) * layers,
            slots=30 * layers,
        ),
    )
    ends = np.cumsum([len(word) for word in words]).astype(np.int32)
    return Run("go on", "go on", "".join(words), trace.tokens, "length", trace, ends)


def test_ten_thousand_tokens_leave_a_saved_notebook_under_5_mb() -> None:
    """The snapshot as widget state keeps it and the static view, of a run of 48 layers × 128."""
    run = a_long_run(10_000, 48, 8, 128)
    snapshot = frame_of_run(run)
    view = LiveView.of(run)
    assert snapshot.totals.steps == 10_000 and len(view.snapshot) > 500_000
    state = len(base64.b64encode(view.snapshot))
    static = len(json.dumps(run._repr_mimebundle_()))
    assert state < 2_500_000
    assert state + static < 5_000_000


def test_what_a_page_is_sent_of_the_past_is_bounded() -> None:
    """After more tokens than are kept, a snapshot is no larger than what is kept of each kind."""
    clock = FakeClock()
    feed, view = watched(clock, layers=2)
    for event in tokens(6_000, layers=2):
        clock.now += MS
        feed(event)
    view.finish("length", feed.snapshot())
    whole = decode(view.snapshot)
    assert whole.totals.steps == 6_000 and len(whole.steps) == KEPT_STEPS
    most = KEPT_STEPS * STEP.itemsize + KEPT_TEXT_BYTES + KEPT_ROUTING_BYTES + 8 * KEPT_MOVES
    assert 300_000 < len(view.snapshot) < 1.1 * most
    view.comm = None
