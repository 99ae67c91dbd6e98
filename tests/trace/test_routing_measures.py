"""Routing measures against SciPy and slow, plain counting, on traces of all shapes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from outlier_jupyter.errors import OptionError
from outlier_jupyter.events import DECODE, PREFILL
from outlier_jupyter.trace import CALL, EVICTION, READ, Trace, TraceInfo
from outlier_jupyter.trace import routing_measures as r
from outlier_jupyter.trace.router_entropy import router_entropy


def routed(experts: np.ndarray, sizes: tuple[int, ...], prefill: int = 0) -> Trace:
    """A trace with routing `experts` [steps, layers, k] and nothing else."""
    steps = len(experts)
    calls = np.zeros(steps, CALL)
    calls["first_step"], calls["steps"] = np.arange(steps), 1
    return Trace(
        tokens=np.zeros(steps, np.int32),
        produced=np.full(steps, -1, np.int32),
        phase=np.where(np.arange(steps) < prefill, PREFILL, DECODE).astype(np.uint8),
        call=np.arange(steps, dtype=np.int32),
        step_ns=np.ones(steps, np.int64),
        experts=experts.astype(np.int16),
        weights=np.full(experts.shape, np.nan, np.float32),
        hits=np.zeros(experts.shape, bool),
        reads=np.zeros(0, READ),
        evictions=np.zeros(0, EVICTION),
        calls=calls,
        resident_at_start=np.zeros((0, 2), np.int16),
        info=TraceInfo(experts_per_layer=sizes),
    )


@st.composite
def routings(draw: st.DrawFn) -> Trace:
    """Layers of different widths, missing ids, and prefill and decode parts; one may be empty."""
    sizes = tuple(draw(st.lists(st.integers(1, 7), min_size=1, max_size=3)))
    k, steps = draw(st.integers(1, min(sizes))), draw(st.integers(0, 30))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    experts = np.full((steps, len(sizes), k), -1)
    for step, layer in itertools.product(range(steps), range(len(sizes))):
        likes = rng.permutation(sizes[layer])[:k]
        experts[step, layer] = experts[step - 1, layer] if step and rng.random() < 0.4 else likes
    experts[rng.random(experts.shape) < draw(st.sampled_from([0, 0.1]))] = -1
    return routed(experts, sizes, draw(st.integers(0, steps)))


def chosen(trace: Trace, step: int, layer: int) -> list[int]:
    """The experts of one token in one layer."""
    return [int(e) for e in trace.experts[step, layer] if e >= 0]


def steps_of(trace: Trace, phase: int) -> list[int]:
    """The steps of a phase."""
    return np.flatnonzero(trace.phase == phase).tolist()


@given(routings(), st.sampled_from([PREFILL, DECODE]))
def test_balance_is_that_of_the_shares(trace: Trace, phase: int) -> None:
    """Entropy is SciPy's; Gini is the mean difference; Jain, half and never are as defined."""
    found = r.routing_measures(trace, phase)
    for layer, size in enumerate(trace.info.experts_per_layer):
        ids = [e for step in steps_of(trace, phase) for e in chosen(trace, step, layer)]
        counts = np.bincount(ids, minlength=size)
        assert found.choices[layer] == len(ids)
        assert found.never[layer] == (counts == 0).sum()
        if not ids:
            assert np.isnan([found.entropy[layer], found.gini[layer], found.half[layer]]).all()
            continue
        np.testing.assert_allclose(
            found.entropy[layer], scipy.stats.entropy(counts, base=2), atol=1e-9
        )
        apart = np.abs(counts[:, None] - counts).mean()
        np.testing.assert_allclose(found.gini[layer], apart / (2 * counts.mean()), atol=1e-9)
        jain = counts.sum() ** 2 / (size * (counts**2).sum())
        np.testing.assert_allclose(found.jain[layer], jain)
        most = np.sort(counts)[::-1].cumsum()
        needed = next(i for i, taken in enumerate(most, 1) if taken >= len(ids) / 2)
        np.testing.assert_allclose(found.half[layer], needed / size)


@given(routings(), st.sampled_from([PREFILL, DECODE]))
def test_reuse_is_what_lies_between_two_uses(trace: Trace, phase: int) -> None:
    """Distance, gap, first uses and overlap are those of counting back from every choice."""
    found = r.routing_measures(trace, phase)
    for layer in range(trace.layers):
        distances, gaps, shared = [], [], []
        for step in steps_of(trace, phase):
            now = chosen(trace, step, layer)
            before = chosen(trace, step - 1, layer) if step else []
            if now and before:
                shared.append(len(set(now) & set(before)) / len(now))
            for expert in now:
                uses = [s for s in range(step) if expert in chosen(trace, s, layer)]
                if not uses:
                    distances.append(np.inf)
                    gaps.append(np.inf)
                    continue
                between = range(uses[-1] + 1, step)
                distances.append(len({e for s in between for e in chosen(trace, s, layer)}))
                gaps.append(step - uses[-1])
        if not distances:
            assert np.isnan([found.reuse[layer], found.gap[layer]]).all()
            continue
        middle = (len(distances) - 1) // 2
        assert found.reuse[layer] == sorted(distances)[middle]
        assert found.gap[layer] == sorted(gaps)[middle]
        np.testing.assert_allclose(found.first_uses[layer], np.isinf(gaps).mean())
        mean = np.mean(shared) if shared else np.nan
        np.testing.assert_allclose(found.overlap[layer], mean, rtol=1e-6)


@given(routings(), st.integers(1, 5))
def test_segment_routing_performance_is_the_best_f1(trace: Trace, m: int) -> None:
    """SRP is the largest F1 over all thresholds, from individually counted positives."""
    found = r.routing_measures(trace, "decode", segment=m)
    steps = steps_of(trace, DECODE)
    for layer, size in enumerate(trace.info.experts_per_layer):
        active = [
            sum(e in chosen(trace, s, layer) for s in steps[p : p + m])
            for e in range(size)
            for p in range(len(steps) - m + 1)
        ]
        scores = []
        for limit in range(1, m + 1):
            true = sum(f for f in active if f >= limit)
            false = sum(m - f for f in active if f >= limit)
            missed = sum(f for f in active if f < limit)
            if true + missed:
                scores.append((2 * true / (2 * true + false + missed), true + false, true + missed))
        if not scores:
            assert np.isnan(found.srp[layer])
            continue
        best = max(score for score, *_ in scores)
        np.testing.assert_allclose(found.srp[layer], best)
        sizes = [taken / wanted for score, taken, wanted in scores if np.isclose(score, best)]
        assert np.isclose(sizes, found.srp_size[layer]).any()


@given(routings(), st.integers(1, 5), st.sampled_from([1, 1.5, 2]))
def test_segment_cache_gives_up_what_is_wanted_least(trace: Trace, m: int, ratio: float) -> None:
    """SCH is that of a naive cache which recounts the future uses at each eviction."""
    found = r.routing_measures(trace, "decode", segment=m, cache_ratio=ratio)
    steps = steps_of(trace, DECODE)
    for layer, size in enumerate(trace.info.experts_per_layer):
        k = max((len(chosen(trace, s, layer)) for s in range(trace.steps)), default=0)
        slots = max(k, min(size, round(ratio * k)))
        resident: list[int] = []
        last: dict[int, int] = {}
        hits = lookups = 0
        for i, step in enumerate(steps):
            now = chosen(trace, step, layer)
            soon = [e for s in steps[i + 1 : i + 1 + m] for e in chosen(trace, s, layer)]
            hits, lookups = hits + len(set(now) & set(resident)), lookups + len(now)
            last |= dict.fromkeys(now, step)
            # The new expert takes the evicted one's place: this order breaks ties.
            for expert in now:
                if expert in resident:
                    continue
                if len(resident) < slots:
                    resident.append(expert)
                    continue
                spare = [e for e in resident if e not in now]
                out = min(spare, key=lambda e: (soon.count(e), last[e]))
                resident[resident.index(out)] = expert
        np.testing.assert_allclose(found.sch[layer], hits / lookups if lookups else np.nan)


def test_a_hand_made_routing() -> None:
    """Two layers, top-1: one always chooses the same expert, the other changes every token."""
    same, other = np.zeros(8), np.arange(8) % 2
    trace = routed(np.stack([same, other], axis=1)[:, :, None], (4, 4))
    found = r.routing_measures(trace, segment=2, cache_ratio=1)
    np.testing.assert_allclose(found.entropy, [0, 1])
    np.testing.assert_allclose(found.gini, [0.75, 0.5])
    np.testing.assert_allclose(found.jain, [0.25, 0.5])
    np.testing.assert_allclose(found.half, [0.25, 0.25])
    np.testing.assert_array_equal(found.never, [3, 2])
    np.testing.assert_allclose(found.overlap, [1, 0])
    np.testing.assert_allclose(found.reuse, [0, 1])
    np.testing.assert_allclose(found.gap, [1, 2])
    np.testing.assert_allclose(found.srp, [1, 2 / 3])
    np.testing.assert_allclose(found.srp_size, [1, 2])
    np.testing.assert_allclose(found.sch, [7 / 8, 0])


@given(routings(), st.integers(0, 2**32))
def test_names_of_experts_do_not_matter(trace: Trace, seed: int) -> None:
    """Permuting the expert ids of each layer separately changes none of the measures.

    For the segment cache this is true except for ties, so it is not compared.
    """
    rng = np.random.default_rng(seed)
    renamed = trace.experts.copy()
    for layer, size in enumerate(trace.info.experts_per_layer):
        names = np.append(rng.permutation(size), -1)
        renamed[:, layer] = names[trace.experts[:, layer]]
    other = routed(renamed, trace.info.experts_per_layer, int((trace.phase == PREFILL).sum()))
    for before, after in zip(
        r.routing_measures(trace, None).rows(), r.routing_measures(other, None).rows(), strict=True
    ):
        assert before.keys() == after.keys()
        for name in before.keys() - {"sch"}:
            np.testing.assert_allclose(before[name], after[name], err_msg=name, atol=1e-12)


def test_confidence_is_of_the_weights_that_were_seen() -> None:
    """Confidence is the largest weight over the sum; unseen weights are NaN and not in means."""
    trace = routed(np.tile([0, 1], (3, 1, 1)), (4,))
    trace.weights[0, 0], trace.weights[1, 0] = (0.75, 0.25), (3, 1)
    np.testing.assert_allclose(r.router_confidence(trace)[:, 0], [0.75, 0.75, np.nan])
    np.testing.assert_allclose(r.routing_measures(trace).confidence, [0.75])


@given(st.lists(st.lists(st.floats(0.01, 8), min_size=3, max_size=3), min_size=1, max_size=9))
def test_router_entropy_is_scipys_of_the_weights_that_were_seen(weights) -> None:
    """It is in bits, of the weights over their sum; NaN where none was seen."""
    trace = routed(np.tile([0, 1, 2, -1], (len(weights) + 1, 1, 1)), (4,))
    trace.weights[:-1, 0, :3] = weights
    found = router_entropy(trace)
    assert found.dtype == np.float32 and found.shape == (len(weights) + 1, 1)
    wanted = scipy.stats.entropy(trace.weights[:-1, 0, :3].astype(float), base=2, axis=-1)
    np.testing.assert_allclose(found[:-1, 0], wanted, atol=1e-5)
    assert np.isnan(found[-1, 0])


@given(routings(), st.integers(1, 12))
def test_bins_over_time_hold_every_step_once(trace: Trace, bins: int) -> None:
    """Bins are contiguous, none mixes phases, and each has SciPy's entropy of its choices."""
    found = r.over_time(trace, bins)
    assert found.steps.sum() == trace.steps
    for row, (first, n) in enumerate(zip(found.first, found.steps, strict=True)):
        mine = slice(int(first), int(first + n))
        assert (trace.phase[mine] == found.phase[row]).all()
        for layer in range(trace.layers):
            ids = trace.experts[mine, layer]
            counts = np.bincount(ids[ids >= 0], minlength=1)
            expected = scipy.stats.entropy(counts, base=2) if counts.any() else np.nan
            np.testing.assert_allclose(found.entropy[row, layer], expected, atol=1e-9)
            seen = r.overlaps(trace)[mine, layer]
            mean = np.nanmean(seen) if np.isfinite(seen).any() else np.nan
            np.testing.assert_allclose(found.overlap[row, layer], mean, rtol=1e-6)


def test_what_cannot_be_measured_is_an_error() -> None:
    """An unknown phase, an empty segment and a cache below one token are one sentence each."""
    trace = routed(np.zeros((2, 1, 1)), (2,))
    for wrong in ({"phase": "training"}, {"segment": 0}, {"cache_ratio": 0.5}):
        with pytest.raises(OptionError, match=next(iter(wrong))):
            r.routing_measures(trace, **wrong)
