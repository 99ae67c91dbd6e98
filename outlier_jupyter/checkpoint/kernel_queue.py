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


class _Request(ctypes.Structure):
    """`struct iocb` of <linux/aio_abi.h>, on a machine that is little-endian."""

    _fields_ = (
        ("number", ctypes.c_uint64), ("key", ctypes.c_uint32), ("rw_flags", ctypes.c_uint32),
        ("operation", ctypes.c_uint16), ("priority", ctypes.c_int16),
        ("descriptor", ctypes.c_uint32), ("memory", ctypes.c_uint64), ("count", ctypes.c_uint64),
        ("offset", ctypes.c_int64), ("reserved", ctypes.c_uint64), ("flags", ctypes.c_uint32),
        ("event_descriptor", ctypes.c_uint32),
    )  # fmt: skip


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
        self._request = _Request(operation=PREADV)  # copied by the kernel when it is handed over
        self._requests = (ctypes.c_void_p * 1)(ctypes.addressof(self._request))
        self._at_once = (ctypes.c_long * 2)()  # a time of nothing
        self.pending = 0
        self._ask(self._setup, DEPTH, ctypes.byref(self._context))

    def submit(
        self, number: int, descriptor: int, offset: int, memory: npt.NDArray[np.uint64]
    ) -> None:
        """Have bytes from `offset` on read into pieces of memory, (address, bytes): [pieces, 2].

        All of that must be aligned as direct reads want it, and the memory stay until `number`
        has ended.

        Raises:
            OSError: it was not taken; too many are pending, or the request is refused.
        """
        request = self._request
        request.number, request.descriptor, request.offset = number, descriptor, offset
        request.memory, request.count = memory.ctypes.data, len(memory)
        self._ask(self._submit, self._context, ctypes.c_long(1), self._requests)
        self.pending += 1

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
