"""Asynchronous reads by the kernel: Linux AIO, through its system calls.

A reader thread must be woken, wait for the interpreter's lock and take a core from the computing
threads, twice per read. This queue needs none of that: the thread that computes submits a read in
30 µs, and later asks which have ended. Only direct reads are asynchronous here; the kernel would
make others during the submission.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import sys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

DEPTH = 128
"""Reads that may be pending at once."""

CALLS = {
    "x86_64": (206, 207, 208, 209),
    "aarch64": (0, 1, 4, 2),
}
"""Machine → the numbers of io_setup, io_destroy, io_getevents, io_submit (<asm/unistd.h>)."""
PREAD, PREADV = 0, 7
REQUEST, EVENT = 8, 4
"""int64 words of `struct iocb` and `struct io_event` of <linux/aio_abi.h>, little-endian. Of a
request: its number, 0, operation + (descriptor << 32), memory, count (bytes or pieces), offset, 0,
0. Of an event: its request's number, an address, its result (bytes read, or minus an error), 0."""
SYSCALL, SUBMIT, GETEVENTS, CONTEXT, REQUESTS, POINTERS, EVENTS, NO_WAIT = range(8)
PENDING, READS, TAKEN = range(8, 11)
"""Places in `KernelQueue.words`: the address of C's `syscall`, two numbers for it, the kernel's
context, the addresses of `DEPTH` requests, pointers to them, and events, the address of a time of
zero; how many reads are pending; and, of the last submission by compiled code, how many there were
and what the system call returned."""


class KernelRead(NamedTuple):
    """A read for the kernel to make.

    Attributes:
        number: identifies the read in `completed`.
        offset: where in the file it begins.
        memory: address of a list of (address, bytes), two uint64 each: the memory to read into.
    """

    number: int
    offset: int
    memory: int


class KernelQueue:
    """The kernel's queue of reads; used by one thread at a time.

    Attributes:
        words: int64 at the places above: compiled code submits and collects reads with them.

    Raises:
        OSError: the system has no such queue, or refuses one.
    """

    def __init__(self) -> None:
        numbers = CALLS.get(platform.machine()) if sys.platform == "linux" else None
        if numbers is None or sys.byteorder != "little":
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        setup, self._destroy, getevents, submit = numbers
        self._call = ctypes.CDLL(None, use_errno=True).syscall
        # The kernel copies the requests when they are submitted.
        self._requests = np.zeros((DEPTH, REQUEST), np.int64)
        first = self._requests.ctypes.data
        self._pointers = first + 8 * REQUEST * np.arange(DEPTH, dtype=np.int64)
        self._events = np.zeros((DEPTH, EVENT), np.int64)
        self._no_wait = np.zeros(2, np.int64)
        code = ctypes.cast(self._call, ctypes.c_void_p).value
        memory = (self._requests, self._pointers, self._events, self._no_wait)
        addresses = [each.ctypes.data for each in memory]
        self.words = np.array([code, submit, getevents, 0, *addresses, 0, 0, 0], np.int64)
        self._syscall(setup, DEPTH, self.words[CONTEXT:].ctypes.data)

    @property
    def pending(self) -> int:
        """How many reads have been submitted and not been collected."""
        return int(self.words[PENDING])

    def submit(self, reads: Sequence[KernelRead], descriptor: int, pieces: int) -> int:
        """Submit reads of a file, each into `pieces` pieces of memory, with one system call.

        Reads must be aligned for direct reads, and their memory must stay until they have ended.

        Returns:
            how many reads, from the first on, were accepted. The others are not made: too many are
            pending, or one was refused.
        """
        count = min(len(reads), DEPTH - self.pending)
        for request, read in zip(self._requests, reads[:count], strict=False):
            request[:] = (
                read.number, 0, PREADV | descriptor << 32, read.memory, pieces, read.offset, 0, 0
            )  # fmt: skip
        context, pointers = self.words[[CONTEXT, POINTERS]].tolist()
        try:
            taken = self._syscall(int(self.words[SUBMIT]), context, count, pointers)
        except OSError:
            return 0
        self.words[PENDING] += taken
        return taken

    def completed(self, wait: bool) -> list[tuple[int, int]]:
        """(number, bytes read or minus an error number) of reads ended since the last call.

        With `wait` it waits for at least one, unless a signal comes first.
        """
        if not self.pending:
            return []
        places = [GETEVENTS, CONTEXT, EVENTS, NO_WAIT]
        getevents, context, events, no_wait = self.words[places].tolist()
        try:
            count = self._syscall(
                getevents, context, int(wait), DEPTH, events, 0 if wait else no_wait
            )
        except InterruptedError:
            return []
        self.words[PENDING] -= count
        return [(number, result) for number, _, result, _ in self._events[:count].tolist()]

    def close(self) -> None:
        """Destroy the queue, once nothing is pending."""
        context = int(self.words[CONTEXT])
        if context:
            self._syscall(self._destroy, context)
            self.words[CONTEXT] = 0

    def _syscall(self, *numbers: int) -> int:
        """Make a system call, without the interpreter's lock."""
        result = int(self._call(*(ctypes.c_long(number) for number in numbers)))
        if result < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        return result


def open_queue() -> KernelQueue | None:
    """A queue, or None where the system has none."""
    try:
        return KernelQueue()
    except OSError:
        return None
