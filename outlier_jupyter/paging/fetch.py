"""The reads of one lookup: yields the hits at once, and the misses as their reads end.

The decode thread computes with the experts that are ready while reader threads fill other slots.
However that ends, by a failed read or an interrupt in mid-wait, `finish` waits for every read
before a slot changes state: a thread may still be writing into it. Events are reported then, in the
order of the lookup, so that they do not depend on which read was quicker.
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
from .slots import SlotBank

ReadResult = tuple[int, int, int]
"""The read of one expert: bytes, when it began, how long it took, in nanoseconds."""


class Read(Protocol):
    """A read of one expert that was begun: a `Future`, or an object with these methods of one."""

    def add_done_callback(self, callback: Callable[[Any], object], /) -> None:
        """Call `callback` with the read when it has ended, well or not; at once if it has."""

    def result(self) -> ReadResult:
        """Wait for the read to end; raise its failure, if any."""

    def exception(self) -> BaseException | None:
        """Wait for the read to end; return its failure, if any."""


LARGE = 1 << 18
"""Bytes of an expert from which on computing with some while others are read pays: below, the
kernel calls, one per group, cost more than the waiting they save."""


TINY = 1 << 16
"""Bytes of an expert below which a page-cache read takes less time than a thread switch."""


class InlineExecutor(Executor):
    """Runs everything on the calling thread."""

    def submit(self, work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Do `work` at once."""
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
        whole: yield all experts together, when the last read has ended.
        report: receives the events.
        reap: collects the ends of the kernel's asynchronous reads, and may wait for one; returns
            whether any were under way.

    Attributes:
        slots: key → slot of all experts that are resident once this has ended well.
    """

    def __init__(
        self,
        plan: Lookup,
        bank: SlotBank,
        table: SlotTable,
        *,
        whole: bool,
        clock: Callable[[], int],
        report: Callable[[Event], None],
        reap: Callable[[bool], bool] = lambda wait: False,
    ) -> None:
        self.slots = plan.hits | {place.key: place.slot for place in plan.placements}
        self._hits = plan.hits
        self._placements = plan.placements
        self._bank, self._table = bank, table
        self._whole = whole
        self._clock, self._report, self._reap = clock, report, reap
        self._futures: list[Read] = []
        # Numbers of the reads that have ended, in that order, and a bell that rings for each: to
        # wait with `concurrent.futures` for the first to end takes longer than many a read.
        self._ended: list[int] = []
        self._bell: SimpleQueue[None] = SimpleQueue()
        self._written: set[int] = set()
        self._wait_ns = self._install_ns = 0
        self._open = bool(plan.placements)

    @property
    def reads(self) -> int:
        """How many experts are read."""
        return len(self._placements)

    @property
    def landed(self) -> bool:
        """Whether all reads have ended."""
        return len(self._ended) == len(self._futures)

    def begin(self, start: Callable[[Sequence[Placement]], Iterable[Read]]) -> None:
        """Begin all reads; an `InlineExecutor` has made them when this returns.

        Args:
            start: begins one read after the other, in the order of the placements.
        """
        begin = self._clock()
        for number, read in enumerate(start(self._placements)):
            self._futures.append(read)
            read.add_done_callback(partial(self._end, number))
        if self.landed:
            self._wait_ns += self._clock() - begin

    def arrivals(self) -> Iterator[dict[ExpertKey, int]]:
        """Yield key → slot of the experts that can be computed with, group after group.

        The hits come first. Then all that has been read since is one group; this waits for a read
        only when nothing has. Each key comes once. It ends early if a read failed; `check` raises
        the failure.
        """
        if self._whole:
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
            landed = sorted(self._ended[taken:])
            if any(self._futures[i].exception() is not None for i in landed):
                return
            self._write(landed)
            yield {self._placements[i].key: self._placements[i].slot for i in landed}
            taken += len(landed)

    def finish(self) -> None:
        """Wait for all reads, commit or release their slots, report the events; once."""
        if not self._open:
            return
        try:
            self._wait(len(self._futures))
        finally:
            # Also after a KeyboardInterrupt in that wait.
            while self._reap(True):
                pass
            for read in self._futures:
                read.exception()
            self._open = False
            self._commit_or_release()
        self._report_all()

    def check(self) -> None:
        """Raise the first failure of a read, if any."""
        for read in self._futures:
            read.result()

    def _end(self, number: int, read: Read) -> None:
        """Note, on the thread that read, that a read has ended, well or not."""
        self._ended.append(number)
        self._bell.put(None)

    def _wait(self, count: int) -> None:
        """Wait until `count` reads have ended."""
        self._reap(False)
        if len(self._ended) >= count:
            return
        begin = self._clock()
        while len(self._ended) < count:
            if not self._reap(True):
                self._bell.get()
        self._wait_ns += self._clock() - begin

    def _write(self, landed: Sequence[int]) -> None:
        """Commit the rows of these reads, which are complete, to the bank's arrays."""
        begin = self._clock()
        new = [i for i in landed if i not in self._written]
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
