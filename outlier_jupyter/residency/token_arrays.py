"""The arrays between the pager and compiled code that runs a token's layers: what is where, what
may be read from where, and the log of what happened.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from . import Float64s, Int64s
from .policies import lru
from .policies.predictive import Predictive, State, new_state
from .policies.registry import LRU, PREDICTIVE
from .slot_table import SlotTable
from .slots import Slots, new_slots

OFFSET, DESCRIPTOR, LENGTH, SKIP, CHECKSUM = range(5)
"""Fields of one read of an expert: from where in which file (-1: only Python reads it), how many
bytes, how many of them, at the beginning, are not its own, and the CRC-32 that they must have, or
-1. With `SKIP` below 0 all bytes go where they belong; others are read into memory beside the
slots, and copied."""
MEMORY, STRIDE, PIECES, NBYTES = range(4)
"""Fields of one of a layer's reads: the address of the first slot's memory, or of the list of its
pieces, the bytes from one slot's to the next one's, how many pieces (0: no list), and the bytes."""

START, LOOKED_UP, NS, EXPERTS_NS, WAIT_NS, INSTALL_NS, READ_START, MISSES = range(8)
"""Fields of a layer's times, in nanoseconds; `MISSES` is a count."""
TIMES = 8
IDS, HITS, KEYS, PAIRS, WHERE, EVICTED, STATE, LEFT, READ_NS = range(9)
"""Rows of a layer's log, [k] each: the chosen ids, and 1 for each that was a hit, in the router's
order; the others in the order of the lookup: the keys, the place of each in `IDS`, what
`slots.reserve` writes, one of the states below, how many reads have not ended, and how long they
took."""
ROWS = 9
IN_FLIGHT, THERE, COMPUTED, UNREAD = range(4)
"""The states of a chosen expert: its read has not ended; it is in its slot; its output is known;
its read failed, or was not taken."""
NO_POLICY = -1
"""In place of a policy's number: its lookups are made in Python."""


class PagedArrays(NamedTuple):
    """What the layers of one slot table need to look up and to read.

    Attributes:
        slots: the table; `policy`, the number of its policy; `state` and `clock`, what that writes.
        sources: int64 [keys, reads, 5]; reads: int64 [layers, reads, 4].
        queue: `KernelQueue.words`; empty where there is none.
        beside: int64 [3], the address of memory for each read of k experts, the bytes of a read
            there, and the address of zlib's `crc32`.
        overlap: whether experts are computed while others are read.
    """

    slots: Slots
    policy: int
    state: State
    clock: Float64s
    sources: Int64s
    reads: Int64s
    queue: Int64s
    beside: Int64s
    overlap: bool


class TokenLog(NamedTuple):
    """What happened to one token in the layers that chose k experts.

    Attributes:
        rows: int64 [MoE layers, ROWS, k].
        times: int64 [MoE layers, TIMES].
        weights: float32 [MoE layers, k], in the order of `IDS`.
    """

    rows: Int64s
    times: Int64s
    weights: npt.NDArray[np.float32]


def new_log(layers: int, k: int) -> TokenLog:
    """An empty log."""
    rows = np.zeros((layers, ROWS, k), np.int64)
    times = np.zeros((layers, TIMES), np.int64)
    return TokenLog(rows, times, np.zeros((layers, k), np.float32))


def table_arrays(table: SlotTable, k: int) -> tuple[Slots, int, State, Float64s]:
    """The first four of `PagedArrays`, valid until the table is resized.

    Args:
        k: the most experts of a token that are looked up.
    """
    policy, none = table._policy, no_pages()
    if type(policy) is Predictive:
        return table._slots, PREDICTIVE, policy.state(k), none.clock
    if type(policy) is lru.LRU:
        return table._slots, LRU, none.state, policy.clock
    return table._slots, NO_POLICY, none.state, none.clock


@lru_cache(maxsize=1)
def no_pages() -> PagedArrays:
    """An empty table, of which nothing is read."""
    state = new_state(np.zeros((1, 1)), 1)
    empty, none = np.zeros((1, 1, 5), np.int64), np.zeros(3, np.int64)
    table = new_slots(1, state.score, np.zeros(1))
    return PagedArrays(table, NO_POLICY, state, np.zeros(1), empty, empty, none, none, False)
