"""What runs would have hit and read had their caches begun alike. Replays with a real slot table.

Two runs cannot be compared by their misses: the second finds what the first left. So each trace's
look-ups are asked of an LRU cache of the same size with the same contents, as the pager would.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ..errors import OptionError
from ..residency import ExpertKey, SlotTable
from .trace import Trace


@dataclass(frozen=True)
class Served:
    """What a replay came to: choices that hit, choices in all, experts read and their bytes."""

    hits: int
    lookups: int
    reads: int
    nbytes: int

    @property
    def hit_rate(self) -> float:
        """Hits over look-ups; NaN where there were none."""
        return self.hits / self.lookups if self.lookups else float("nan")


def serve(trace: Trace, slots: int, at_start: Iterable[tuple[int, int]] = ()) -> Served:
    """Replay a trace's look-ups, all experts of a (call, layer) at once, through an LRU cache.

    Args:
        slots: of the cache, shared by all layers.
        at_start: the (layer, expert) pairs held at first, those to leave first coming first;
            what does not fit is left out from the front.

    Raises:
        OptionError: a cache without slots.
    """
    if slots < 1:
        raise OptionError(f"a cache of {slots} slots holds nothing: give 1 or more")
    table = SlotTable(slots)
    for layer, expert in list(at_start)[-slots:]:
        _read(table, (ExpertKey(int(layer), int(expert)),))
    nbytes = trace.info.expert_nbytes or (0,) * trace.layers
    hits = reads = read = 0
    bounds = np.flatnonzero(np.diff(trace.call)) + 1
    for rows in np.split(trace.experts, bounds) if trace.steps else []:
        for layer in range(trace.layers):
            ids, uses = np.unique(rows[:, layer][rows[:, layer] >= 0], return_counts=True)
            keys = [ExpertKey(layer, expert) for expert in ids.tolist()]
            counts = dict(zip(keys, uses.tolist(), strict=True))
            hits += sum(n for key, n in counts.items() if key in table)
            missed = _look_up(table, layer, counts, len(rows) > 1, trace.layers)
            reads += missed
            read += missed * nbytes[layer]
    return Served(hits, int((trace.experts >= 0).sum()), reads, read)


def _look_up(
    table: SlotTable, layer: int, counts: dict[ExpertKey, int], chunk: bool, layers: int
) -> int:
    """Serve one look-up, a chunk of a prompt as the switch takes it; how many were read."""
    uses = counts if chunk and counts else None
    stay = table.favourites(layer, uses, layers) if uses else None
    missed = sum(_read(table, part) for part in table.split(list(counts), uses))
    if stay is not None:
        table.spare_all_but(layer, stay)
    return missed


def _read(table: SlotTable, keys: tuple[ExpertKey, ...]) -> int:
    placements = table.reserve(keys).placements
    for placement in placements:
        table.commit(placement)
    return len(placements)
