"""Whole experts read by the kernel itself, handed over by the thread that computes.

For experts that lie on disk as records, and only those: one read each, straight into the slot.
What cannot be had that way, and what fails, is read by a thread, which knows what to do and say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..checkpoint import ByteRange, ExpertPart, KernelQueue, KernelReadable, RecordSpan, Wanted
from ..residency import ExpertKey
from ..residency.slot_table import Placement
from .fetch import Read, ReadResult
from .slots import SlotBank


class QueuedRead:
    """A read of the kernel's, as whoever fetches knows reads; a `Future` takes longer to make.

    Its end is learnt from the queue, unless a thread had to read again.
    """

    def __init__(self) -> None:
        self._ended: ReadResult | None = None
        self._tell: Callable[[Read], object] = _nobody
        self._again: Read | None = None

    def end(self, ended: ReadResult) -> None:
        """It came as it should."""
        self._ended = ended
        self._tell(self)

    def hand_on(self, again: Read) -> None:
        """A thread reads in its place."""
        self._again = again
        again.add_done_callback(lambda read: self._tell(self))

    def add_done_callback(self, tell: Callable[[Read], object], /) -> None:
        """`tell` is called when it has ended, which it must not have yet; the last one counts."""
        self._tell = tell

    def result(self) -> ReadResult:
        """As a `Future`'s; waits only where a thread reads."""
        if self._again is not None:
            return self._again.result()
        assert self._ended is not None, "the queue was not asked"
        return self._ended

    def exception(self) -> BaseException | None:
        """As a `Future`'s; waits only where a thread reads."""
        return None if self._again is None else self._again.exception()


def _nobody(read: Read) -> None:
    """Told of an end before anybody asked."""


class _Open(NamedTuple):
    """A read that is under way."""

    placement: Placement
    read: QueuedRead
    nbytes: int
    start_ns: int


class QueuedReads:
    """The reads of one pager that are in the kernel's queue.

    Args:
        straight: the reader's own; asked of every read.
        again: has a thread read what the kernel did not.
    """

    def __init__(
        self,
        queue: KernelQueue,
        straight: Callable[[ByteRange], KernelReadable | None],
        parts: Mapping[int, Sequence[ExpertPart]],
        bank: SlotBank,
        clock: Callable[[], int],
        again: Callable[[Placement], Read],
    ) -> None:
        self._queue, self._straight, self._bank = queue, straight, bank
        self._clock, self._again = clock, again
        self._records = {layer: record_of(each) for layer, each in parts.items()}
        self._open: dict[int, _Open] = {}
        self._number = 0
        self._asked: tuple[npt.NDArray[np.uint64] | None, int, bool] = None, 0, False

    def start(self, placements: Sequence[Placement]) -> dict[ExpertKey, QueuedRead]:
        """Hand over reads of one layer, those that can be; all others threads must make."""
        record = self._records[placements[0].key.layer] if placements else None
        pieces = None if record is None else self._bank.pieces(record.names)
        if record is None or pieces is None:
            return {}
        start, first, size = self._clock(), pieces.ctypes.data, pieces.strides[0]
        wanted, descriptor = [], -1
        for placement in placements:
            where = record.at(placement.key.expert)
            straight = self._straight(where)
            if straight is None or not self._aligned(pieces, straight.block):
                continue
            self._number, descriptor = self._number + 1, straight.descriptor
            wanted.append(Wanted(self._number, where.offset, first + size * placement.slot))
            # Known before it is handed over: an interrupt may come right after.
            self._open[self._number] = _Open(placement, QueuedRead(), where.nbytes, start)
        taken = self._queue.submit(wanted, descriptor, pieces.shape[1]) if wanted else 0
        for read in wanted[taken:]:
            del self._open[read.number]
        begun = [self._open[read.number] for read in wanted[:taken]]
        return {each.placement.key: each.read for each in begun}

    def _aligned(self, pieces: npt.NDArray[np.uint64], block: int) -> bool:
        """Whether all of these begin and end on blocks; asked anew only of others."""
        known, by, aligned = self._asked
        if known is not pieces or by != block:
            aligned = not (pieces % block).any()
            self._asked = pieces, block, aligned
        return aligned

    def reap(self, wait: bool) -> bool:
        """Tell of what has ended, with `wait` of at least one; False if nothing was under way."""
        if not self._queue.pending:
            return False
        for number, result in self._queue.ended(wait):
            placement, read, nbytes, start = self._open.pop(number)
            if result == nbytes:
                read.end((nbytes, start, self._clock() - start))
            else:
                read.hand_on(self._again(placement))
        return True

    def close(self) -> None:
        """Nothing is under way, and nothing will be."""
        self._queue.close()


def record_of(parts: Sequence[ExpertPart]) -> RecordSpan | None:
    """The records that hold a layer's experts, if all of an expert is in one."""
    record = parts[0].record
    whole = record is not None and all(part.record is record for part in parts)
    return record if whole else None
