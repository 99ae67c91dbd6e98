"""Why a token was slow: parts that add up, and a verifiable cause for each read."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import outlier_jupyter
from outlier_jupyter import Run, Trace
from outlier_jupyter.errors import OptionError, TraceError
from outlier_jupyter.residency.replay import simulate
from outlier_jupyter.trace.explain import slowest
from outlier_jupyter.trace.explanation_text import miss_text, sentences
from outlier_jupyter.trace.time_parts import PARTS, parts_of_calls
from outlier_jupyter.trace.what_if import routing_of


@pytest.fixture(scope="module", params=["mlx", "auto"])
def run(tiny, request):
    """A run with a chunked prompt and a small cache that an earlier run has warmed."""
    with outlier_jupyter.load(tiny, cache_experts=10, kernels=request.param) as engine:
        engine.generate("the first leaves something in the cache", max_tokens=3)
        return engine.generate("explained", max_tokens=20, prefill_chunk=4)


def test_the_parts_of_every_token_add_up_to_its_time(run):
    """They add up within 2 %, for calls and for tokens, and `other` is at most 2 %."""
    for call, parts in zip(run.trace.calls, zip(*parts_of_calls(run.trace).values(), strict=True),
                           strict=True):  # fmt: skip
        known = dict(zip(PARTS, parts, strict=True))
        whole = call["ns"] / 1e6
        assert np.nansum(parts) == pytest.approx(whole, rel=0.02)
        assert known["other"] <= 0.02 * whole
        assert min(value for value in parts if not np.isnan(value)) >= 0
    frame = run.trace.times()
    total = frame[[f"{name}_ms" for name in PARTS]].sum(axis=1)
    np.testing.assert_allclose(total, frame["ms"], rtol=0.02)


def test_times_that_were_not_measured_apart_are_one_part(run):
    """MLX's kernels have one part for compute; compiled ones have dense parts and experts."""
    known = {name for name, value in parts_of_calls(run.trace).items() if not np.isnan(value).any()}
    apart, together = {"dense", "experts", "route"}, {"compute", "graph"}
    assert known == set(PARTS) - (together if run.trace.info.kernels == "cpu" else apart)


def test_a_layer_s_parts_are_those_of_its_call(run):
    """Lookup, waiting and experts sum over the layers to the call's, to within microseconds."""
    trace = run.trace
    for name, at in (("route_ns", 1), ("lookup_ns", 2), ("read_wait_ns", 3), ("experts_ns", 5)):
        of_layers = trace.layer_us[:, :, at].sum(axis=1) * 1000
        assert (np.abs(of_layers - trace.calls[name]) <= 1000 * (trace.layers + 1)).all()
    begun = trace.layer_us[:, :, 0].sum(axis=1) * 1000
    assert (begun <= trace.calls["outside_ns"] + trace.calls["watch_ns"] + 9_000).all()


def expected_of(trace: Trace, first: int, layer: int, expert: int):
    """The last eviction of an expert before a decode call's lookup, by walking all of them."""
    found = None
    for step, gone_layer, gone, by_layer, by_expert in trace.evictions.tolist():
        if (gone_layer, gone) == (layer, expert) and (step, by_layer) < (first, layer):
            found = (step, (by_layer, by_expert))
    return found or (None, None)


def test_each_miss_has_its_cause(run):
    """Reads, evictions, evicting experts and Belady's hits agree with separate computations."""
    trace = run.trace
    routing = routing_of(trace)
    bound = simulate(routing, "belady", 10)
    start = trace.resident_at_start
    assert len(start)
    seen = 0
    for token in range(1, run.generated + 1):
        found = run.explain(token)
        assert found.lookups == (trace.experts[trace.call == trace.call[found.step]] >= 0).sum()
        here = ~trace.hits[found.step] & (trace.experts[found.step] >= 0)
        wanted = {(int(layer), int(trace.experts[found.step, layer, i]))
                  for layer, i in np.argwhere(here)}  # fmt: skip
        assert {(miss.layer, miss.expert) for miss in found.misses} == wanted
        read = trace.reads[trace.call[trace.reads["step"]] == trace.call[found.step]]
        assert sum(miss.nbytes for miss in found.misses) == read["nbytes"].sum()
        for miss in found.misses:
            expected = expected_of(trace, found.step, miss.layer, miss.expert)
            assert (miss.evicted_at, miss.evicted_by) == expected
            resident_before = [miss.layer, miss.expert] in start.tolist()
            read_before = ((trace.reads["step"] < found.step) & (trace.reads["layer"] == miss.layer)
                           & (trace.reads["expert"] == miss.expert)).any()  # fmt: skip
            assert (miss.evicted_at is not None) == (resident_before or read_before)
            seen += miss.evicted_at is not None
    assert seen > 5
    # from an empty cache
    cold = Run.of(replace(trace, resident_at_start=np.zeros((0, 2), np.int16)))
    for token in (1, 7, 20):
        found = cold.explain(token)
        for miss in found.misses:
            at = trace.experts[found.step, miss.layer].tolist().index(miss.expert)
            assert miss.resident_under_belady == bool(bound.hits[found.step, miss.layer, at])


def test_the_words_say_what_the_numbers_say(run):
    """Every format names the token, its largest part and each layer with reads; HTML is escaped."""
    slow = int(slowest(run.trace, 1)[0])
    token = int(np.flatnonzero(run.trace.produced >= 0).tolist().index(slow)) + 1
    found = run.explain(token)
    assert found.step == slow and found.slower_than > 0.9
    assert "which knows the future (Belady)" in str(found) or not found.misses
    for form in (str(found), found._repr_markdown_(), found._repr_html_()):
        assert f"token {token}" in form
        assert "waiting for reads" in form or not found.misses
        for layer in found.layers:
            for miss in layer.misses:
                assert str(miss.expert) in form
    odd = replace(found, name="token <b>|`")
    assert "<b>|" not in odd._repr_html_() and "token <b>" not in odd._repr_markdown_()


def test_three_sentences_explain_a_token_to_a_stranger(run):
    """What it waited for, why its longest read was not in RAM, and what an optimal cache has."""
    found = next(each for each in (run.explain(n) for n in range(2, 21))
                 if any(miss.evicted_at is not None for miss in each.misses))  # fmt: skip
    layer = next(each for each in found.layers if each.misses)
    miss = replace(layer.misses[0], nbytes=2_000_000, start_ms=1.0, ms=4.0, evicted_at=2,
                   evicted_by=(1, 30), resident_under_belady=False)  # fmt: skip
    one = replace(layer, misses=(miss,), parts={**layer.parts, "read_wait": 3.0})
    alone = replace(found, layers=(one,), ms=12.0, parts={"read_wait": 3.0}, slots=10,
                    names={2: "prompt token 3"}, step=19)  # fmt: skip
    assert sentences(alone) == [
        f"It waited 3 ms of 12 ms (25 %) for 1 expert, 2 MB, all in layer {layer.layer}.",
        f"The longest read was layer {layer.layer}'s expert {miss.expert} (2 MB, 4 ms): it was "
        "evicted at prompt token 3 for layer 1's expert 30.",
        "Even an optimal cache of 10 experts would not have had it in RAM.",
    ]
    assert miss_text(alone, miss) == (
        f"expert {miss.expert} (evicted at prompt token 3 for layer 1's expert 30; an optimal "
        "cache would evict it too)"
    )
    new = replace(miss, expert=21, evicted_at=None, evicted_by=None)
    two = replace(alone, layers=(replace(one, misses=(miss, new)),))
    both = f"{miss_text(alone, miss)} and expert 21 (never in RAM before)"
    assert f"  layer {layer.layer} waited 3 ms for {both}\n" in str(two)
    assert "about as long" not in str(
        replace(alone, ms=10.0, usual_ms=10.0, usual={"read_wait": 3.0})
    )
    new = replace(miss, evicted_at=None, evicted_by=None)
    cold = replace(alone, layers=(replace(one, misses=(new,)),))
    assert sentences(cold)[1].endswith("it was never in RAM before.")
    waits = [replace(one, layer=n, parts={"read_wait": n + 1.0}) for n in (4, 5)]
    both = replace(alone, layers=(*waits, replace(one, layer=6, misses=())))
    assert sentences(both)[0] == (
        "It waited 3 ms of 12 ms (25 %) for 2 experts, 4 MB, in 2 of 3 layers; 6 ms of it in "
        "layer 5."
    )
    still = replace(alone, layers=(replace(one, misses=()),), lookups=8, parts={"dense": 9.0})
    assert sentences(still) == [
        "All 8 lookups hit: nothing was read.",
        "Most of its time was dense compute: 9 ms (75 %).",
    ]


def test_the_headline_compares_without_claiming_too_much(run):
    """Mostly is more than half; fastest and slowest are called so; a ratio has no false digits."""
    found = next(each for each in map(run.explain, range(2, 21)) if each.misses)
    fast = replace(
        found, name="token 20", ms=3.37, usual_ms=12.6, slower_than=0.0, usual={"read_wait": 3.92},
        parts={"read_wait": 0.656},
    )  # fmt: skip
    assert str(fast).startswith(
        "token 20 took 3.37 ms, 0.27 × the run's median of 12.6 ms; none of its tokens was faster."
        "\nIt took 9.23 ms less than the median, the largest part of it in waiting for reads: "
        "0.656 ms instead of 3.92 ms."
    )
    slow = replace(fast, ms=15.0, slower_than=0.9, decode_calls=20, parts={"read_wait": 6.0})
    slowest = replace(slow, slower_than=0.95)
    assert "of 12.6 ms; the slowest of its 20 decoded tokens.\n" in str(slowest)
    assert "90 % of its tokens were faster." in str(slow)
    assert "2.40 ms more than the median, mostly due to waiting for reads: 6 ms" in str(slow)
    quick = replace(fast, disk=replace(found.disk, nbytes=249_000, rate=367e6))
    line = next(line for line in str(quick).splitlines() if line.startswith("Disk:"))
    assert line.startswith("Disk: reading 249 kB takes 0.678 ms at 367 MB/s (")
    assert line.endswith("; it waited 0.656 ms, 0.97 times that.")


def test_limits_are_measured_or_unknown(run):
    """A limit is bytes over a rate; without rate or dense size it is unknown, with the reason."""
    trace = replace(run.trace, info=replace(run.trace.info, memory_rate=0.0))
    explanations = (trace.explain(step) for step in np.flatnonzero(trace.produced >= 0)[1:])
    found = next(found for found in explanations if found.misses)
    assert "Memory speed has not been measured: run %outlier bench --memory." in str(found)
    known = run.explain(2, memory_rate=1e9)
    k = int((trace.experts[known.step] >= 0).sum())
    info = trace.info
    assert 0 < info.embedding_nbytes < info.dense_nbytes
    nbytes = info.dense_nbytes - info.embedding_nbytes + k * info.expert_nbytes[0]
    assert known.memory.nbytes == nbytes and known.memory.ms == pytest.approx(nbytes / 1e6)
    probed = replace(trace, info=replace(trace.info, disk_rate=2e9, dense_nbytes=0))
    found = probed.explain(found.step)
    assert found.disk.ms == pytest.approx(found.disk.nbytes / 2e6) and "measured by a probe" in str(
        found
    )
    assert "size of its dense weights was not recorded" in str(found)


def test_a_loaded_trace_explains_the_same(run, tmp_path):
    """The text is the same after saving and loading; a trace without times is refused."""
    again = Run.load(run.save(tmp_path / "run.safetensors"))
    assert str(again.explain(5)) == str(run.explain(5))
    foreign = replace(run.trace, info=replace(run.trace.info, absent=("calls",)))
    with pytest.raises(TraceError, match="no times"):
        foreign.explain(3)
    for token in (0, 21, -21):
        with pytest.raises(OptionError, match="generated 20, numbered from 1"):
            run.explain(token)
    assert run.explain(-1).step == run.explain(20).step


def test_the_timeline_has_every_layer_and_every_read(run):
    """Bars end with the call, and each miss has a read; older traces show parts of the call."""
    found = next(run.explain(n) for n in range(2, 21) if run.explain(n).misses)
    figure = found.figure()
    bars = [part for part in figure.data if part.type == "bar"]
    ends = max(base + x for bar in bars for base, x in zip(bar.base, bar.x, strict=True))
    assert ends == pytest.approx(found.ms, rel=0.02)
    reads = next(part for part in figure.data if part.type == "scatter")
    assert sum(x is None for x in reads.x) == len(found.misses)
    old = replace(run.trace, layer_us=run.trace.layer_us[:0])
    bars = [part for part in old.explain(found.step).figure().data if part.type == "bar"]
    assert sum(bar.x[0] for bar in bars) == pytest.approx(found.ms, rel=0.02)
    assert figure.layout.xaxis.title.text == "ms since the call began"
    whole = old.explain(found.step).figure()
    assert (
        dict(zip(whole.layout.yaxis.tickvals, whole.layout.yaxis.ticktext, strict=True))[-1]
        == "all"
    )
    looks = [
        (bar.marker.color, bar.marker.pattern.shape) for bar in whole.data if bar.type == "bar"
    ]
    assert len(set(looks)) == len(looks) > 1
