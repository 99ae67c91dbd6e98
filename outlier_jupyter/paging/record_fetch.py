"""Asynchronous reads of whole experts by the OS kernel, submitted by the thread that computes.

This is only for experts stored as records: one read each, directly into the slot. Where the kernel
cannot make a read, or fails, a reader thread makes it and raises the right error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..checkpoint import ByteRange, ExpertPart, KernelQueue, KernelRead, KernelReadable, RecordSpan
from ..residency import ExpertKey
from ..residency.slot_table import Placement
from .fetch import Read, ReadResult
from .slot_bank import SlotBank


class QueuedRead:
    """A `Read` in the kernel's queue; a `Future` takes longer to make.

    `QueuedReads.collect` ends it, or hands it over to a reader thread if the kernel failed.
    """

    def __init__(self) -> None:
        self._result: ReadResult | None = None
        self._callback: Callable[[Read], object] = lambda read: None
        self._retry: Read | None = None

    def end(self, result: ReadResult) -> None:
        """End the read with its `result`."""
        self._result = result
        self._callback(self)

    def hand_over(self, retry: Read) -> None:
        """Replace the read by a thread's `retry`."""
        self._retry = retry
        retry.add_done_callback(lambda read: self._callback(self))

    def add_done_callback(self, callback: Callable[[Read], object], /) -> None:
        """Call `callback` at the read's end, which must be yet to come; a later one replaces it."""
        self._callback = callback

    def result(self) -> ReadResult:
        """As `Future`'s, but only a thread's read is waited for."""
        if self._retry is not None:
            return self._retry.result()
        assert self._result is not None, "the read has not ended"
        return self._result

    def exception(self) -> BaseException | None:
        """As `Future`'s, but only a thread's read is waited for."""
        return None if self._retry is None else self._retry.exception()


class _Open(NamedTuple):
    """A read in flight."""

    placement: Placement
    read: QueuedRead
    nbytes: int
    start_ns: int


class QueuedReads:
    """The reads of one pager in the kernel's queue.

    Args:
        kernel_readable: the reader's method of this name; called for every read.
        retry: makes a read on a reader thread, when the kernel did not.
    """

    def __init__(
        self,
        queue: KernelQueue,
        kernel_readable: Callable[[ByteRange], KernelReadable | None],
        parts: Mapping[int, Sequence[ExpertPart]],
        bank: SlotBank,
        clock: Callable[[], int],
        retry: Callable[[Placement], Read],
    ) -> None:
        self._queue, self._kernel_readable, self._bank = queue, kernel_readable, bank
        self._clock, self._retry = clock, retry
        self._records = {layer: record_of(each) for layer, each in parts.items()}
        self._open: dict[int, _Open] = {}
        self._number = 0
        self._alignment: tuple[npt.NDArray[np.uint64] | None, int, bool] = None, 0, False

    def start(self, placements: Sequence[Placement]) -> dict[ExpertKey, QueuedRead]:
        """Submit the reads of one layer that the kernel can make; threads must make the others."""
        record = self._records[placements[0].key.layer] if placements else None
        pieces = None if record is None else self._bank.pieces(record.names)
        if record is None or pieces is None:
            return {}
        start, first, size = self._clock(), pieces.ctypes.data, pieces.strides[0]
        wanted, descriptor = [], -1
        for placement in placements:
            where = record.at(placement.key.expert)
            kernel_readable = self._kernel_readable(where)
            if kernel_readable is None or not self._aligned(pieces, kernel_readable.block):
                continue
            self._number, descriptor = self._number + 1, kernel_readable.descriptor
            wanted.append(KernelRead(self._number, where.offset, first + size * placement.slot))
            # Registered before it is submitted: an interrupt may come right after.
            self._open[self._number] = _Open(placement, QueuedRead(), where.nbytes, start)
        taken = self._queue.submit(wanted, descriptor, pieces.shape[1]) if wanted else 0
        for read in wanted[taken:]:
            del self._open[read.number]
        begun = [self._open[read.number] for read in wanted[:taken]]
        return {each.placement.key: each.read for each in begun}

    def _aligned(self, pieces: npt.NDArray[np.uint64], block: int) -> bool:
        """Whether all of `pieces` begin and end at block boundaries; the last result is cached."""
        known, by, aligned = self._alignment
        if known is not pieces or by != block:
            aligned = not (pieces % block).any()
            self._alignment = pieces, block, aligned
        return aligned

    def collect(self, wait: bool) -> bool:
        """Collect the queue's completions, with `wait` at least one; False if none was pending."""
        if not self._queue.pending:
            return False
        for number, result in self._queue.completed(wait):
            placement, read, nbytes, start = self._open.pop(number)
            if result == nbytes:
                read.end((nbytes, start, self._clock() - start))
            else:
                read.hand_over(self._retry(placement))
        return True

    def close(self) -> None:
        """Close the queue, in which nothing may be pending."""
        self._queue.close()


def record_of(parts: Sequence[ExpertPart]) -> RecordSpan | None:
    """The records of a layer's experts, if each expert is completely in one."""
    record = parts[0].record
    whole = record is not None and all(part.record is record for part in parts)
    return record if whole else None
