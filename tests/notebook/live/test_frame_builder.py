"""The feed: events in, frames out, with the same numbers as the trace's own measures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outlier_jupyter.events import (
    CallStarted,
    Event,
    Evicted,
    PagedIn,
    PromptEncoded,
    Routed,
    RunDone,
    StepDone,
    TextProduced,
    Waited,
    Weighed,
)
from outlier_jupyter.notebook.live.frame_builder import FrameBuilder
from outlier_jupyter.notebook.live.frames import Frame, encode
from outlier_jupyter.notebook.live.merge_frames import KEPT_STEPS, as_snapshot, merge
from outlier_jupyter.trace import Trace
from outlier_jupyter.trace.measures import (
    bytes_per_step,
    frequency,
    hits_per_step,
    read_latency_per_step,
    residency,
    summarise,
)
from outlier_jupyter.trace.recorder import Recorder

MakeTrace = Callable[..., Trace]
NONE_RESIDENT = np.zeros((0, 2), np.int16)


class Clock:
    """A clock in nanoseconds that advances only by `pass_ms`."""

    def __init__(self) -> None:
        self.now = 1_000

    def __call__(self) -> int:
        return self.now

    def pass_ms(self, ms: float) -> None:
        self.now += round(ms * 1e6)


def events_of(trace: Trace) -> Iterator[Event]:
    """The events from which a recorder makes `trace`."""
    yield PromptEncoded(trace.tokens[trace.phase == 0], 0)
    for row, call in enumerate(trace.calls):
        steps = np.flatnonzero(trace.call == row)
        yield CallStarted(int(call["phase"]), trace.tokens[steps], 0)
        for layer in range(trace.layers):
            chosen = trace.experts[steps, layer].astype(np.int32)
            yield Routed(layer, chosen, trace.hits[steps, layer], 10, 10)
            for gone in trace.evictions[trace.evictions["step"] == steps[0]]:
                if gone["by_layer"] == layer:
                    names = ("layer", "expert")
                    yield Evicted(*(int(gone[n]) for n in names), 0, layer, int(gone["by_expert"]))
            for read in trace.reads[trace.reads["step"] == steps[0]]:
                if read["layer"] == layer:
                    nbytes, start, ns = (int(read[n]) for n in ("nbytes", "start_ns", "ns"))
                    yield PagedIn(layer, int(read["expert"]), 0, nbytes, start, ns)
            yield Waited(layer, 5, 5)
            yield Weighed(layer, np.ones(chosen.shape, np.float32))
        yield StepDone(1, int(call["ns"]), 100)
        yield TextProduced(f" t{row}")
    yield RunDone("length")


def recorded(trace: Trace) -> Trace:
    """A recorder's trace of the same events; it assigns each prefill read to its token."""
    recorder = Recorder(trace.layers, 1, trace.resident_at_start)
    for event in events_of(trace):
        recorder(event)
    return recorder.trace(trace.info)


def fed(
    trace: Trace, *, ms_per_event: float = 1.0, **options: Any
) -> tuple[FrameBuilder, list[Frame]]:
    """A feed that received all events of `trace`, and its frames."""
    clock, frames = Clock(), list[Frame]()
    feed = FrameBuilder(
        layers=trace.layers,
        experts=max(trace.info.experts_per_layer),
        slots=trace.info.slots,
        resident_at_start=trace.resident_at_start,
        on_frame=frames.append,
        clock=clock,
        **options,
    )
    for event in events_of(trace):
        clock.pass_ms(ms_per_event)
        feed(event)
    return feed, frames


@given(
    st.integers(0, 30),
    st.integers(1, 4),
    st.integers(1, 3),
    st.floats(0.1, 80),
    st.integers(0, 99),
)
@settings(max_examples=25, deadline=None)
def test_frames_tell_what_the_trace_measures(
    make_trace: MakeTrace, prompt: int, layers: int, k: int, ms_per_event: float, seed: int
) -> None:
    """Wherever time cuts the events into frames, their merge agrees with the trace's measures."""
    trace = make_trace(steps=34, prompt=prompt, layers=layers, k=k, experts=9, slots=12, seed=seed)
    feed, frames = fed(trace, ms_per_event=ms_per_event)
    whole = feed.snapshot()
    assert whole == as_snapshot(merge(*frames))
    trace = recorded(trace)
    counts = np.zeros(layers * 9, np.int64)
    counts[whole.count_index] = whole.count
    np.testing.assert_array_equal(counts.reshape(layers, 9), frequency(trace))
    resident = np.zeros(layers * 9, bool)
    resident[whole.change_index] = True
    np.testing.assert_array_equal(resident.reshape(layers, 9), residency(trace))
    hits, misses = hits_per_step(trace)
    np.testing.assert_array_equal(whole.steps["hits"], hits)
    np.testing.assert_array_equal(whole.steps["misses"], misses)
    np.testing.assert_array_equal(whole.steps["nbytes"], bytes_per_step(trace))
    np.testing.assert_array_equal(whole.steps["phase"], trace.phase)
    np.testing.assert_allclose(whole.steps["token_ms"], trace.step_ns / 1e6, rtol=1e-6)
    names = ("read_p50_ms", "read_p95_ms", "read_max_ms")
    latency = np.stack([whole.steps[name] for name in names], axis=1)
    np.testing.assert_allclose(latency, read_latency_per_step(trace), rtol=1e-6)
    np.testing.assert_array_equal(whole.experts_of, trace.experts)
    np.testing.assert_array_equal(whole.hits_of, trace.hits)
    assert_moves_tell_residency(whole, trace)


def assert_moves_tell_residency(whole: Frame, trace: Trace) -> None:
    """Undoing the moves after the end of a call gives what was resident then."""
    state = np.zeros(whole.layers * whole.experts, bool)
    state[whole.change_index] = True
    ends = {int(call["first_step"] + call["steps"]) - 1 for call in trace.calls}
    at = len(whole.move) - 1
    for step in sorted(ends, reverse=True):
        while at >= 0 and whole.move_step[at] > step:
            state[whole.move[at] // 2] = not whole.move[at] % 2
            at -= 1
        np.testing.assert_array_equal(state.reshape(whole.layers, -1), residency(trace, step))


def test_totals_are_those_of_the_summary(make_trace: MakeTrace) -> None:
    """The final totals are the numbers of the run's summary."""
    trace = make_trace()
    totals = fed(trace)[0].snapshot().totals
    summary = summarise(trace)
    assert totals.steps == trace.steps
    assert (totals.lookups, totals.hits) == (summary.lookups, summary.hits)
    assert (totals.reads, totals.nbytes) == (summary.reads, summary.bytes_read)
    assert totals.evictions == len(trace.evictions)
    assert totals.decode_steps == summary.decoded_steps
    assert totals.decode_hits / totals.decode_lookups == pytest.approx(summary.decode_hit_rate)
    rate = totals.decode_steps / totals.decode_ns * 1e9
    assert rate == pytest.approx(summary.tokens_per_second)


def test_frames_are_rare_and_the_last_comes_at_once(make_trace: MakeTrace) -> None:
    """At least 50 ms lie between two frames, but the last one is sent at once."""
    trace = make_trace(steps=200, prompt=4)
    clock, at = Clock(), list[tuple[int, bool]]()
    feed = FrameBuilder(
        **{"layers": 4, "experts": 16, "slots": 24, "resident_at_start": NONE_RESIDENT},
        on_frame=lambda frame: at.append((clock.now, frame.final)),
        clock=clock,
    )
    for event in events_of(trace):
        clock.pass_ms(0.7)
        feed(event)
    gaps = np.diff([when for when, _ in at])
    assert len(at) > 10
    assert (gaps[:-1] >= 50e6).all()
    assert [final for _, final in at] == [False] * (len(at) - 1) + [True]


def test_a_long_prompt_shows_while_it_is_read(make_trace: MakeTrace) -> None:
    """Counts, arrivals and totals of an open call go out before the call ends; its steps do not."""
    trace = make_trace(steps=40, prompt=40, chunk=40)
    _, frames = fed(trace, ms_per_event=20)
    early = merge(*frames[: len(frames) // 2])
    assert len(early.count) and len(early.change_index) and not len(early.steps)
    assert early.totals.reads > 0 and early.totals.lookups > 0
    assert all(a.totals.reads <= b.totals.reads for a, b in pairwise(frames))


def test_text_comes_with_its_token(make_trace: MakeTrace) -> None:
    """A frame cut after a token contains that token's text, not the one before."""
    trace = make_trace(steps=12, prompt=1)
    _, frames = fed(trace, ms_per_event=30)
    for frame in frames:
        ended = frame.first_step + len(frame.steps)
        told = (frame.text_start + len(frame.text.encode())) > 0
        assert told == (ended > 0)
    whole = merge(*frames)
    assert whole.text == "".join(f" t{n}" for n in range(12))
    starts = [0, *whole.steps["text_end"][:-1].tolist()]
    spans = zip(starts, whole.steps["text_end"].tolist(), strict=True)
    assert [whole.text[a:b] for a, b in spans] == [f" t{n}" for n in range(12)]


def test_text_is_counted_as_browsers_count_it() -> None:
    """Offsets are in UTF-16 code units, so that JavaScript can slice a step's text."""
    feed = FrameBuilder(
        **{"layers": 0, "experts": 0, "slots": 0, "resident_at_start": NONE_RESIDENT},
        on_frame=lambda frame: None,
    )
    for text in ("ü", "🌍", "", "x"):
        feed(CallStarted(1, np.zeros(1, np.int32), 0))
        feed(StepDone(1, 1, 1))
        feed(TextProduced(text))
    assert feed.snapshot().steps["text_end"].tolist() == [1, 3, 3, 4]


def test_what_is_resident_at_the_start_is_told_first() -> None:
    """The first frame contains the experts that were in RAM before the run."""
    frames: list[Frame] = []
    resident = np.array([[0, 3], [1, 0]], np.int16)
    feed = FrameBuilder(
        layers=2, experts=4, slots=5, resident_at_start=resident, on_frame=frames.append
    )
    whole = feed.snapshot()
    assert frames[0].change_index.tolist() == [3, 4]
    assert whole.change_state.tolist() == [1, 1]
    assert (whole.seq, whole.slots, len(whole.steps)) == (1, 5, 0)


def test_a_snapshot_in_the_middle_loses_and_doubles_nothing(make_trace: MakeTrace) -> None:
    """Pending changes are sent first, so that the frames after a snapshot follow it."""
    trace = make_trace()
    frames: list[Frame] = []
    feed = FrameBuilder(
        **{"layers": 4, "experts": 16, "slots": 24, "resident_at_start": NONE_RESIDENT},
        on_frame=frames.append,
    )
    for n, event in enumerate(events_of(trace)):
        feed(event)
        if n % 37 == 0:
            assert feed.snapshot().seq == frames[-1].seq
    assert merge(*frames).totals.steps == trace.steps
    np.testing.assert_array_equal(feed.snapshot().steps["hits"], hits_per_step(trace)[0])


def test_a_run_cut_short_keeps_what_it_had() -> None:
    """A call stopped half way is no step and does not count, as in the trace."""
    frames: list[Frame] = []
    feed = FrameBuilder(
        **{"layers": 2, "experts": 4, "slots": 3, "resident_at_start": NONE_RESIDENT},
        on_frame=frames.append,
    )
    ids = np.array([[1, 2]], np.int32)
    feed(CallStarted(1, np.zeros(1, np.int32), 0))
    feed(Routed(0, ids, np.array([[True, False]]), 1, 1))
    feed(PagedIn(0, 2, 0, 100, 0, 2_000_000))
    feed(RunDone("interrupted"))
    feed(CallStarted(1, np.zeros(1, np.int32), 0))
    feed(RunDone("stop"))
    whole = feed.snapshot()
    assert whole.final and len(whole.steps) == whole.totals.decode_steps == 0
    assert (whole.totals.lookups, whole.totals.hits, whole.totals.reads) == (0, 0, 0)
    assert whole.change_index.tolist() == [2] and not len(whole.count_index)
    assert sum(frame.final for frame in frames) == 1


def test_layers_may_differ_in_k() -> None:
    """A layer that chooses fewer experts counts those alone."""
    feed = FrameBuilder(
        **{"layers": 2, "experts": 4, "slots": 8, "resident_at_start": NONE_RESIDENT},
        on_frame=lambda frame: None,
    )
    feed(CallStarted(0, np.zeros(2, np.int32), 0))
    for layer, k in ((0, 3), (1, 1)):
        ids = np.tile(np.arange(k, dtype=np.int32), (2, 1))
        feed(Routed(layer, ids, np.zeros((2, k), bool), 1, 1))
    feed(StepDone(-1, 4_000_000, 1))
    whole = feed.snapshot()
    assert whole.steps["misses"].tolist() == [4, 4]
    assert whole.count_index.tolist() == [0, 1, 2, 4]
    assert whole.experts_of.shape == (2, 2, 3)
    assert (whole.experts_of[:, 1, 1:] == 0xFFFF).all()
    assert whole.steps["token_ms"].tolist() == [2.0, 2.0]


def test_the_past_is_bounded() -> None:
    """A snapshot keeps the newest 4,000 steps; totals and counts include all of them."""
    feed = FrameBuilder(
        **{"layers": 1, "experts": 2, "slots": 2, "resident_at_start": NONE_RESIDENT},
        on_frame=lambda frame: None,
        interval_ms=0,
    )
    for _ in range(3):
        feed(CallStarted(0, np.zeros(1_800, np.int32), 0))
        feed(Routed(0, np.zeros((1_800, 1), np.int32), np.ones((1_800, 1), bool), 1, 1))
        feed(StepDone(-1, 1, 1))
    whole = feed.snapshot()
    assert (whole.first_step, len(whole.steps)) == (1_400, KEPT_STEPS)
    assert whole.count.tolist() == [5_400] and whole.totals.steps == 5_400
    assert len(encode(whole)) < 400_000
