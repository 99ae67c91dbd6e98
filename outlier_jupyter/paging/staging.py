"""Reads begun before a router has asked, into slots that lie beside the cache.

The table knows nothing of what is in them: an expert read early is not held, and is a miss when it
is asked for. Its placement then takes the slot that it was read into, and the slot it was given
lies beside the cache in turn; nothing is copied. What was not asked for is dropped at the look-up,
and its slot serves again when its read has ended. Early reads wait for others, never others for
them: they begin only when no read is under way, and one that has not begun is called off.

A slot of these is read by nobody when it is written: it was given away by a look-up, before which
the bank was settled, or never held anything that was computed with.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future, wait
from typing import NamedTuple

from ..residency import ExpertKey
from ..residency.slot_table import Lookup, Placement, SlotTable
from .fetch import Ended
from .slots import SlotBank

Work = Callable[[Placement], Ended]
"""Reads an expert into a slot, on a reader thread: bytes, when it began, nanoseconds."""


class Fate(NamedTuple):
    """What became of an early read: whether its expert was asked for, and the bytes read."""

    key: ExpertKey
    used: bool
    nbytes: int


class PrefetchRead:
    """One read ahead, which may be taken over while it is under way."""

    def __init__(self, placement: Placement, work: Work) -> None:
        self.placement = placement
        self._work = work
        self._lock = threading.Lock()
        self._taken = self.failed = False
        self.future: Future[Ended] = Future()

    def run(self) -> Ended:
        """On a reader thread. Fails alone as long as nobody wants it; then it is read again."""
        try:
            return self._work(self.placement)
        except Exception:
            with self._lock:
                self.failed = not self._taken
            if self.failed:
                raise
        return self._work(self.placement)

    def take(self) -> bool:
        """Whether it may be waited for like any other read: not if it has failed."""
        with self._lock:
            self._taken = not self.failed
        return self._taken


class Staging:
    """The slots beside one table's cache, and the early reads into them."""

    def __init__(self, table: SlotTable, bank: SlotBank, executor: Executor, work: Work) -> None:
        self._table, self._bank = table, bank
        self._executor, self._work = executor, work
        self._reads: dict[ExpertKey, PrefetchRead] = {}
        self._dropped: list[PrefetchRead] = []

    def __len__(self) -> int:
        """How many experts are there, or are being read."""
        return len(self._reads)

    def begin(self, keys: Iterable[ExpertKey]) -> list[ExpertKey]:
        """Begin to read those of `keys` that are not held, as far as slots go; those begun.

        None while an earlier one is still being read: the disk is busy.
        """
        self._reclaim()
        if self._dropped or not all(early.future.done() for early in self._reads.values()):
            return []
        busy = {early.placement.slot for early in self._reads.values()}
        free = sorted(self._table.aside - busy)
        begun = []
        for key in keys:
            if free and key not in self._table and key not in self._reads:
                early = self._reads[key] = PrefetchRead(
                    Placement(key, free.pop(), None), self._work
                )
                early.future = self._executor.submit(early.run)
                begun.append(key)
        return begun

    def looked_up(self, keys: Iterable[ExpertKey]) -> list[Fate]:
        """A layer asks for `keys`: all that is not of them is dropped.

        Returns:
            what became of each early read there was; those that never began are left out.
        """
        if not self._reads and not self._dropped:
            return []
        wanted = set(keys)
        fates = []
        for key, early in list(self._reads.items()):
            used = key in wanted and key not in self._table and early.take()
            if not used:
                del self._reads[key]
                if early.future.cancel():
                    self._bank.abandon([early.placement.slot])
                    continue
                self._dropped.append(early)
            fates.append(Fate(key, used, 0 if early.failed else self._bank.expert_nbytes))
        self._reclaim()
        return fates

    def take(self, plan: Lookup) -> tuple[Lookup, dict[ExpertKey, Future[Ended]]]:
        """`plan` with what was read early in the slots it is in, and the reads of that."""
        if not self._reads:
            return plan, {}
        taken: dict[ExpertKey, Future[Ended]] = {}
        placements = []
        for placement in plan.placements:
            early = self._reads.pop(placement.key, None)
            if early is not None:
                placement = self._table.exchange(placement, early.placement.slot)
                taken[placement.key] = early.future
            placements.append(placement)
        return Lookup(plan.hits, tuple(placements)), taken

    def clear(self) -> list[Fate]:
        """Drop all, and wait until nothing is written any more."""
        fates = self.looked_up(())
        wait([early.future for early in self._dropped])
        self._reclaim()
        return fates

    def _reclaim(self) -> None:
        """Have the slots of dropped reads serve again, where they have ended."""
        ended = [early for early in self._dropped if early.future.done()]
        self._bank.abandon([early.placement.slot for early in ended])
        self._dropped = [early for early in self._dropped if not early.future.done()]
