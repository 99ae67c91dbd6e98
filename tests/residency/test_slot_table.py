"""For any sequence of requests no slot is lost or shared, and LRU evicts in LRU order."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import OrderedDict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outlier_jupyter.residency import ExpertKey
from outlier_jupyter.residency.policies import make_policy, policy_names
from outlier_jupyter.residency.slot_table import SlotTable
from tests.residency.naive import NaiveTable

KEYS = st.builds(ExpertKey, st.integers(0, 2), st.integers(0, 5))
REQUESTS = st.lists(st.lists(KEYS, min_size=1, max_size=4, unique=True), max_size=40)


def table_of(capacity: int, policy: str = "lru") -> SlotTable:
    return SlotTable(capacity, make_policy(policy, (6, 6, 6)))


def serve(table: SlotTable, keys, fail=frozenset()):
    """Reserve, then commit or release like a pager; return the plan."""
    plan = table.reserve(keys)
    for placement in plan.placements:
        (table.release if placement.key in fail else table.commit)(placement)
    return plan


@settings(deadline=None)
@given(requests=REQUESTS, capacity=st.integers(4, 12), fail=st.sets(KEYS, max_size=4))
def test_every_slot_is_always_in_one_state(requests, capacity, fail):
    """Whatever is looked up and whichever reads fail, no slot is lost and none is shared."""
    table = table_of(capacity)
    for keys in requests:
        plan = serve(table, keys, fail)
        table.check()
        assert set(plan.hits) | {p.key for p in plan.placements} == set(keys)
        assert all((key in table) == (key not in fail or key in plan.hits) for key in keys)


@settings(deadline=None)
@given(requests=REQUESTS, capacity=st.integers(4, 12))
def test_lru_evicts_the_least_recently_used(requests, capacity):
    """A plain ordered dictionary has the same hits and the same evictions, in order."""
    table, order = table_of(capacity), OrderedDict()
    for keys in requests:
        plan = serve(table, keys)
        assert list(plan.hits) == [key for key in keys if key in order]
        victims = []
        for _ in range(len(order.keys() | set(keys)) - capacity):
            victim = next(key for key in order if key not in keys)
            del order[victim]
            victims.append(victim)
        for key in keys:
            order.pop(key, None)
            order[key] = None
        assert [p.evicted for p in plan.placements if p.evicted] == victims
        assert table.order() == list(order)


@settings(deadline=None)
@given(requests=REQUESTS, pinned=st.sets(KEYS, min_size=1, max_size=3))
@pytest.mark.parametrize("policy", policy_names())
def test_pinned_experts_are_never_evicted(policy, requests, pinned):
    """Once read, a pinned expert stays resident, whatever else is looked up."""
    table = table_of(7, policy)
    table.pin(pinned)
    serve(table, pinned)
    for keys in requests:
        for part in table.split(keys):
            serve(table, part)
        table.check()
        assert all(key in table for key in pinned)


def test_pins_leave_a_slot_for_the_others():
    """As many pins as slots are refused, and then no expert is pinned."""
    table = table_of(2)
    with pytest.raises(ValueError, match="2 pinned experts leave none of 2 slots"):
        table.pin([ExpertKey(0, 0), ExpertKey(0, 1)])
    assert table.room == 2


@settings(deadline=None)
@given(
    residents=st.lists(KEYS, max_size=4, unique=True), keys=st.lists(KEYS, min_size=1, unique=True)
)
def test_a_lookup_is_split_into_parts_that_fit_with_resident_keys_first(residents, keys):
    """The parts have each key once and fit the slots; no resident key is in a later part."""
    table = table_of(4)
    serve(table, residents)
    parts = table.split(keys)
    assert sorted(key for part in parts for key in part) == sorted(keys)
    assert all(len(part) <= 4 for part in parts)
    assert not any(key in table for part in parts[1:] for key in part)


@settings(deadline=None)
@given(requests=REQUESTS, sizes=st.lists(st.integers(4, 12), min_size=1, max_size=6))
def test_resizing_keeps_the_newest_and_every_slot_in_one_state(requests, sizes):
    """The last used experts stay, in their slots or moved as returned; no other slot changes."""
    table, order = table_of(4), OrderedDict()
    for turn, size in enumerate(sizes):
        for keys in requests[turn :: len(sizes)]:
            serve(table, keys)
            for key in keys:
                order[key] = order.pop(key, None)
        before = {key: table.reserve([key]).hits[key] for key in order if key in table}
        if size < table.capacity:
            moves = dict(table.shrink(size))
            assert all(to < size <= origin for origin, to in moves.items())
            assert set(table) == set(list(before)[-size:])
        else:
            moves = {}
            table.grow(size)
            assert set(table) == set(before)
        table.check()
        assert table.capacity == size
        for key in before:
            if key in table:
                slot = before[key]
                assert table.reserve([key]).hits[key] == moves.get(slot, slot)


def test_a_table_with_a_read_under_way_does_not_shrink():
    """A slot with a read under way cannot be removed."""
    table = table_of(3)
    plan = table.reserve([ExpertKey(0, 0)])
    with pytest.raises(ValueError, match="1 slots are reserved"):
        table.shrink(2)
    table.commit(plan.placements[0])
    assert table.shrink(2) == []
    with pytest.raises(ValueError, match="0 would be left"):
        table.shrink(0)


def test_more_keys_than_slots_change_nothing():
    """A lookup of more experts than slots is refused before anything is evicted."""
    table = table_of(2)
    serve(table, [ExpertKey(0, 0), ExpertKey(0, 1)])
    with pytest.raises(ValueError, match="3 experts at once do not fit 2 slots"):
        table.reserve([ExpertKey(1, expert) for expert in range(3)])
    table.check()
    assert list(table) == [(0, 0), (0, 1)]


def test_a_table_needs_a_slot():
    """A table without slots is refused."""
    with pytest.raises(ValueError, match="give 1 or more"):
        table_of(0)


USES = st.dictionaries(st.integers(0, 5), st.integers(1, 9), min_size=1)
CHUNKS = st.lists(st.tuples(st.integers(0, 2), USES, st.booleans()))
"""Lookups: the layer, its experts with their number of uses, and whether it is prefill."""


@settings(deadline=None, max_examples=300)
@given(chunks=CHUNKS, capacity=st.integers(2, 12), pinned=st.sets(KEYS, max_size=3))
def test_prompts_and_tokens_are_served_as_plain_lists_would(chunks, capacity, pinned):
    """Parts, hits, evictions, order and most used experts agree, lookup by lookup."""
    table, naive = table_of(capacity), NaiveTable(capacity)
    if len(pinned) < capacity:
        table.pin(pinned)
        naive.pinned = set(pinned)
    for layer, used, prompt in chunks:
        keys = [ExpertKey(layer, expert) for expert in sorted(used)]
        uses = {key: used[key.expert] for key in keys} if prompt else None
        stay = table.most_used(layer, uses, 3) if uses is not None else frozenset()
        if uses is not None:
            assert stay == naive.most_used(layer, uses, 3)
        parts = table.split(keys, uses)
        assert parts == naive.split(keys, uses)
        for part in parts:
            resident = [key for key in part if key in naive.recent]
            plan = serve(table, part)
            assert list(plan.hits) == resident
            assert [p.evicted for p in plan.placements if p.evicted] == naive.serve(part)
            if prompt:
                table.demote_except(layer, stay)
                naive.demote_except(layer, set(stay))
            table.check()
        assert table.order() == naive.order()


AS_PYTHON = """
import numpy as np
from outlier_jupyter.residency import slot_table
from outlier_jupyter.residency.policies import policy_names
from outlier_jupyter.residency.replay import RecordedRouting, lru_curve, simulate
slot_table.precompile()
rng = np.random.default_rng(0)
experts = np.argsort(rng.random((30, 3, 5)), axis=2)[:, :, :2].astype(np.int16)
starts = np.concatenate([[0], np.arange(9, 31)])
for policy in policy_names():
    for slots in (2, 3, 7, 15):
        simulate(RecordedRouting(experts, starts, (5,) * 3, np.zeros(3, np.int64)), policy, slots)
"""


def test_no_compiled_loop_leaves_its_arrays():
    """Run as Python, where an index out of an array raises, the loops end in order."""
    done = subprocess.run(
        [sys.executable, "-c", AS_PYTHON], env=os.environ | {"NUMBA_DISABLE_JIT": "1"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
