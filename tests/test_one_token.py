"""The path of one token: every step of ARCHITECTURE.md happens, and in that order."""

from __future__ import annotations

import pytest

import outlier_jupyter
from outlier_jupyter.events import (
    DECODE,
    PREFILL,
    CallStarted,
    Evicted,
    PagedIn,
    PromptEncoded,
    Routed,
    RunDone,
    Served,
    StepDone,
    TextProduced,
    Waited,
    Weighed,
)
from outlier_jupyter.testing import EventLog

LAYERS = 3


@pytest.fixture(scope="module")
def story(tiny):
    """Every event of a run of three tokens whose cache fits half of its experts."""
    log = EventLog()
    with outlier_jupyter.load(tiny, cache_experts=4) as engine:
        engine.subscribe(log)
        run = engine.generate("one", max_tokens=3, raw=True)
    return log.events, run


def calls(events):
    """The events of each call of the model, from its start to its end."""
    found, current = [], None
    for event in events:
        if isinstance(event, CallStarted):
            current = []
        if current is not None:
            current.append(event)
        if isinstance(event, StepDone):
            found.append(current)
            current = None
    return found


def test_a_run_begins_with_its_prompt_and_ends_with_its_reason(story):
    """The prompt is known before any call; nothing follows the end."""
    events, run = story
    assert isinstance(events[0], PromptEncoded)
    assert events[0].tokens.tolist() == run.trace.tokens[: len(events[0].tokens)].tolist()
    assert events[-1] == RunDone("length")
    assert sum(isinstance(event, RunDone) for event in events) == 1


def test_the_prompt_is_read_before_anything_is_decoded(story):
    """All of the prompt but its last token, that token, then one call per generated token."""
    events, _ = story
    shapes = [(call[0].phase, len(call[0].tokens)) for call in calls(events)]
    assert shapes == [(PREFILL, 2), (PREFILL, 1), (DECODE, 1), (DECODE, 1)]


def test_a_call_takes_its_layers_in_order_and_reads_only_after_routing(story):
    """Start; per layer its routing, then evictions and reads; weights; times; the end."""
    events, _ = story
    for call in calls(events):
        assert isinstance(call[0], CallStarted) and isinstance(call[-1], StepDone)
        routed = [event.layer for event in call if isinstance(event, Routed)]
        assert routed == list(range(LAYERS))
        layer = -1
        for event in call[1:-1]:
            if isinstance(event, Routed):
                layer = event.layer
            elif isinstance(event, PagedIn | Waited):
                assert event.layer == layer
            elif isinstance(event, Evicted):
                assert event.by_layer == layer
        weighed = [event.layer for event in call if isinstance(event, Weighed)]
        assert weighed == list(range(LAYERS))
        last_events = [type(event) for event in call[-1 - 2 * LAYERS : -1]]
        assert last_events == [Weighed] * LAYERS + [Served] * LAYERS


def test_exactly_the_misses_are_read(story):
    """Per call and layer, the experts read are the distinct experts that missed."""
    events, _ = story
    for call in calls(events):
        for routed in (event for event in call if isinstance(event, Routed)):
            missed = set(routed.experts[~routed.hits].tolist())
            read = {e.expert for e in call if isinstance(e, PagedIn) and e.layer == routed.layer}
            assert read == missed


def test_an_expert_is_evicted_before_its_slot_is_filled(story):
    """Replaying the events, no slot ever has two experts and none is filled while in use."""
    events, _ = story
    holds: dict[int, tuple[int, int]] = {}
    for event in events:
        if isinstance(event, Evicted):
            assert holds.pop(event.slot) == (event.layer, event.expert)
        elif isinstance(event, PagedIn):
            assert event.slot not in holds
            holds[event.slot] = (event.layer, event.expert)
    assert len(holds) == 4


def test_a_token_has_its_text_after_its_call(story):
    """The text follows the call that made it, and together it is the run's text."""
    events, run = story
    assert "".join(e.text for e in events if isinstance(e, TextProduced)) == run.text
    produced = [e.produced for e in events if isinstance(e, StepDone) and e.produced >= 0]
    assert produced == run.tokens.tolist()


def test_the_trace_equals_the_events(story):
    """Ids, hits, reads and evictions of the trace are those of the events."""
    events, run = story
    trace = run.trace
    for call, row in zip(calls(events), trace.calls, strict=True):
        first, steps = int(row["first_step"]), int(row["steps"])
        for routed in (event for event in call if isinstance(event, Routed)):
            rows = slice(first, first + steps)
            assert (trace.experts[rows, routed.layer] == routed.experts).all()
            assert (trace.hits[rows, routed.layer] == routed.hits).all()
        assert row["ns"] == call[-1].ns
    reads = [(e.layer, e.expert, e.nbytes, e.ns) for e in events if isinstance(e, PagedIn)]
    assert [(r["layer"], r["expert"], r["nbytes"], r["ns"]) for r in trace.reads] == reads
    gone = [(e.layer, e.expert) for e in events if isinstance(e, Evicted)]
    assert [(r["layer"], r["expert"]) for r in trace.evictions] == gone


def test_routing_of_resident_layers_is_reported_when_the_call_ends(tiny):
    """Start; then all ids in order of layers, all weights, the end. Nothing is read."""
    log = EventLog()
    with outlier_jupyter.load(tiny, resident=True) as engine:
        engine.subscribe(log)
        engine.generate("abc", raw=True, max_tokens=2)
    kinds = [CallStarted, *[Routed] * 3, *[Weighed] * 3, StepDone]
    calls = [e for e in log.events if isinstance(e, tuple(kinds))]
    assert [type(e) for e in calls] == kinds * 3
    assert [e.layer for e in calls if isinstance(e, Routed)] == [0, 1, 2] * 3
    assert not any(isinstance(e, PagedIn) for e in log.events)
