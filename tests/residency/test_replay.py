"""The fast replay equals the table; Belady's bound is a bound; predictive beats LRU."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outlier_jupyter.residency import ExpertKey
from outlier_jupyter.residency.policies import POLICIES, PolicySpec, make_policy, policy_names
from outlier_jupyter.residency.replay import (
    RecordedRouting,
    lru_curve,
    simulate,
    simulate_in_python,
)
from outlier_jupyter.residency.slot_table import SlotTable
from tests.residency.routings import drifting, real, routing_of, routings

CASES = {"drift of 60": drifting(0, every=60), "stationary": drifting(1, every=999)} | real()


def lookups(routing: RecordedRouting):
    """(layer, distinct experts) in order."""
    for first, end in itertools.pairwise(routing.starts):
        for layer in range(routing.experts.shape[1]):
            rows = routing.experts[first:end, layer]
            yield layer, frozenset(rows[rows >= 0].tolist())


def without_kernel(name: str) -> PolicySpec:
    """The same policy, replayed with a slot table, lookup by lookup."""
    return replace(POLICIES[name], kernel=None)


@pytest.mark.parametrize("policy", policy_names())
@given(routing=routings(), slots=st.integers(2, 16))
@settings(deadline=None, max_examples=150)
def test_the_compiled_replay_is_what_a_table_does(policy, routing, slots):
    """They agree for every policy, with prompts in chunks, more experts than slots, two banks."""
    fast = simulate(routing, policy, slots)
    by_table = simulate_in_python(routing, without_kernel(policy), slots)
    np.testing.assert_array_equal(fast.hits, by_table.hits)
    np.testing.assert_array_equal(fast.reads, by_table.reads)


@pytest.mark.parametrize("name", CASES)
def test_a_replay_of_a_long_routing_is_the_tables(name):
    """For every policy, token by token and also on real models: hit for hit."""
    routing = CASES[name]
    routing = RecordedRouting(
        routing.experts[:60], routing.starts[:61], routing.experts_per_layer, routing.bank
    )
    slots = round(1.5 * routing.experts[0].size)
    for policy in policy_names():
        fast = simulate(routing, policy, slots)
        by_table = simulate_in_python(routing, without_kernel(policy), slots)
        np.testing.assert_array_equal(fast.hits, by_table.hits)
        assert 0 < fast.hits.mean() < 1


STARTS = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 3)), unique=True)
"""Experts resident at the start, of two layers × four experts, in eviction order."""


def fewest_reads(routing: RecordedRouting, slots: int, start: list) -> int:
    """The fewest reads over all possible eviction choices, tried exhaustively, with one bank."""
    wanted_lookups = [(layer, wanted) for layer, wanted in lookups(routing) if wanted]
    together = np.diff(routing.starts) == 1
    whole = [
        len(wanted) <= slots and together[call]
        for call in range(routing.calls)
        for layer, wanted in lookups(
            RecordedRouting(
                routing.experts[routing.starts[call] : routing.starts[call + 1]],
                np.array([0, routing.starts[call + 1] - routing.starts[call]]),
                routing.experts_per_layer,
                routing.bank,
            )
        )
        if wanted
    ]

    @lru_cache(None)
    def fewest(at: int, resident: frozenset) -> int:
        if at == len(wanted_lookups):
            return 0
        layer, experts = wanted_lookups[at]
        wanted = frozenset((layer, expert) for expert in experts)
        missing = wanted - resident
        if not missing:
            return fewest(at + 1, resident)
        over = max(0, len(resident | wanted) - slots)
        # One token's experts stay together where they fit; any of a chunk's may be evicted.
        may_go = resident - wanted if whole[at] else resident | wanted
        left = (
            (resident | wanted) - set(out) for out in itertools.combinations(sorted(may_go), over)
        )
        return len(missing) + min(fewest(at + 1, each) for each in left)

    return fewest(0, frozenset(start[-slots:]))


@given(
    routing=routings(steps=8, layers=2, width=4),
    slots=st.integers(1, 8),
    start=STARTS,
)
@settings(deadline=None, max_examples=150)
def test_no_choice_of_victims_reads_less_than_belady(routing, slots, start):
    """Exhaustive search reads no less, from any start, for prompts and single tokens."""
    experts = sum(routing.experts_per_layer)
    start = [key for key in start if key[0] < len(routing.experts_per_layer)]
    routing = RecordedRouting(
        routing.experts, routing.starts, routing.experts_per_layer, 0 * routing.bank
    )
    slots = min(slots, experts)
    found = simulate(routing, "belady", slots, start).reads.sum()
    assert found == fewest_reads(routing, slots, start)


@given(routing=routings(steps=40, layers=2, width=4), slots=st.integers(1, 8), start=STARTS)
@settings(deadline=None, max_examples=300)
@pytest.mark.parametrize("policy", policy_names())
def test_no_policy_beats_belady_from_any_start(policy, routing, slots, start):
    """At every size Belady reads at most as many, and token by token hits at least as often."""
    start = [key for key in start if key[0] < len(routing.experts_per_layer)]
    bound = simulate(routing, "belady", slots, start)
    assert bound.reads.sum() <= simulate(routing, policy, slots, start).reads.sum()
    single = routing_of(routing.experts, 4, bank=routing.bank)
    bound = simulate(single, "belady", slots, start)
    assert bound.hits.sum() >= simulate(single, policy, slots, start).hits.sum()


@pytest.mark.parametrize("name", CASES)
def test_belady_is_the_bound_from_what_an_earlier_run_left(name):
    """On long routings, also real ones, that start with the last experts of the first half."""
    whole = CASES[name]
    half = len(whole.experts) // 2
    later = RecordedRouting(
        whole.experts[half:], whole.starts[half:] - half, whole.experts_per_layer, whole.bank
    )
    rows = whole.experts[max(0, half - 2) : half]
    start = list(dict.fromkeys((layer, int(e)) for row in rows for layer in range(row.shape[0])
                               for e in row[layer] if e >= 0))  # fmt: skip
    for tokens in (0.9, 2, 4):
        slots = round(tokens * later.experts[0].size)
        bound = simulate(later, "belady", slots, start).hits.sum()
        for policy in policy_names():
            assert simulate(later, policy, slots, start).hits.sum() <= bound


@given(
    routing=routings(steps=16),
    start=st.lists(st.tuples(st.integers(0, 0), st.integers(0, 4)), unique=True),
)
@settings(deadline=None, max_examples=100)
def test_the_curve_is_lru_at_every_size(routing, start):
    """Choices, reads, bytes and waits agree per token in both phases, also from a warm start."""
    routing = routing_of(routing.experts, 5)
    layers = routing.experts.shape[1]
    phase = np.arange(routing.calls) % 2
    nbytes = np.arange(1, layers + 1)
    curve = lru_curve(routing, phase, nbytes, start)
    for slots in range(max(curve.widest, 1), 5 * layers + 1):
        outcome = simulate(routing, "lru", slots, start)
        by_call = np.add.reduceat(outcome.hits.sum(axis=(1, 2)), routing.starts[:-1])
        parts = (outcome.reads, outcome.reads * nbytes, outcome.reads > 0)
        for which in (0, 1):
            mine = phase == which
            assert curve.hit(slots)[which] == by_call[mine].sum()
            for missed, part in zip(curve.missed(slots)[:, which], parts, strict=True):
                assert missed == part[mine].sum()


def test_the_curve_survives_its_renumbering():
    """A routing far longer than the tree that counts it still agrees with the replay."""
    rng = np.random.default_rng(2)
    routing = routing_of(np.argsort(rng.random((400, 2, 5)), axis=2)[:, :, :2], 5)
    curve = lru_curve(routing, np.ones(400), [1, 1])
    assert [curve.hit(s)[1] for s in range(2, 11)] == [
        simulate(routing, "lru", s).hits.sum() for s in range(2, 11)
    ]


@pytest.mark.parametrize("tokens", [0.9, 2, 4])
@pytest.mark.parametrize("name", CASES)
def test_predictive_closes_a_quarter_of_the_way_from_lru_to_the_bound(name, tokens):
    """On every routing, real or synthetic, at every size, with the same parameters."""
    routing = CASES[name]
    slots = round(tokens * routing.experts[0].size)
    lru, predictive, bound = (
        simulate(routing, policy, slots).hits.sum() for policy in ("lru", "predictive", "belady")
    )
    assert predictive - lru >= 0.25 * (bound - lru)
    if tokens < 1 and name in real():
        assert predictive >= 0.6 * bound


def test_routings_one_after_the_other_are_one():
    """The second run starts with the first one's cache and policy state."""
    whole = drifting(3, every=50, tokens=80)
    parts = [
        RecordedRouting(
            whole.experts[a:b], np.arange(b - a + 1), whole.experts_per_layer, whole.bank
        )
        for a, b in ((0, 50), (50, 80))
    ]
    both = simulate(parts[1].after(parts[0]), "predictive", 200)
    expected = simulate(whole, "predictive", 200)
    np.testing.assert_array_equal(both.last(parts[1]).hits, expected.hits[50:])
    np.testing.assert_array_equal(both.last(parts[1]).reads, expected.reads[50:])


@pytest.mark.parametrize("policy", policy_names())
def test_a_failed_read_is_forgotten_by_every_policy(policy):
    """An expert whose read failed is in no eviction order."""
    table = SlotTable(2, make_policy(policy, (4,)))
    table.routed(0, np.array([[0, 1]]))
    good, bad = table.reserve([ExpertKey(0, 0), ExpertKey(0, 1)]).placements
    table.commit(good)
    table.release(bad)
    assert table.order() == [(0, 0)]
