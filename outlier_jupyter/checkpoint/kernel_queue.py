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
import sys
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

DEPTH = 128
"""As many reads may be under way."""

CALLS = {
    "x86_64": (206, 207, 208, 209),
    "aarch64": (0, 1, 4, 2),
}
"""Machine → the numbers of io_setup, io_destroy, io_getevents, io_submit (<asm/unistd.h>)."""
PREADV = 7
REQUEST = np.dtype([
    ("number", "<u8"), ("key", "<u4"), ("rw_flags", "<u4"), ("operation", "<u2"),
    ("priority", "<i2"), ("descriptor", "<u4"), ("memory", "<u8"), ("count", "<u8"),
    ("offset", "<i8"), ("reserved", "<u8"), ("flags", "<u4"), ("event_descriptor", "<u4"),
])  # fmt: skip
"""`struct iocb` of <linux/aio_abi.h>, on a machine that is little-endian."""


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
        self._requests = np.zeros(DEPTH, REQUEST)
        self._requests["operation"] = PREADV
        first, step = self._requests.ctypes.data, REQUEST.itemsize
        self._pointers = (ctypes.c_void_p * DEPTH)(*range(first, first + DEPTH * step, step))
        self._at_once = (ctypes.c_long * 2)()  # a time of nothing
        self.pending = 0
        self._ask(self._setup, DEPTH, ctypes.byref(self._context))

    def submit(
        self,
        numbers: Sequence[int],
        descriptor: int,
        offsets: Sequence[int],
        memory: npt.NDArray[np.uint64],
    ) -> int:
        """Have bytes of a file read, by one call for all of these reads.

        All of that must be aligned as direct reads want it, and the memory stay until a read has
        ended.

        Args:
            numbers: of the reads, by which `ended` tells of them.
            offsets: where each begins.
            memory: what each is read into: pieces of (address, bytes), [reads, pieces, 2].

        Returns:
            how many were taken, the first of them; the others are not read: too many are pending,
            or one is refused.
        """
        count = min(len(numbers), DEPTH - self.pending)
        requests = self._requests[:count]
        requests["number"], requests["descriptor"] = numbers[:count], descriptor
        requests["offset"], requests["count"] = offsets[:count], memory.shape[1]
        first, step = memory.ctypes.data, memory.strides[0]
        requests["memory"] = range(first, first + count * step, step)
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
