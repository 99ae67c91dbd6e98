"""Replays traces through equal LRU caches, so that their misses can be compared.

The recorded misses of two runs do not compare, because the second run starts with the experts that
the first left in the cache. A replay gives each trace a cache of the same size and contents.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import nan

import numpy as np

from ..aliases import alias
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


@dataclass(frozen=True)
class StartingCache:
    """The cache when a run began.

    Attributes:
        resident: number of experts in it; `held` is the old name.
        slots: its size.
        useful: share of the run's distinct experts that were resident; NaN without any.
    """

    resident: int
    slots: int
    useful: float
    held = alias("resident")


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


def starting_cache(trace: Trace) -> StartingCache:
    """What was in the cache when the run began, and how much of it the run used."""
    start = {(int(layer), int(expert)) for layer, expert in trace.resident_at_start}
    steps, layers, _ = np.nonzero(trace.experts >= 0)
    used = set(zip(layers.tolist(), trace.experts[trace.experts >= 0].tolist(), strict=True))
    useful = len(used & start) / len(used) if len(steps) else nan
    return StartingCache(len(start), trace.info.slots, useful)
