"""A slot table's eviction order and slots, and a compiled replay that goes on from its state."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from . import Int64s, slots
from .policies.predictive import Predictive, new_state
from .replay import RecordedRouting
from .replay_loop import replay
from .slot_table import SlotTable


def ordered(table: SlotTable) -> Int64s:
    """The resident keys (layer × width + expert) in eviction order; pinned ones last."""
    return slots.order(table._slots)


def ranked(table: SlotTable, keys: Int64s) -> tuple[Int64s, int, bool]:
    """`keys`, which ascend, in eviction order as if they were the resident ones.

    Returns:
        the keys, how many of them are pinned (the last ones), and whether they are the resident
        ones.
    """
    resident = np.flatnonzero(table._slots.slot_of >= 0)
    pinned = int((table._slots.keep[keys] > 0).sum())
    return slots.ranked(table._slots, keys), pinned, np.array_equal(resident, keys)


def pinned(table: SlotTable) -> int:
    """How many resident experts are pinned: the last ones in order."""
    return int((table._slots.keep[table._slots.slot_of >= 0] > 0).sum())


def ranks(table: SlotTable) -> bool:
    """Whether the policy can tell the order between two lookups; see `Policy.ranks`."""
    return table._policy.ranks


def slots_of(table: SlotTable, layer: int, experts: int) -> Int64s:
    """The slot of each of a layer's `experts`; -1 for those that are not resident."""
    first = layer * table._width
    return table._slots.slot_of[first : first + experts].copy()


def replay_calls(
    table: SlotTable,
    kernel: int,
    routing: RecordedRouting,
    mine: npt.NDArray[np.bool_],
    first: int,
    end: int,
) -> None:
    """Look up the calls [first, end) of a routing in a table, by the compiled replay.

    Args:
        kernel: the policy's, see `PolicySpec`.
        mine: bool [layers], those whose experts share the table.
    """
    experts = np.ascontiguousarray(routing.experts, np.int16)
    layers, k = experts.shape[1:]
    policy = table._policy
    state = policy.state(k) if isinstance(policy, Predictive) else new_state(np.zeros((1, 1)), 1)
    hits = np.zeros(experts.shape, np.bool_)
    reads = np.zeros((end - first, layers), np.int32)
    none, future = np.zeros(0, np.int64), np.zeros((0, 0, 0), np.int64)
    starts = routing.starts[first : end + 1]
    replay(kernel, state, table._slots, future, experts, starts, mine, none, hits, reads)
