"""How much each rank had in RAM, hit and read, how long its reads took, who was waited for."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import nan
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from ..events import DECODE, CallStarted, PagedIn, RanksServed, StepDone
from ..formatting import percent, size_words, three

if TYPE_CHECKING:
    from .schema import TraceInfo
    from .trace import Trace


NOBODY = 255
"""Owner of an expert that is not known, or that a layer does not have."""
POINTS = 64
"""Of a course that is shown, at most."""


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
        course: the median ms of the reads of each decoded token; NaN without one.
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
    course: list[float] = field(default_factory=list)
    awaited_ns: int = 0
    all_ns: int = 0

    @property
    def read_ms(self) -> float:
        """The median time of a read, in ms; NaN without one."""
        return median_ms(self.read_ns)

    @property
    def words(self) -> str:
        """One line."""
        rate = percent(self.hits / self.lookups) if self.lookups else "–"
        reads = f"{size_words(self.nbytes)} in {len(self.read_ns):,} reads"
        if self.read_ns:
            reads += f" of {three(self.read_ms)} ms (median)"
        awaited = percent(self.awaited_ns / self.all_ns) if self.all_ns else "–"
        return (
            f"{rate} hits, prompt included, {size_words(self.resident_nbytes)} in RAM, {reads}, "
            f"waited for {awaited} of the ranks’ time"
        )


class RankCounts:
    """Counts the use of each rank from a run's events."""

    def __init__(self, info: TraceInfo) -> None:
        self.uses = [RankUse(host) for host in info.hosts]
        self.owners = np.full((len(info.experts_per_layer), max(info.experts_per_layer, default=0)),
                              NOBODY, np.uint8)  # fmt: skip
        sizes = np.array(info.experts_per_layer)
        whole = float((sizes * np.array(info.expert_nbytes or (0,) * len(sizes))).sum())
        self._expert_nbytes = whole / max(1, int(sizes.sum()))
        self._call_reads: list[list[int]] = [[] for _ in self.uses]
        self._decodes = False

    def __call__(self, event: CallStarted | PagedIn | RanksServed | StepDone) -> None:
        """Receive one event."""
        if isinstance(event, PagedIn):
            use = self.uses[event.rank]
            use.nbytes += event.nbytes
            use.read_ns.append(event.ns)
            self._call_reads[event.rank].append(event.ns)
        elif isinstance(event, RanksServed):
            self.served(event.ns)
            self.owners[event.layer, : len(event.owners)] = event.owners
            for rank, use in enumerate(self.uses):
                use.hits += int(event.hits[rank])
                use.lookups += int(event.lookups[rank])
                self.holds(use, int(event.resident[rank]))
        elif isinstance(event, CallStarted):
            self._call_reads, self._decodes = [[] for _ in self.uses], event.phase == DECODE
        elif self._decodes:
            for use, ns in zip(self.uses, self._call_reads, strict=True):
                use.course.append(median_ms(ns))

    def served(self, ns: npt.NDArray[np.int64]) -> None:
        """Count a layer, which took each rank so long."""
        last = int(ns.argmax())
        self.uses[last].awaited_ns += int(ns[last])
        for use in self.uses:
            use.all_ns += int(ns[last])

    def holds(self, use: RankUse, resident: int) -> None:
        """Set how many experts a rank has in its cache."""
        use.resident, use.resident_nbytes = resident, resident * self._expert_nbytes

    def shown(self) -> dict[str, object]:
        """What the live view shows of the ranks, side by side; nothing where there is none.

        Returns:
            ranks: of each its `name`, `words`, and `ms`: the course of a decoded token's median
                read, in at most `POINTS` points of which each is the highest of its tokens.
            owners: uint8 [layers, experts] as base64, the rank of each expert; `NOBODY` for none.
        """
        ranks = [
            {"name": f"rank {rank} ({use.host})", "words": use.words, "ms": highest(use.course)}
            for rank, use in enumerate(self.uses)
        ]
        owners = b64encode(self.owners.tobytes()).decode()
        return {"ranks": ranks, "owners": owners} if ranks else {}


def median_ms(ns: Sequence[int] | npt.NDArray[np.int64]) -> float:
    """The median of nanoseconds, in ms; NaN of none."""
    return float(np.median(ns)) / 1e6 if len(ns) else nan


def highest(course: Sequence[float]) -> list[float | None]:
    """The highest value of each group of neighbours; None for a group without values."""
    groups = np.array_split(np.array(course), min(POINTS, len(course))) if course else []
    return [None if np.isnan(each).all() else round(float(np.nanmax(each)), 4) for each in groups]


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
        use.course = [median_ms(ns) for ns in _by_step(own, np.flatnonzero(trace.phase == DECODE))]
    counts.owners = np.where(trace.owners < 0, NOBODY, trace.owners).astype(np.uint8)
    for us in trace.rank_us.reshape(-1, len(counts.uses)):
        if us.any():
            counts.served(us.astype(np.int64) * 1000)
    return counts


def _by_step(
    reads: npt.NDArray[np.void], steps: npt.NDArray[np.int64]
) -> Iterator[npt.NDArray[np.int64]]:
    """The nanoseconds of the reads of each of `steps`."""
    order = np.argsort(reads["step"], kind="stable")
    sorted_steps, ns = reads["step"][order], reads["ns"][order]
    ends = (np.searchsorted(sorted_steps, steps, side=side) for side in ("left", "right"))
    for begin, end in zip(*ends, strict=True):
        yield ns[begin:end]


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
