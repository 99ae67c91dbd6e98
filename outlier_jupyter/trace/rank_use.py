"""How much each rank had in RAM, hit and read, how long its reads took, who was waited for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import nan
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from ..events import PagedIn, RanksServed
from ..formatting import percent, size_words, three

if TYPE_CHECKING:
    from .schema import TraceInfo
    from .trace import Trace


class Awaited(NamedTuple):
    """The layers in which one rank was the last.

    Attributes:
        ms: how long the ranks took for these layers.
        layers: how many these are; of several calls, each counts.
    """

    rank: int
    host: str
    ms: float
    layers: int


@dataclass
class RankUse:
    """One rank in one run.

    Attributes:
        host: the name of its host.
        hits, lookups: of the choices of experts that it owns.
        resident, resident_nbytes: experts in its cache at the end, and their bytes.
        nbytes: bytes that it read; `read_ns`, the nanoseconds of each read.
        awaited_ns: how long the ranks took for the layers in which it was the last; `all_ns`,
            for all layers.
    """

    host: str
    hits: int = 0
    lookups: int = 0
    resident: int = 0
    resident_nbytes: float = 0.0
    nbytes: int = 0
    read_ns: list[int] = field(default_factory=list)
    awaited_ns: int = 0
    all_ns: int = 0

    @property
    def read_ms(self) -> float:
        """The median time of a read, in ms; NaN without one."""
        return float(np.median(self.read_ns)) / 1e6 if self.read_ns else nan

    def words(self, rank: int) -> str:
        """One line."""
        rate = percent(self.hits / self.lookups) if self.lookups else "–"
        reads = f"{size_words(self.nbytes)} in {len(self.read_ns):,} reads"
        if self.read_ns:
            reads += f" of {three(self.read_ms)} ms (median)"
        awaited = percent(self.awaited_ns / self.all_ns) if self.all_ns else "–"
        return (
            f"rank {rank} ({self.host}): {rate} hits, {size_words(self.resident_nbytes)} in RAM, "
            f"{reads}, waited for {awaited} of the ranks’ time"
        )


class RankCounts:
    """Counts the use of each rank from a run's events."""

    def __init__(self, info: TraceInfo) -> None:
        self.uses = [RankUse(host) for host in info.hosts]
        sizes = np.array(info.experts_per_layer)
        whole = float((sizes * np.array(info.expert_nbytes or (0,) * len(sizes))).sum())
        self._expert_nbytes = whole / max(1, int(sizes.sum()))

    def __call__(self, event: PagedIn | RanksServed) -> None:
        """Receive one event."""
        if isinstance(event, PagedIn):
            use = self.uses[event.rank]
            use.nbytes += event.nbytes
            use.read_ns.append(event.ns)
            return
        self.served(event.ns)
        for rank, use in enumerate(self.uses):
            use.hits += int(event.hits[rank])
            use.lookups += int(event.lookups[rank])
            self.holds(use, int(event.resident[rank]))

    def served(self, ns: npt.NDArray[np.int64]) -> None:
        """Count a layer, which took each rank so long."""
        last = int(ns.argmax())
        self.uses[last].awaited_ns += int(ns[last])
        for use in self.uses:
            use.all_ns += int(ns[last])

    def holds(self, use: RankUse, resident: int) -> None:
        """Set how many experts a rank has in its cache."""
        use.resident, use.resident_nbytes = resident, resident * self._expert_nbytes

    @property
    def words(self) -> str:
        """A line for each rank."""
        return "\n".join(use.words(rank) for rank, use in enumerate(self.uses))


def rank_counts(trace: Trace) -> RankCounts:
    """The use of each rank in a finished run; of none where one process computed."""
    counts = RankCounts(trace.info)
    if not trace.owners.size:
        counts.uses.clear()
        return counts
    layers = np.arange(trace.layers)[:, None]
    chosen = trace.experts >= 0
    owners = np.where(chosen, trace.owners[layers, trace.experts], -1)
    start, reads, gone = trace.resident_at_start.T, trace.reads, trace.evictions
    moves = [
        (start[0], start[1]),
        (reads["layer"], reads["expert"]),
        (gone["layer"], gone["expert"]),
    ]
    count = np.zeros(len(counts.uses), np.int64)
    for keys, sign in zip(moves, (1, 1, -1), strict=True):
        np.add.at(count, trace.owners[keys[0], keys[1]], sign)
    for rank, use in enumerate(counts.uses):
        mine = owners == rank
        use.lookups, use.hits = int(mine.sum()), int((mine & trace.hits).sum())
        counts.holds(use, int(count[rank]))
        own = reads[reads["rank"] == rank]
        use.nbytes, use.read_ns = int(own["nbytes"].sum()), own["ns"].tolist()
    for us in trace.rank_us.reshape(-1, len(counts.uses)):
        if us.any():
            counts.served(us.astype(np.int64) * 1000)
    return counts


def awaited(us: npt.NDArray[np.int32], hosts: Sequence[str]) -> tuple[Awaited, ...]:
    """Who was waited for, the longest first.

    Args:
        us: microseconds of layers, [layers, ranks].
    """
    if not us.size:
        return ()
    us = us[us.any(axis=1)]
    last, most = us.argmax(axis=1), us.max(axis=1, initial=0)
    found = [
        Awaited(rank, host, float(most[last == rank].sum()) / 1e3, int((last == rank).sum()))
        for rank, host in enumerate(hosts)
    ]
    return tuple(sorted(found, key=lambda each: -each.ms))
