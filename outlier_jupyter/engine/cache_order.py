"""The eviction order of an engine's cache now, for views."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..residency import Int64s
from ..residency.eviction_order import interleaved
from ..residency.table_order import ordered, pinned, ranks
from .engine import Engine


class CacheOrder(NamedTuple):
    """The resident experts in eviction order.

    Attributes:
        keys: int64, layer × (experts of the widest layer) + expert: the first is evicted next. Of
            several caches, for layers whose experts differ in size, the orders are interleaved.
        pinned: how many of them, at the end, are never evicted.
        known: False if the policy cannot tell; see `Policy.ranks`.
    """

    keys: Int64s
    pinned: int
    known: bool


def cache_order(engine: Engine) -> CacheOrder:
    """The order now; between two lookups of the engine's own thread it is exact."""
    tables = [table for _, table in engine._installed.tables]
    if not tables:  # ranks have the caches
        width = max(engine.info.experts_per_layer, default=0)
        keys = engine.resident().astype(np.int64) @ np.array([width, 1])
        return CacheOrder(keys, 0, False)
    orders = [ordered(table) for table in tables]
    known = all(ranks(table) for table in tables)
    return CacheOrder(interleaved(orders), sum(pinned(table) for table in tables), known)
