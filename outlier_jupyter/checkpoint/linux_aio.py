"""Reads that the kernel does by itself: Linux's AIO, asked by the system's own calls.

A thread that reads must be woken, wait for the interpreter and take a core from who computes,
twice for each read. What is given to this queue needs none of it: the thread that computes hands a
read over in 30 µs, and asks later what has ended. Only direct reads are asynchronous here; others
would be done while they are handed over.
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
"""As many reads may be under way."""

CALLS = {
    "x86_64": (206, 207, 208, 209),
    "aarch64": (0, 1, 4, 2),
}
"""Machine → the numbers of io_setup, io_destroy, io_getevents, io_submit (<asm/unistd.h>)."""
PREADV = 7
REQUEST = struct.Struct("<QIIHhIQQqQII")
"""`struct iocb` of <linux/aio_abi.h>, on a machine that is little-endian: number, key, flags,
operation, priority, descriptor, memory, count, offset, and three that are not used here."""


class Wanted(NamedTuple):
    """A read to be made.

    Attributes:
        number: of the read, by which `ended` tells of it.
        offset: where in the file it begins.
        memory: address of what it is read into: pieces of (address, bytes), two uint64 each.
    """

    number: int
    offset: int
    memory: int


class _Ended(ctypes.Structure):
    """`struct io_event`: `result` is how many bytes came, or minus an error's number."""

    _fields_ = (
        ("number", ctypes.c_uint64), ("request", ctypes.c_uint64),
        ("result", ctypes.c_int64), ("more", ctypes.c_int64),
    )  # fmt: skip


class KernelQueue:
    """Used by one thread at a time.

    Raises:
        OSError: the system has no such queue, or refuses one.
    """

    def __init__(self) -> None:
        numbers = CALLS.get(platform.machine()) if sys.platform == "linux" else None
        if numbers is None or sys.byteorder != "little":
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        self._setup, self._destroy, self._events, self._submit = numbers
        self._call = ctypes.CDLL(None, use_errno=True).syscall
        self._context = ctypes.c_ulong(0)
        self._ended = (_Ended * DEPTH)()
        # Copied by the kernel when they are handed over.
        self._requests = (ctypes.c_char * (DEPTH * REQUEST.size))()
        first = ctypes.addressof(self._requests)
        places = range(first, first + DEPTH * REQUEST.size, REQUEST.size)
        self._pointers = (ctypes.c_void_p * DEPTH)(*places)
        self._at_once = (ctypes.c_long * 2)()  # a time of nothing
        self.pending = 0
        self._ask(self._setup, DEPTH, ctypes.byref(self._context))

    def submit(self, reads: Sequence[Wanted], descriptor: int, pieces: int) -> int:
        """Have parts of a file read, each into so many pieces of memory, by one call for all.

        All must be aligned as direct reads want it, and the memory stay until a read has ended.

        Returns:
            how many were taken, the first of them; the others are not read: too many are pending,
            or one is refused.
        """
        count = min(len(reads), DEPTH - self.pending)
        for place, (number, offset, memory) in enumerate(reads[:count]):
            REQUEST.pack_into(
                self._requests, place * REQUEST.size,
                number, 0, 0, PREADV, 0, descriptor, memory, pieces, offset, 0, 0, 0,
            )  # fmt: skip
        try:
            taken = self._ask(self._submit, self._context, ctypes.c_long(count), self._pointers)
        except OSError:
            return 0
        self.pending += taken
        return taken

    def ended(self, wait: bool) -> list[tuple[int, int]]:
        """(number, bytes read, or minus an error's number) of what has ended since the last time.

        With `wait`, of at least one, unless a signal came first.
        """
        if not self.pending:
            return []
        least = ctypes.c_long(1 if wait else 0)
        now = None if wait else self._at_once
        try:
            count = self._ask(
                self._events, self._context, least, ctypes.c_long(DEPTH), self._ended, now
            )
        except InterruptedError:
            return []
        self.pending -= count
        return [(each.number, each.result) for each in self._ended[:count]]

    def close(self) -> None:
        """Give the queue back, once nothing is pending."""
        if self._context:
            self._ask(self._destroy, self._context)
            self._context = ctypes.c_ulong(0)

    def _ask(self, number: int, *given: object) -> int:
        """A system call; the interpreter's lock is not held meanwhile."""
        result = int(self._call(ctypes.c_long(number), *given))
        if result < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        return result


def open_queue() -> KernelQueue | None:
    """A queue, or None where the system has none to give."""
    try:
        return KernelQueue()
    except OSError:
        return None
