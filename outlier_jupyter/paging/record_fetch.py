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


class RecordMemory(NamedTuple):
    """The memory of a layer's records, for the kernel's queue.

    Attributes:
        address, stride: of the first slot's list of pieces, and from one slot's to the next one's.
        pieces, nbytes: how many pieces, and the bytes of a record.
    """

    address: int
    stride: int
    pieces: int
    nbytes: int


class EndedRead:
    """A `Read` that has ended with this result."""

    def __init__(self, result: ReadResult) -> None:
        self._result = result

    def add_done_callback(self, callback: Callable[[Read], object], /) -> None:
        """As `Future`'s."""
        callback(self)

    def result(self) -> ReadResult:
        """As `Future`'s."""
        return self._result

    def exception(self) -> BaseException | None:
        """As `Future`'s."""
        return None


class QueuedReads:
    """The reads of one pager in the kernel's queue.

    Attributes:
        queue: the queue.

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
        self.queue, self._kernel_readable, self._bank = queue, kernel_readable, bank
        self._clock, self._retry = clock, retry
        self._records = {layer: record_of(each) for layer, each in parts.items()}
        self._open: dict[int, _Open] = {}
        self._number = 0
        self._alignment: tuple[npt.NDArray[np.uint64] | None, int, bool] = None, 0, False

    def start(self, placements: Sequence[Placement]) -> dict[ExpertKey, QueuedRead]:
        """Submit the reads of one layer that the kernel can make; threads must make the others."""
        memory = self.memory(placements[0].key.layer) if placements else None
        if memory is None:
            return {}
        start, wanted, descriptor = self._clock(), [], -1
        for placement in placements:
            source = self.source(placement.key)
            if source is None:
                continue
            offset, descriptor, checksum = source
            if checksum >= 0:  # a thread reads it, and checks
                continue
            self._number += 1
            into = memory.address + memory.stride * placement.slot
            wanted.append(KernelRead(self._number, offset, into))
            # Registered before it is submitted: an interrupt may come right after.
            self._open[self._number] = _Open(placement, QueuedRead(), memory.nbytes, start)
        taken = self.queue.submit(wanted, descriptor, memory.pieces) if wanted else 0
        for read in wanted[taken:]:
            del self._open[read.number]
        begun = [self._open[read.number] for read in wanted[:taken]]
        return {each.placement.key: each.read for each in begun}

    def memory(self, layer: int) -> RecordMemory | None:
        """Where a layer's records are read into; None if only threads can read them."""
        record = self._records[layer]
        pieces = None if record is None else self._bank.pieces(record.names)
        if record is None or pieces is None:
            return None
        return RecordMemory(pieces.ctypes.data, pieces.strides[0], pieces.shape[1], record.nbytes)

    def source(self, key: ExpertKey) -> tuple[int, int, int] | None:
        """An expert's record: its offset, its file's descriptor, and a sum to check or -1.

        None if a thread must read. Only for layers that have a `memory`.
        """
        record = self._records[key.layer]
        assert record is not None
        where = record.at(key.expert)
        readable = self._kernel_readable(where)
        pieces = self._bank.pieces(record.names)
        if readable is None or pieces is None or not self._aligned(pieces, readable.block):
            return None
        return where.offset, readable.descriptor, readable.checksum

    def _aligned(self, pieces: npt.NDArray[np.uint64], block: int) -> bool:
        """Whether all of `pieces` begin and end at block boundaries; the last result is cached."""
        known, by, aligned = self._alignment
        if known is not pieces or by != block:
            aligned = not (pieces % block).any()
            self._alignment = pieces, block, aligned
        return aligned

    def collect(self, wait: bool) -> bool:
        """Collect the queue's completions, with `wait` at least one; False if none was pending."""
        if not self.queue.pending:
            return False
        for number, result in self.queue.completed(wait):
            placement, read, nbytes, start = self._open.pop(number)
            if result == nbytes:
                read.end((nbytes, start, self._clock() - start))
            else:
                read.hand_over(self._retry(placement))
        return True

    def close(self) -> None:
        """Close the queue, in which nothing may be pending."""
        self.queue.close()


def record_of(parts: Sequence[ExpertPart]) -> RecordSpan | None:
    """The records of a layer's experts, if each expert is completely in one."""
    record = parts[0].record
    whole = record is not None and all(part.record is record for part in parts)
    return record if whole else None
