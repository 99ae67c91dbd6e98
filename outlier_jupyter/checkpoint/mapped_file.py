"""A memory-mapped file that can be copied from without the risk of SIGBUS.

If a file was cut, or its disk fails, touching its mapped pages raises SIGBUS, which ends the
process. So on Linux the system copies (`process_vm_readv`): it reads the same pages by the same
faults and returns EFAULT instead, 3 µs slower per call and equally fast from 1 MB on. Elsewhere,
and where a sandbox forbids that call, maps are refused.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import struct
import sys
from collections.abc import Sequence

import numpy as np

FORBIDDEN = (errno.ENOSYS, errno.EPERM, errno.EACCES)
"""Errors of a system or sandbox that does not offer the call."""


class Unguarded(Exception):
    """This system cannot copy from a memory map without the risk of SIGBUS."""


VECTOR = struct.Struct("@PN")
"""`struct iovec`: an address and a number of bytes."""

process_vm_readv = (
    getattr(ctypes.CDLL(None, use_errno=True), "process_vm_readv", None)
    if sys.platform == "linux"
    else None
)
"""The system call; None where there is none."""
if process_vm_readv is not None:
    _word, _vectors = ctypes.c_ulong, ctypes.c_char_p
    process_vm_readv.argtypes = (ctypes.c_int, _vectors, _word, _vectors, _word, _word)
    process_vm_readv.restype = ctypes.c_ssize_t


class MappedFile:
    """The memory map of an open file.

    Raises:
        OSError: it cannot be mapped.
        ValueError: it is empty.
        Unguarded: there is no safe way to copy from it.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._map = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
        self._address = int(np.frombuffer(self._map, np.uint8).ctypes.data)
        if _copied(self._address, 1, [memoryview(bytearray(1))]) is None:
            self._map.close()
            raise Unguarded

    def preadv(self, views: Sequence[memoryview], offset: int) -> int:
        """Fill the views one after the other from `offset` on, as `os.preadv` does.

        Returns:
            the bytes copied: fewer where the file ends, none beyond its end.

        Raises:
            OSError: the disk failed.
        """
        # No more than is needed: the system pins every page of the range.
        mapped = max(0, min(sum(map(len, views)), len(self._map) - offset))
        count = _copied(self._address + offset, mapped, views)
        if count is None:  # it was allowed when the file was mapped
            return os.preadv(self._descriptor, views, offset)
        # The last page continues beyond the end of the file with zeros.
        there = max(0, os.fstat(self._descriptor).st_size - offset)
        if count == 0 < min(mapped, there):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return min(count, there)

    def close(self) -> None:
        """Unmap it; the descriptor stays open."""
        self._map.close()


def _copied(address: int, nbytes: int, views: Sequence[memoryview]) -> int | None:
    """Have the system copy, without the interpreter's lock.

    Returns:
        the bytes copied, 0 at a page that is not there; None if the call is not available.
    """
    if process_vm_readv is None:
        return None
    into = b"".join(
        VECTOR.pack(ctypes.addressof(ctypes.c_char.from_buffer(view)), len(view)) for view in views
    )
    count = int(process_vm_readv(os.getpid(), into, len(views), VECTOR.pack(address, nbytes), 1, 0))
    if count >= 0:
        return count
    return None if ctypes.get_errno() in FORBIDDEN else 0
