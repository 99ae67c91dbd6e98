"""The measures agree with slow, plain counting, on traces of all shapes."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outlier_jupyter.events import DECODE, PREFILL
from outlier_jupyter.trace import CALL, EVICTION, READ, Trace, TraceInfo
from outlier_jupyter.trace import measures as m
from outlier_jupyter.trace.measures import summarise
from tests.notebook.conftest import build

Residents = set[tuple[int, int]]


@st.composite
def runs(draw: st.DrawFn) -> tuple[Trace, list[Residents]]:
    """A run of prefill calls and decode steps through a cache that evicts the oldest.

    Also returns the experts resident after each step's call.
    """
    layers, experts = draw(st.integers(0, 3)), draw(st.integers(1, 6))
    k = draw(st.integers(1, experts)) if layers else 0
    prefill = draw(st.lists(st.integers(1, 5), max_size=3))
    lengths = prefill + [1] * draw(st.integers(0, 8))
    steps, slots = sum(lengths), draw(st.integers(1, max(1, layers * experts)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    chosen = np.zeros((steps, layers, k), np.int16)
    for ids in chosen.reshape(-1, k) if k else []:
        ids[:] = rng.permutation(experts)[:k]
    if k:  # an interrupted call, or a layer with a smaller k, has missing ids
        chosen[rng.random(chosen.shape) < draw(st.sampled_from([0, 0.2]))] = -1
    start = [(0, e) for e in range(min(experts, slots))] if layers and draw(st.booleans()) else []
    resident, reads, evicted, after = list(start), [], [], []
    hits, call, step = np.zeros(chosen.shape, bool), np.zeros(steps, np.int32), 0
    for row, length in enumerate(lengths):
        call[step : step + length] = row
        for layer in range(layers):
            lookups = chosen[step : step + length, layer]
            here = [e for at, e in resident if at == layer]
            hits[step : step + length, layer] = np.isin(lookups, here)
            for expert in np.unique(lookups[lookups >= 0]).tolist():
                if (layer, expert) in resident:
                    continue
                if len(resident) >= slots:
                    evicted.append((step, *resident.pop(0), layer, expert))
                resident.append((layer, expert))
                size, ns = rng.integers(1, 1000, 2)
                reads.append((step, layer, expert, size, 0, 1000 * ns, 0))
        step += length
        after += [set(resident)] * length
    trace = Trace(
        tokens=np.zeros(steps, np.int32),
        produced=np.zeros(steps, np.int32),
        phase=np.where(np.arange(steps) < sum(prefill), PREFILL, DECODE).astype(np.uint8),
        call=call,
        step_ns=rng.integers(1, 10**7, steps),
        experts=chosen,
        weights=np.full(chosen.shape, np.nan, np.float32),
        hits=hits,
        reads=np.array(reads, READ),
        evictions=np.array(evicted, EVICTION),
        calls=np.zeros(len(lengths), CALL),
        resident_at_start=np.array(start, np.int16).reshape(-1, 2),
        info=TraceInfo(experts_per_layer=(experts,) * layers),
    )
    return trace, after


def traces() -> st.SearchStrategy[Trace]:
    """The traces of `runs` alone."""
    return runs().map(lambda run: run[0])


@given(traces())
def test_frequency_counts_every_choice(trace: Trace) -> None:
    """Each expert's count is its number of occurrences, and the phases add up to the total."""
    counts = m.frequency(trace)
    for layer in range(trace.layers):
        for expert in range(counts.shape[1]):
            assert counts[layer, expert] == (trace.experts[:, layer] == expert).sum()
    parts = m.frequency(trace, PREFILL) + m.frequency(trace, DECODE)
    np.testing.assert_array_equal(parts, counts)


@given(traces())
def test_hits_and_misses_are_the_lookups(trace: Trace) -> None:
    """Hits and misses of a step add up to its lookups."""
    hits, misses = m.hits_per_step(trace)
    np.testing.assert_array_equal(hits + misses, (trace.experts >= 0).sum(axis=(1, 2)))
    np.testing.assert_array_equal(hits, (trace.hits & (trace.experts >= 0)).sum(axis=(1, 2)))


@given(runs())
def test_residency_is_the_content_of_the_cache(run: tuple[Trace, list[Residents]]) -> None:
    """After each step the resident experts are those of the cache that made the trace."""
    trace, after = run
    for step, resident in enumerate(after):
        found = {(int(a), int(b)) for a, b in np.argwhere(m.residency(trace, step))}
        assert found == resident
    if after:
        np.testing.assert_array_equal(m.residency(trace), m.residency(trace, trace.steps - 1))


@given(traces())
def test_bytes_are_neither_lost_nor_made(trace: Trace) -> None:
    """Per step, per token and in bins, the bytes add up to those of the reads."""
    total = trace.reads["nbytes"].sum()
    assert m.bytes_per_step(trace).sum() == total
    np.testing.assert_allclose(m.bytes_per_token(trace).sum(), total)
    for row in np.unique(trace.call):
        assert len(np.unique(m.bytes_per_token(trace)[trace.call == row])) == 1


@given(traces(), st.integers(1, 30))
def test_a_timeline_keeps_the_totals(trace: Trace, limit: int) -> None:
    """At most `limit` bins cover each step once, and their weighted means give the totals."""
    line = m.timeline(trace, limit)
    assert len(line.first) <= limit
    assert line.steps.sum() == trace.steps
    hits, misses = m.hits_per_step(trace)
    for means, total in (
        (line.hits, hits.sum()),
        (line.misses, misses.sum()),
        (line.nbytes, trace.reads["nbytes"].sum()),
    ):
        np.testing.assert_allclose((means * line.steps).sum(), total)


@given(traces(), st.integers(1, 30))
def test_the_latency_of_a_bin_is_that_of_its_calls(trace: Trace, limit: int) -> None:
    """A bin's quantiles are over the reads of every call with a step in it."""
    line = m.timeline(trace, limit)
    for first, steps, found in zip(line.first, line.steps, line.latency_ms, strict=True):
        calls = np.unique(trace.call[first : first + steps])
        mine = np.isin(trace.call[trace.reads["step"]], calls)
        expected = m.quantiles(trace.reads["ns"][mine] / 1e6)
        np.testing.assert_allclose(found, expected)


@given(traces())
def test_latency_is_missing_where_nothing_was_read(trace: Trace) -> None:
    """A step has quantiles if and only if it has reads, and they are ascending."""
    found = m.read_latency_per_step(trace)
    there = np.isin(np.arange(trace.steps), trace.reads["step"])
    np.testing.assert_array_equal(np.isfinite(found).all(axis=1), there)
    np.testing.assert_array_equal(np.isnan(found).all(axis=1), ~there)
    assert (np.diff(found[there], axis=1) >= 0).all()


@given(traces())
def test_prefill_spans_are_the_prefill_steps_before_token_1(trace: Trace) -> None:
    """The spans contain the prefill steps and no other; the prompt's last step is token 1's."""
    inside = [step for a, b in m.prefill_spans(trace) for step in range(a, b)]
    first = np.flatnonzero(trace.produced >= 0)[:1].tolist()
    assert inside == [s for s in np.flatnonzero(trace.phase == PREFILL) if s not in first]


@given(traces())
def test_the_summary_agrees_with_the_parts(trace: Trace) -> None:
    """Counts, rates and times of the summary follow from the arrays."""
    s, decode = m.summarise(trace), trace.phase == DECODE
    hits, misses = m.hits_per_step(trace)
    assert (s.prompt_tokens + s.decoded_steps, s.hits) == (trace.steps, hits.sum())
    assert s.lookups == hits.sum() + misses.sum()
    assert s.hit_rate == pytest.approx(s.hits / s.lookups) if s.lookups else math.isnan(s.hit_rate)
    lookups = (hits + misses)[decode].sum()
    if lookups:
        assert s.decode_hit_rate == pytest.approx(hits[decode].sum() / lookups)
    if decode.any():
        seconds = trace.step_ns[decode].sum() / 1e9
        assert s.tokens_per_second == pytest.approx(decode.sum() / seconds)
    assert s.bytes_read == trace.reads["nbytes"].sum()
    assert math.isnan(s.read_p50_ms) == (len(trace.reads) == 0)


def test_quantiles_are_linear() -> None:
    """p50, p95 and max of 0 … 100 are 50, 95 and 100."""
    np.testing.assert_allclose(m.quantiles(np.arange(101.0)), [50, 95, 100])


def test_a_summary_counts_the_tokens_that_were_generated():
    """The prompt's last step made one of them, so there is one more than decode steps."""
    produced = np.r_[np.full(7, -1), np.arange(13)].astype(np.int32)
    made = summarise(replace(build(steps=20, prompt=8), produced=produced))
    assert (made.decoded_steps, made.generated) == (12, 13)
    assert made.short().startswith("13 tokens at ")
