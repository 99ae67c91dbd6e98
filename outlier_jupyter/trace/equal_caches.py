"""What runs would have hit and read had their caches begun alike: replays with LRU caches.

Two runs cannot be compared by their misses: the second finds what the first left. So each trace's
look-ups are asked of a cache of the same size with the same contents.
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
    """What a replay came to: `hits` of `lookups`, `reads` of experts and their `nbytes`."""

    hits: int
    lookups: int
    reads: int
    nbytes: int

    @property
    def hit_rate(self) -> float:
        """Hits over look-ups; NaN where there were none."""
        return self.hits / self.lookups if self.lookups else float("nan")


def replay_lru(trace: Trace, slots: int, at_start: Keys = ()) -> ReplayTotals:
    """Replay a trace's look-ups through an LRU cache; see `residency.replay`.

    Args:
        slots: of the cache, shared as the run's were.
        at_start: the (layer, expert) pairs held at first, those to leave first coming first;
            what does not fit is left out from the front.

    Raises:
        OptionError: a cache without slots.
        TraceError: a trace without MoE layers.
    """
    if slots < 1:
        raise OptionError(f"a cache of {slots} slots holds nothing: give 1 or more")
    found = simulate(routing_of(trace), "lru", slots, at_start)
    nbytes = np.array(trace.info.expert_nbytes or (0,) * trace.layers, np.int64)
    reads = found.reads.sum(axis=0, dtype=np.int64)
    asked = int((trace.experts >= 0).sum())
    return ReplayTotals(int(found.hits.sum()), asked, int(reads.sum()), int(reads @ nbytes))
