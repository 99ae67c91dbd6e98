"""The eviction order is the policy's own, now and at any earlier call of a recorded run."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outlier_jupyter.residency import ExpertKey
from outlier_jupyter.residency.eviction_order import (
    KEPT_STARTS,
    CacheStart,
    CacheStarts,
    OrderReplay,
    interleaved,
)
from outlier_jupyter.residency.policies import POLICIES, make_policy
from outlier_jupyter.residency.replay import RecordedRouting, part_of, serve
from outlier_jupyter.residency.slot_table import SlotTable
from outlier_jupyter.residency.table_order import ordered
from outlier_jupyter.residency.table_order import pinned as pinned_in
from tests.residency import first_in
from tests.residency.routings import routing_of, routings

NAMES = ("lru", "predictive", "first-in")


@pytest.fixture(autouse=True, scope="module")
def _first_in() -> Iterator[None]:
    first_in.add()
    yield
    del POLICIES[first_in.SPEC.name]


def tables_of(routing: RecordedRouting, policy: str, slots: int) -> dict[int, SlotTable]:
    """An empty table for each layer, shared within a bank."""
    tables: dict[int, SlotTable] = {}
    for mine, share in routing.banks(slots):
        table = SlotTable(share, make_policy(policy, routing.experts_per_layer))
        tables |= dict.fromkeys(np.flatnonzero(mine).tolist(), table)
    return tables


def resident_in(tables: dict[int, SlotTable], width: int) -> np.ndarray:
    out = np.zeros((len(tables), width), bool)
    for table in tables.values():
        for layer, expert in table:
            out[layer, expert] = True
    return out


def order_in(tables: dict[int, SlotTable]) -> list[int]:
    return interleaved([ordered(table) for table in dict.fromkeys(tables.values())]).tolist()


@pytest.mark.parametrize("policy", NAMES)
@given(routing=routings(), slots=st.integers(2, 16), data=st.data())
@settings(deadline=None)
def test_a_replay_gives_the_order_that_a_table_had(policy, routing, slots, data):
    """After any call, forwards or back: with prompts in chunks and one or two caches."""
    tables, orders = tables_of(routing, policy, slots), []
    for call in range(routing.calls):
        serve(part_of(routing, call, call + 1), tables)
        orders.append((order_in(tables), resident_in(tables, routing.width)))
    replay = OrderReplay(routing, policy, slots)
    for call in data.draw(st.lists(st.integers(0, routing.calls - 1), max_size=6)):
        order, resident = orders[call]
        found, pinned, same = replay.order(call + 1, resident)
        assert (found.tolist(), pinned, same) == (order, 0, True)


@pytest.mark.parametrize("policy", ["lru", "predictive"])
@given(before=routings(), seed=st.integers(0, 99), slots=st.integers(2, 16))
@settings(deadline=None)
def test_with_the_cache_before_a_run_the_order_is_exact(policy, before, seed, slots):
    """The policy goes on with what it had learned, and the copy stays as it was."""
    rng = np.random.default_rng(seed)
    layers = len(before.experts_per_layer)
    after = routing_of(
        rng.integers(0, before.width, (5, layers, 2)), before.width, None, before.bank
    )
    tables = tables_of(before, policy, slots)
    serve(before, tables)
    members = {table: [n for n in tables if tables[n] is table] for table in tables.values()}
    start = CacheStart([(layers, table) for table, layers in members.items()])
    serve(after, tables)
    replay = OrderReplay(after, policy, slots, (), start)
    for _ in range(2):
        found, _, same = replay.order(5, resident_in(tables, after.width))
        assert same and found.tolist() == order_in(tables)
        replay.order(0, resident_in(tables, after.width))


@given(lookups=st.lists(st.integers(0, 11), max_size=40), capacity=st.integers(1, 12))
def test_lru_is_ordered_by_last_use(lookups, capacity):
    """As in an ordered dictionary, token by token."""
    routing = routing_of(np.array(lookups, np.int16).reshape(-1, 1, 1), 12)
    replay, naive = OrderReplay(routing, "lru", capacity), OrderedDict[int, None]()
    for call, expert in enumerate(lookups):
        naive.pop(expert, None)
        naive[expert] = None
        if len(naive) > capacity:
            naive.popitem(last=False)
        resident = np.isin(np.arange(12), list(naive))[None]
        found, _, same = replay.order(call + 1, resident)
        assert same and found.tolist() == list(naive)


@pytest.mark.parametrize("policy", NAMES)
@given(routing=routings(width=8), capacity=st.integers(2, 9), pinned=st.sets(st.integers(0, 7)))
@settings(deadline=None)
def test_what_is_first_in_order_is_evicted_next(policy, routing, capacity, pinned):
    """If the next lookup changes no score. Pinned experts come last."""
    table = tables_of(routing_of(routing.experts, 8, routing.starts), policy, capacity)[0]
    pinned = {ExpertKey(0, expert) for expert in sorted(pinned)[: table.capacity - 1]}
    table.pin(pinned)
    serve(routing, dict.fromkeys(range(len(routing.experts_per_layer)), table))
    order = table.order()
    pinned_at = [key in pinned for key in order]
    assert pinned_at == sorted(pinned_at) and pinned_in(table) == sum(pinned_at)
    if table.capacity > len(pinned) + 1:
        table.shrink(table.capacity - 1)
    gone = [key for key in order if key not in table]
    assert gone == order[: len(gone)]


def test_the_recorded_residency_rules():
    """Where a replay would have evicted another expert, the recorded ones are ranked."""
    routing = routing_of([[[0]], [[1]], [[2]]], 4)
    resident = np.array([[True, False, True, False]])
    found, _, same = OrderReplay(routing, "lru", 2).order(3, resident)
    assert found.tolist() == [0, 2] and not same


def test_orders_of_two_caches_are_interleaved_by_place():
    """An expert halfway to its eviction stands between the others that are."""
    orders = [np.array([1, 2, 3, 4]), np.array([10, 20])]
    assert interleaved(orders).tolist() == [1, 10, 2, 3, 20, 4]
    assert interleaved([]).tolist() == []


def test_only_the_newest_starts_take_memory_and_none_is_pickled():
    """An engine that ran often keeps a few copies; a file of a run has none."""
    table = SlotTable(2, make_policy("lru", [4]))
    starts = CacheStarts()
    taken = [starts.take([([0], table)]) for _ in range(KEPT_STARTS + 2)]
    assert [len(start.tables) for start in taken] == [0, 0] + [1] * KEPT_STARTS
    assert pickle.loads(pickle.dumps(taken[-1])).tables == []
    assert len(taken[-1].tables) == 1
