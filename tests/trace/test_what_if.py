"""A replay with another cache equals an engine with that cache."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import outlier_jupyter
from outlier_jupyter.errors import OptionError, TraceError
from outlier_jupyter.residency.replay import simulate
from outlier_jupyter.trace.cost_model import fit
from outlier_jupyter.trace.what_if import routing_of
from tests.residency.routings import drifting
from tests.trace.made import PER_BYTE, WAIT, timed_trace

PROMPTS = ("What is an expert?", "How does a router choose?")


def runs(slots: int, **options):
    """Two runs of a fresh engine on the demo model: prompts in chunks of 8, then decode."""
    with outlier_jupyter.load("demo", cache_experts=slots, **options) as engine:
        return [engine.generate(p, max_tokens=14, prefill_chunk=8).trace for p in PROMPTS]


@pytest.mark.parametrize("policy", ["predictive", "lru"])
@pytest.mark.parametrize("slots", [12, 40, 130])
def test_the_replay_is_the_engine_hit_for_hit(policy, slots):
    """On the demo model, both phases, two runs in turn; with 12 slots a prompt takes passes."""
    first, second = runs(slots, policy=policy)
    widest = max(len(np.unique(first.experts[:8, layer])) for layer in range(first.layers))
    assert (widest > slots) == (slots == 12)
    routing = routing_of(second).after(routing_of(first))
    outcome = simulate(routing, policy, slots)
    np.testing.assert_array_equal(outcome.hits, np.concatenate([first.hits, second.hits]))
    assert outcome.reads.sum() == len(first.reads) + len(second.reads)
    for trace, after in ((first, ()), (second, (first,))):
        row = trace.what_if([slots], [policy], after).iloc[0]
        assert (row.hits, row.reads, row.bytes) == (
            trace.hits.sum(),
            len(trace.reads),
            trace.reads["nbytes"].sum(),
        )
        decode = trace.phase == 1
        assert row.decode_hits == trace.hits[decode].sum()
        assert row.decode_lookups == trace.hits[decode].size


def test_lru_needs_no_earlier_run_to_agree():
    """The trace has the experts resident at the start in eviction order, which suffices for LRU."""
    _, second = runs(40, policy="lru")
    row = second.what_if([40], ["lru"]).iloc[0]
    assert row.hits == second.hits.sum() and row.reads == len(second.reads)


def test_another_engine_does_what_the_replay_predicts():
    """A run with one cache predicts the hits of an engine with another size and policy."""
    first, second = runs(40, policy="lru")
    for slots, policy in ((25, "predictive"), (90, "lru"), (90, "predictive")):
        replayed = second.what_if([slots], [policy], after=[first]).iloc[0]
        assert replayed.hits == runs(slots, policy=policy)[1].hits.sum()


def test_no_policy_passes_the_bound():
    """At every default size none hits more; with all experts resident all policies are equal."""
    trace = timed_trace(drifting(5, every=50, tokens=100))
    frame = trace.what_if().pivot(index="slots", columns="policy", values="hits")
    assert list(frame.columns) == ["belady", "lru", "predictive"]
    assert (frame.belady >= frame.predictive).all() and (frame.belady >= frame.lru).all()
    assert (frame.belady > frame.predictive).any() and (frame.predictive > frame.lru).any()
    assert frame.iloc[-1].nunique() == 1 and frame.index[-1] == 1024


def test_how_much_memory_for_a_hit_rate():
    """One slot fewer hits less; a rate that cold misses forbid is refused."""
    trace = timed_trace(drifting(6, every=999, tokens=60))
    slots = trace.slots_for(0.6, "lru")
    rates = trace.what_if([slots - 1, slots], ["lru"]).decode_hit_rate
    assert rates[0] < 0.6 <= rates[1]
    with pytest.raises(OptionError, match="first lookup of an expert misses"):
        trace.slots_for(0.999)
    with pytest.raises(OptionError, match="more than 0, at most 1"):
        trace.slots_for(90)


def test_the_speed_is_that_of_a_machine_that_keeps_its_costs():
    """Costs fitted at one size predict the speed at three other sizes to 1 %."""
    routing = drifting(7, every=80, tokens=160)
    seen = timed_trace(routing, slots=250)
    assert fit(seen).residual < 0.02
    replayed = seen.what_if([150, 400, 700], ["predictive"]).tokens_per_second
    for predicted, slots in zip(replayed, (150, 400, 700), strict=True):
        there = timed_trace(routing, slots=slots)
        assert predicted == pytest.approx(1e9 * there.steps / there.calls["ns"].sum(), rel=0.01)
    assert "ms of compute per token" in seen.what_if([400], ["lru"]).attrs["cost"]


def test_a_machine_that_is_slow_at_times_makes_no_read_dear():
    """Waits are fitted per layer: calls slow for other reasons do not raise the cost of reads."""
    slowing = timed_trace(drifting(2, every=80), 250, slowing=5_000)
    found = fit(slowing)
    assert found.wait == pytest.approx(WAIT, rel=0.05)
    assert found.per_byte == pytest.approx(PER_BYTE, rel=0.01)
    whole_calls = fit(replace(slowing, layer_us=slowing.layer_us[:0]))
    assert whole_calls.per_byte > 1.05 * PER_BYTE


def test_without_times_no_speed_is_made_up():
    """The speed is NaN, with a sentence that says why."""
    trace = timed_trace(drifting(8, every=80, tokens=10))
    bare = replace(trace, info=replace(trace.info, absent=("calls", "reads")))
    frame = bare.what_if([200])
    assert frame.tokens_per_second.isna().all()
    assert frame.attrs["cost"].startswith("no times of its own were recorded")


def test_questions_without_an_answer_say_so():
    """An unknown policy, no slots, a dense model or runs of two models are one sentence each."""
    trace = timed_trace(drifting(9, every=80, tokens=6))
    with pytest.raises(OptionError, match="did you mean 'belady'"):
        trace.what_if([10], ["beladi"])
    with pytest.raises(OptionError, match="0 slots holds no expert"):
        trace.what_if([0])
    dense = replace(
        trace, experts=trace.experts[:, :0], info=replace(trace.info, experts_per_layer=())
    )
    with pytest.raises(TraceError, match="no MoE layers"):
        dense.what_if()
    other = replace(trace, info=replace(trace.info, experts_per_layer=(128,) * 16))
    with pytest.raises(TraceError, match="a different model"):
        trace.what_if([100], after=[other])
