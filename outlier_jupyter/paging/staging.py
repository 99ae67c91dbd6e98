"""Prefetches experts into staging slots beside the cache, before their router has chosen them.

The slot table does not know what is in staging slots: a prefetched expert is not resident, and
counts as a miss when it is looked up. Its placement then swaps slots: the staging slot joins the
cache, and the slot reserved for it becomes a staging slot; nothing is copied. Prefetched experts
that were not chosen are dropped at the lookup, and their slots are used again when their reads have
ended. Prefetches yield to other reads: they begin only when no read is under way, and one that has
not begun is cancelled.

Nothing reads a staging slot while it is written: it left the cache at a lookup, before which the
bank was settled, or was never computed with.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future, wait
from typing import NamedTuple

from ..residency import ExpertKey
from ..residency.slot_table import Lookup, Placement, SlotTable
from .fetch import ReadResult
from .slots import SlotBank

ReadInto = Callable[[Placement], ReadResult]
"""Reads an expert into a slot, on a reader thread."""


class PrefetchOutcome(NamedTuple):
    """Whether a prefetched expert was chosen, and the bytes read for it."""

    key: ExpertKey
    used: bool
    nbytes: int


class PrefetchRead:
    """The read of one prefetched expert, which may be taken over while it is under way."""

    def __init__(self, placement: Placement, read_into: ReadInto) -> None:
        self.placement = placement
        self._read = read_into
        self._lock = threading.Lock()
        self._taken = self.failed = False
        self.future: Future[ReadResult] = Future()

    def run(self) -> ReadResult:
        """Read, on a reader thread; a failure is retried once the read was taken over."""
        try:
            return self._read(self.placement)
        except Exception:
            with self._lock:
                self.failed = not self._taken
            if self.failed:
                raise
        return self._read(self.placement)

    def take(self) -> bool:
        """Take the read over, to be waited for like any other; False if it has failed."""
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
        """How many experts were prefetched, or are being read."""
        return len(self._reads)

    def begin(self, keys: Iterable[ExpertKey]) -> list[ExpertKey]:
        """Begin to read those of `keys` that are not resident, as far as there are slots.

        Nothing is begun while an earlier prefetch is still being read: the disk is busy.

        Returns:
            the keys whose reads were begun.
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
        """Drop all prefetched experts that are not among `keys`, which a router has chosen.

        Returns:
            the outcome of each prefetch that was begun.
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
        """Put the prefetched experts of `plan` into the slots that they were read into.

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
        """Free the slots of dropped reads that have ended."""
        ended = [read for read in self._dropped if read.future.done()]
        self._bank.abandon([read.placement.slot for read in ended])
        self._dropped = [read for read in self._dropped if not read.future.done()]
