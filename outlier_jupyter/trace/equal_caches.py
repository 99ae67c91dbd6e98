"""Replays traces through equal LRU caches, so that their misses can be compared.

The recorded misses of two runs do not compare, because the second run starts with the experts that
the first left in the cache. A replay gives each trace a cache of the same size and contents.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import OptionError
from ..residency.replay import Keys, simulate
from .trace import Trace
from .what_if import routing_of


@dataclass(frozen=True)
class ReplayTotals:
    """The totals of a replay: `hits` of `lookups`, `reads` of experts and their `nbytes`."""

    hits: int
    lookups: int
    reads: int
    nbytes: int

    @property
    def hit_rate(self) -> float:
        """Hits over lookups; NaN without lookups."""
        return self.hits / self.lookups if self.lookups else float("nan")


def replay_lru(trace: Trace, slots: int, at_start: Keys = ()) -> ReplayTotals:
    """Replay a trace's lookups through an LRU cache; see `residency.replay`.

    Args:
        slots: size of the cache, shared among layers as in the run.
        at_start: the (layer, expert) pairs resident at the start, in eviction order; if they do
            not fit, the first ones are left out.

    Raises:
        OptionError: a cache without slots.
        TraceError: a trace without MoE layers.
    """
    if slots < 1:
        raise OptionError(f"a cache of {slots} slots holds no expert: give 1 or more")
    found = simulate(routing_of(trace), "lru", slots, at_start)
    nbytes = np.array(trace.info.expert_nbytes or (0,) * trace.layers, np.int64)
    reads = found.reads.sum(axis=0, dtype=np.int64)
    lookups = int((trace.experts >= 0).sum())
    return ReplayTotals(int(found.hits.sum()), lookups, int(reads.sum()), int(reads @ nbytes))
