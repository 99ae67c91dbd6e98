"""Prefetches experts into staging slots beside the cache, before their router has chosen them.

The slot table does not know the staging slots: a prefetched expert is not resident, and its lookup
is a miss. Its placement then swaps slots: the staging slot joins the cache, and the slot reserved
for the miss becomes a staging slot; nothing is copied. The lookup drops prefetched experts that
were not chosen; their slots are reused when their reads have ended. Prefetches have the lowest
priority: they start only when no read is in progress, and one that is dropped before it starts is
cancelled.

No computation reads a staging slot while it is written: either the slot left the cache at a lookup,
before which the bank was settled, or no computation has used it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future, wait
from typing import NamedTuple

from ..residency import ExpertKey
from ..residency.slot_table import Lookup, Placement, SlotTable
from .fetch import ReadResult
from .slot_bank import SlotBank

ReadInto = Callable[[Placement], ReadResult]
"""Reads an expert into a slot, on a reader thread."""


class PrefetchOutcome(NamedTuple):
    """Whether a prefetched expert was chosen, and the bytes read for it."""

    key: ExpertKey
    used: bool
    nbytes: int


class PrefetchRead:
    """The read of one prefetched expert, which a lookup may take over while it is in progress."""

    def __init__(self, placement: Placement, read_into: ReadInto) -> None:
        self.placement = placement
        self._read = read_into
        self._lock = threading.Lock()
        self._taken = self.failed = False
        self.future: Future[ReadResult] = Future()

    def run(self) -> ReadResult:
        """Read, on a reader thread; if it fails after a lookup took it over, read again."""
        try:
            return self._read(self.placement)
        except Exception:
            with self._lock:
                self.failed = not self._taken
            if self.failed:
                raise
        return self._read(self.placement)

    def take(self) -> bool:
        """Take the read over, so that it is waited for like a miss's; False if it has failed."""
        with self._lock:
            self._taken = not self.failed
        return self._taken


class Staging:
    """The staging slots of one table, and the prefetches into them."""

    def __init__(
        self, table: SlotTable, bank: SlotBank, executor: Executor, read_into: ReadInto
    ) -> None:
        self._table, self._bank = table, bank
        self._executor, self._read = executor, read_into
        self._reads: dict[ExpertKey, PrefetchRead] = {}
        self._dropped: list[PrefetchRead] = []

    def __len__(self) -> int:
        """How many experts have been prefetched or are being read."""
        return len(self._reads)

    def begin(self, keys: Iterable[ExpertKey]) -> list[ExpertKey]:
        """Start reads of those `keys` that are not resident, as many as there are staging slots.

        None starts while an earlier prefetch is still being read: the disk is busy.

        Returns:
            the keys whose reads were started.
        """
        self._reclaim()
        if self._dropped or not all(read.future.done() for read in self._reads.values()):
            return []
        busy = {read.placement.slot for read in self._reads.values()}
        free = sorted(self._table.staging - busy)
        begun = []
        for key in keys:
            if free and key not in self._table and key not in self._reads:
                read = self._reads[key] = PrefetchRead(Placement(key, free.pop(), None), self._read)
                read.future = self._executor.submit(read.run)
                begun.append(key)
        return begun

    def resolve_prefetched(self, keys: Iterable[ExpertKey]) -> list[PrefetchOutcome]:
        """Drop the prefetched experts that are not among `keys`, the router's choice.

        Returns:
            the outcome of each prefetch whose read was started.
        """
        if not self._reads and not self._dropped:
            return []
        chosen = set(keys)
        outcomes = []
        for key, read in list(self._reads.items()):
            used = key in chosen and key not in self._table and read.take()
            if not used:
                del self._reads[key]
                if read.future.cancel():
                    self._bank.abandon([read.placement.slot])
                    continue
                self._dropped.append(read)
            outcomes.append(
                PrefetchOutcome(key, used, 0 if read.failed else self._bank.expert_nbytes)
            )
        self._reclaim()
        return outcomes

    def take(self, plan: Lookup) -> tuple[Lookup, dict[ExpertKey, Future[ReadResult]]]:
        """Place the prefetched experts of `plan` in their staging slots, which join the cache.

        Returns:
            the changed plan, and the reads of the prefetched experts.
        """
        if not self._reads:
            return plan, {}
        taken: dict[ExpertKey, Future[ReadResult]] = {}
        placements = []
        for placement in plan.placements:
            read = self._reads.pop(placement.key, None)
            if read is not None:
                placement = self._table.exchange(placement, read.placement.slot)
                taken[placement.key] = read.future
            placements.append(placement)
        return Lookup(plan.hits, tuple(placements)), taken

    def clear(self) -> list[PrefetchOutcome]:
        """Drop all prefetched experts, and wait until no slot is being written."""
        outcomes = self.resolve_prefetched(())
        wait([read.future for read in self._dropped])
        self._reclaim()
        return outcomes

    def _reclaim(self) -> None:
        """Make the slots of dropped reads that have ended free for other prefetches."""
        ended = [read for read in self._dropped if read.future.done()]
        self._bank.abandon([read.placement.slot for read in ended])
        self._dropped = [read for read in self._dropped if not read.future.done()]
