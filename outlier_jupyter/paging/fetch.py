"""The reads of one lookup: yields the hits at once, and the misses as their reads end.

The decode thread computes with the experts that are ready while reader threads fill other slots.
Even after a failed read or an interrupt while waiting, `finish` waits for every read before a slot
changes state: a thread may still be writing into it. It then reports the events in the order of the
lookup, so that they do not depend on which read was quicker.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from functools import partial
from queue import SimpleQueue
from typing import Any, Protocol

from ..events import Event, Evicted, PagedIn, Waited
from ..residency import ExpertKey
from ..residency.slot_table import Lookup, Placement, SlotTable
from .slot_bank import SlotBank

ReadResult = tuple[int, int, int]
"""The read of one expert: bytes, when it began, how long it took, in nanoseconds."""


class Read(Protocol):
    """The started read of one expert: a `Future`, or an object with these three of its methods."""

    def add_done_callback(self, callback: Callable[[Any], object], /) -> None:
        """Call `callback` with the read when it succeeds or fails; at once if it has already."""

    def result(self) -> ReadResult:
        """Wait for the read to end; raise its failure, if any."""

    def exception(self) -> BaseException | None:
        """Wait for the read to end; return its failure, if any."""


LARGE = 1 << 18
"""Experts of at least this many bytes are computed in groups while others are read. For smaller
ones the kernel calls, one per group, cost more than the waiting they save."""


TINY = 1 << 16
"""Bytes of an expert below which a page-cache read takes less time than a thread switch."""


class InlineExecutor(Executor):
    """Runs everything on the calling thread."""

    def submit(self, work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run `work` at once; the returned future is done."""
        future: Future[Any] = Future()
        try:
            future.set_result(work(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def overlaps(option: str, expert_nbytes: int) -> bool:
    """Whether reads and computing overlap, for the load option `auto`, `on` or `off`."""
    return option == "on" or (option == "auto" and expert_nbytes >= LARGE)


class Fetch:
    """The reads of one lookup, from `begin` to `finish`.

    Args:
        plan: the hits, and the slots that the table reserved for the misses.
        at_once: whether `arrivals` yields all experts together, when the last read has ended.
        report: receives the events.
        collect: collects completions from the kernel's queue of reads; with True it waits for at
            least one. Returns whether any reads were in flight.

    Attributes:
        slots: key → slot of all experts of the lookup, valid once all reads have succeeded.
    """

    def __init__(
        self,
        plan: Lookup,
        bank: SlotBank,
        table: SlotTable,
        *,
        at_once: bool,
        clock: Callable[[], int],
        report: Callable[[Event], None],
        collect: Callable[[bool], bool] = lambda wait: False,
    ) -> None:
        self.slots = plan.hits | {place.key: place.slot for place in plan.placements}
        self._hits = plan.hits
        self._placements = plan.placements
        self._bank, self._table = bank, table
        self._at_once = at_once
        self._clock, self._report, self._collect = clock, report, collect
        self._futures: list[Read] = []
        # `_ended` lists the reads in the order of their ends; `_wakeup` gets one item for each, to
        # wait on: `concurrent.futures.wait` for the first one takes longer than many a read.
        self._ended: list[int] = []
        self._wakeup: SimpleQueue[None] = SimpleQueue()
        self._written: set[int] = set()
        self._wait_ns = self._install_ns = 0
        self._open = bool(plan.placements)

    @property
    def reads(self) -> int:
        """How many experts are read."""
        return len(self._placements)

    @property
    def done(self) -> bool:
        """Whether all reads have ended, in success or failure."""
        return len(self._ended) == len(self._futures)

    def begin(self, start: Callable[[Sequence[Placement]], Iterable[Read]]) -> None:
        """Start all reads; with an `InlineExecutor` they have ended when this returns.

        Args:
            start: starts the reads one by one, in the order of the placements.
        """
        begin = self._clock()
        for number, read in enumerate(start(self._placements)):
            self._futures.append(read)
            read.add_done_callback(partial(self._end, number))
        if self.done:
            self._wait_ns += self._clock() - begin

    def arrivals(self) -> Iterator[dict[ExpertKey, int]]:
        """Yield key → slot of the experts that are ready to compute, group by group.

        The first group is the hits. Each further group is all reads that ended since the last one;
        if there are none, this waits for one. Each key is yielded once. A failed read ends the
        iteration; `check` then raises the failure.
        """
        if self._at_once:
            self._wait(len(self._futures))
            if all(read.exception() is None for read in self._futures):
                self._write(range(len(self._futures)))
                yield self.slots
            return
        if self._hits:
            yield self._hits
        taken = 0
        while taken < len(self._futures):
            self._wait(taken + 1)
            arrived = sorted(self._ended[taken:])
            if any(self._futures[i].exception() is not None for i in arrived):
                return
            self._write(arrived)
            yield {self._placements[i].key: self._placements[i].slot for i in arrived}
            taken += len(arrived)

    def finish(self) -> None:
        """Wait for all reads, commit or release their slots, and report the events; idempotent."""
        if not self._open:
            return
        try:
            self._wait(len(self._futures))
        finally:
            # After a KeyboardInterrupt in that wait, too, every read must end first.
            while self._collect(True):
                pass
            for read in self._futures:
                read.exception()
            self._open = False
            self._commit_or_release()
        self._report_all()

    def check(self) -> None:
        """Raise the failure of the first placement whose read failed, if any."""
        for read in self._futures:
            read.result()

    def _end(self, number: int, read: Read) -> None:
        """Record that a read has succeeded or failed; runs on the thread that read."""
        self._ended.append(number)
        self._wakeup.put(None)

    def _wait(self, count: int) -> None:
        """Wait until `count` reads have ended."""
        self._collect(False)
        if len(self._ended) >= count:
            return
        begin = self._clock()
        while len(self._ended) < count:
            if not self._collect(True):
                self._wakeup.get()
        self._wait_ns += self._clock() - begin

    def _write(self, arrived: Sequence[int]) -> None:
        """Commit the rows of these complete reads to the bank's arrays; each only once."""
        begin = self._clock()
        new = [i for i in arrived if i not in self._written]
        self._bank.commit([self._placements[i].slot for i in new])
        self._written.update(new)
        self._install_ns += self._clock() - begin

    def _commit_or_release(self) -> None:
        good = [i for i, read in enumerate(self._futures) if read.exception() is None]
        self._write(good)
        begin = self._clock()
        for i, placement in enumerate(self._placements):
            if i in self._written:
                self._table.commit(placement)
            else:
                self._bank.abandon([placement.slot])
                self._table.release(placement)
        self._install_ns += self._clock() - begin

    def _report_all(self) -> None:
        for i, placement in enumerate(self._placements):
            (layer, expert), slot, evicted = placement
            if evicted is not None:
                self._report(Evicted(*evicted, slot, layer, expert))
            if i in self._written:
                nbytes, start, ns = self._futures[i].result()
                self._report(PagedIn(layer, expert, slot, nbytes, start, ns))
        self._report(Waited(self._placements[0].key.layer, self._wait_ns, self._install_ns))
