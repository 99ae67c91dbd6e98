"""Whole experts read by the kernel itself, handed over by the thread that computes.

For experts that lie on disk as records, and only those: one read each, straight into the slot.
What cannot be had that way, and what fails, is read by a thread, which knows what to do and say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import NamedTuple

from ..checkpoint import ByteRange, ExpertPart, KernelQueue, RecordSpan, Straight
from ..residency import Placement
from .fetch import Read
from .slots import SlotBank


class _Open(NamedTuple):
    """A read that is under way."""

    placement: Placement
    future: Read
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
        straight: Callable[[ByteRange], Straight | None],
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

    def start(self, placement: Placement) -> Read | None:
        """Hand a read over; None where a thread must do it."""
        record = self._records[placement.key.layer]
        if record is None:
            return None
        where = record.at(placement.key.expert)
        straight = self._straight(where)
        if straight is None:
            return None
        pieces = self._bank.pieces(record.names, placement.slot)
        if pieces is None or (pieces % straight.block).any():
            return None
        start = self._clock()
        self._number += 1
        future: Read = Future()
        future.set_running_or_notify_cancel()
        # Known before it is handed over: an interrupt may come right after.
        self._open[self._number] = _Open(placement, future, where.nbytes, start)
        try:
            self._queue.submit(self._number, straight.descriptor, where.offset, pieces)
        except OSError:
            del self._open[self._number]
            return None
        return future

    def reap(self, wait: bool) -> bool:
        """Tell of what has ended, with `wait` of at least one; False if nothing was under way."""
        if not self._queue.pending:
            return False
        for number, result in self._queue.ended(wait):
            placement, future, nbytes, start = self._open.pop(number)
            if result == nbytes:
                future.set_result((nbytes, start, self._clock() - start))
            else:
                self._again(placement).add_done_callback(partial(_hand_on, future))
        return True

    def close(self) -> None:
        """Nothing is under way, and nothing will be."""
        self._queue.close()


def record_of(parts: Sequence[ExpertPart]) -> RecordSpan | None:
    """The records that hold a layer's experts, if all of an expert is in one."""
    record = parts[0].record
    whole = record is not None and all(part.record is record for part in parts)
    return record if whole else None


def _hand_on(to: Read, read: Read) -> None:
    error = read.exception()
    if error is None:
        to.set_result(read.result())
    else:
        to.set_exception(error)
