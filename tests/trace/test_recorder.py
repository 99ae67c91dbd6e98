"""Events become rows of arrays; an interrupted call is not recorded."""

from __future__ import annotations

import numpy as np
import pytest

from outlier_jupyter.events import (
    DECODE,
    PREFILL,
    CallStarted,
    Evicted,
    PagedIn,
    Routed,
    StepDone,
    Waited,
    Weighed,
)
from outlier_jupyter.trace import TraceInfo
from outlier_jupyter.trace.recorder import BATCH, Recorder

NOBODY = np.zeros((0, 2), np.int16)


def routed(layer: int, experts: list[list[int]], hits: bool = False) -> Routed:
    ids = np.array(experts, np.int32)
    return Routed(layer, ids, np.full(ids.shape, hits), route_ns=5, lookup_ns=2)


def call(recorder: Recorder, phase: int, tokens: list[int], ns: int, produced: int = -1) -> None:
    """One call over two layers, each token routed to experts (token, token + 1)."""
    recorder(CallStarted(phase, np.array(tokens, np.int32), start_ns=100))
    for layer in (0, 1):
        recorder(routed(layer, [[token, token + 1] for token in tokens]))
        for token in tokens:
            recorder(PagedIn(layer, token, slot=0, nbytes=10, start_ns=1, ns=7))
        recorder(Waited(layer, ns=3, install_ns=1))
        recorder(Weighed(layer, np.full((len(tokens), 2), 0.5, np.float32)))
    recorder(StepDone(produced, ns, sample_ns=4))


@pytest.mark.parametrize("expected", [1, 3, 100])
def test_steps_are_tokens_and_calls_share_their_time(expected):
    """A chunk of three tokens is three steps of a third of its time, for any expected length."""
    recorder = Recorder(2, expected, NOBODY)
    call(recorder, PREFILL, [3, 4, 5], ns=300)
    call(recorder, DECODE, [6], ns=50, produced=9)
    trace = recorder.trace(TraceInfo())
    assert trace.tokens.tolist() == [3, 4, 5, 6]
    assert trace.produced.tolist() == [-1, -1, -1, 9]
    assert trace.phase.tolist() == [0, 0, 0, 1]
    assert trace.step_ns.tolist() == [100, 100, 100, 50]
    assert trace.call.tolist() == [0, 0, 0, 1]
    assert trace.experts[:, 1].tolist() == [[3, 4], [4, 5], [5, 6], [6, 7]]
    assert (trace.weights == 0.5).all() and trace.weights.shape == (4, 2, 2)


def test_a_read_belongs_to_the_first_token_that_needed_it():
    """In a chunk, reads and evictions are recorded at the first step routed to that expert."""
    recorder = Recorder(2, 4, NOBODY)
    recorder(CallStarted(PREFILL, np.array([1, 2, 3], np.int32), 0))
    recorder(routed(0, [[0, 1], [1, 2], [2, 3]]))
    recorder(Evicted(layer=1, expert=9, slot=0, by_layer=0, by_expert=2))
    recorder(PagedIn(0, 2, 0, 10, 0, 1))
    recorder(PagedIn(0, 3, 1, 10, 0, 1))
    recorder(StepDone(-1, 10, 1))
    trace = recorder.trace(TraceInfo())
    assert trace.reads["step"].tolist() == [1, 2]
    assert trace.evictions["step"].tolist() == [1]
    assert trace.evictions[["layer", "expert", "by_layer", "by_expert"]].tolist() == [(1, 9, 0, 2)]


def test_the_parts_of_a_call_s_time_add_up_over_its_layers():
    """Routing, lookup, waiting and installing are summed over layers."""
    recorder = Recorder(2, 1, NOBODY)
    call(recorder, DECODE, [1], ns=99)
    row = recorder.trace(TraceInfo()).calls[0]
    names = ["route_ns", "lookup_ns", "read_wait_ns", "install_ns", "sample_ns", "ns"]
    assert [row[name] for name in names] == [10, 4, 6, 2, 4, 99]
    assert (recorder.call_hits, recorder.call_misses, recorder.call_nbytes) == (0, 4, 20)


def test_a_call_cut_short_is_left_out():
    """After an interrupt during a call the trace ends with the last complete call."""
    recorder = Recorder(2, 8, NOBODY)
    call(recorder, PREFILL, [3, 4], ns=10)
    recorder(CallStarted(DECODE, np.array([5], np.int32), 0))
    recorder(routed(0, [[1, 2]]))
    recorder(PagedIn(0, 1, 0, 10, 0, 1))
    trace = recorder.trace(TraceInfo())
    assert trace.steps == 2 and len(trace.calls) == 1 and len(trace.reads) == 4


def test_a_trace_can_be_made_at_any_call():
    """Calls are copied in batches; results do not depend on when a trace is made."""
    tokens = list(range(3, 3 + 2 * BATCH + 5))
    polled, alone = Recorder(2, 1, NOBODY), Recorder(2, 1, NOBODY)
    for recorder in (polled, alone):
        call(recorder, PREFILL, [1, 3], ns=10)
    for count, token in enumerate(tokens, 1):
        for recorder in (polled, alone):
            call(recorder, DECODE, [token], ns=token, produced=token)
        trace = polled.trace(TraceInfo())
        assert trace.produced.tolist() == [-1, -1, *tokens[:count]]
        assert trace.experts[-1].tolist() == 2 * [[token, token + 1]]
        assert np.bincount(trace.reads["step"]).tolist() == [2] * (2 + count)
        assert (polled.call_ns, polled.call_misses, polled.call_nbytes) == (token, 4, 20)
    whole = alone.trace(TraceInfo())
    for name in ("tokens", "experts", "weights", "hits", "reads", "calls", "step_ns"):
        assert getattr(whole, name).tolist() == getattr(trace, name).tolist()


def test_layers_of_different_k_are_padded():
    """If a layer has a smaller k than the widest, the padding is -1 and NaN."""
    recorder = Recorder(2, 1, NOBODY)
    recorder(CallStarted(DECODE, np.array([1], np.int32), 0))
    recorder(routed(0, [[7]]))
    recorder(routed(1, [[1, 2, 3]]))
    recorder(Weighed(0, np.ones((1, 1), np.float32)))
    recorder(StepDone(0, 1, 1))
    trace = recorder.trace(TraceInfo())
    assert trace.experts.tolist() == [[[7, -1, -1], [1, 2, 3]]]
    assert np.isnan(trace.weights[0, 0, 1:]).all() and trace.weights[0, 0, 0] == 1


def test_a_run_without_calls_is_an_empty_trace():
    """Without calls, arrays have length zero and the right shapes."""
    trace = Recorder(2, 4, NOBODY).trace(TraceInfo())
    assert trace.steps == 0 and trace.experts.shape == (0, 2, 0) and len(trace.calls) == 0
