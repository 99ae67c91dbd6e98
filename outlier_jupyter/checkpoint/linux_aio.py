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
import struct
import sys
from collections.abc import Sequence
from typing import NamedTuple

DEPTH = 128
"""Reads that may be pending at once."""

CALLS = {
    "x86_64": (206, 207, 208, 209),
    "aarch64": (0, 1, 4, 2),
}
"""Machine → the numbers of io_setup, io_destroy, io_getevents, io_submit (<asm/unistd.h>)."""
PREADV = 7
REQUEST = struct.Struct("<QIIHhIQQqQII")
"""`struct iocb` of <linux/aio_abi.h>, on a machine that is little-endian: number, key, flags,
operation, priority, descriptor, memory, count, offset, and three that are unused here."""


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


class _Event(ctypes.Structure):
    """`struct io_event`: `result` is the number of bytes read, or minus an error number."""

    _fields_ = (
        ("number", ctypes.c_uint64), ("request", ctypes.c_uint64),
        ("result", ctypes.c_int64), ("more", ctypes.c_int64),
    )  # fmt: skip


class KernelQueue:
    """The kernel's queue of reads; used by one thread at a time.

    Raises:
        OSError: the system has no such queue, or refuses one.
    """

    def __init__(self) -> None:
        numbers = CALLS.get(platform.machine()) if sys.platform == "linux" else None
        if numbers is None or sys.byteorder != "little":
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        self._setup, self._destroy, self._getevents, self._submit = numbers
        self._call = ctypes.CDLL(None, use_errno=True).syscall
        self._context = ctypes.c_ulong(0)
        self._events = (_Event * DEPTH)()
        # The kernel copies the requests when they are submitted.
        self._requests = (ctypes.c_char * (DEPTH * REQUEST.size))()
        first = ctypes.addressof(self._requests)
        places = range(first, first + DEPTH * REQUEST.size, REQUEST.size)
        self._pointers = (ctypes.c_void_p * DEPTH)(*places)
        self._no_wait = (ctypes.c_long * 2)()  # a time of zero
        self.pending = 0
        self._syscall(self._setup, DEPTH, ctypes.byref(self._context))

    def submit(self, reads: Sequence[KernelRead], descriptor: int, pieces: int) -> int:
        """Submit reads of a file, each into `pieces` pieces of memory, with one system call.

        Reads must be aligned for direct reads, and their memory must stay until they have ended.

        Returns:
            how many reads, from the first on, were accepted. The others are not made: too many are
            pending, or one was refused.
        """
        count = min(len(reads), DEPTH - self.pending)
        for place, (number, offset, memory) in enumerate(reads[:count]):
            REQUEST.pack_into(
                self._requests, place * REQUEST.size,
                number, 0, 0, PREADV, 0, descriptor, memory, pieces, offset, 0, 0, 0,
            )  # fmt: skip
        try:
            taken = self._syscall(self._submit, self._context, ctypes.c_long(count), self._pointers)
        except OSError:
            return 0
        self.pending += taken
        return taken

    def completed(self, wait: bool) -> list[tuple[int, int]]:
        """(number, bytes read or minus an error number) of reads ended since the last call.

        With `wait` it waits for at least one, unless a signal comes first.
        """
        if not self.pending:
            return []
        least = ctypes.c_long(1 if wait else 0)
        timeout = None if wait else self._no_wait
        try:
            count = self._syscall(
                self._getevents, self._context, least, ctypes.c_long(DEPTH), self._events, timeout
            )
        except InterruptedError:
            return []
        self.pending -= count
        return [(each.number, each.result) for each in self._events[:count]]

    def close(self) -> None:
        """Destroy the queue, once nothing is pending."""
        if self._context:
            self._syscall(self._destroy, self._context)
            self._context = ctypes.c_ulong(0)

    def _syscall(self, number: int, *arguments: object) -> int:
        """Make a system call, without the interpreter's lock."""
        result = int(self._call(ctypes.c_long(number), *arguments))
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
