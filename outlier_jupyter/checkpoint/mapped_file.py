"""A memory-mapped file that can be copied from without the risk of SIGBUS.

If a file was cut, or its disk fails, touching its mapped pages raises SIGBUS, which ends the
process. So on Linux the system copies (`process_vm_readv`): it reads the same pages by the same
faults and returns EFAULT instead, 3 µs slower per call and equally fast from 1 MB on. Elsewhere,
and where a sandbox forbids that call, maps are refused.

Where a file system of another program or machine answers short, the kernel fills the page with
zeros and says nothing. A disk's own file systems do not answer short; the others are refused, too.
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


SHORT = {
    0x65735546: "FUSE", 0x6969: "NFS", 0xFF534D42: "SMB", 0xFE534D42: "SMB", 0x517B: "SMB",
    0x01021997: "9P", 0x00C36400: "Ceph", 0x5346414F: "AFS", 0x6B414653: "AFS",
    0x0BD00BD0: "Lustre", 0x786F4256: "VirtualBox", 0x47504653: "GPFS", 0x19830326: "BeeGFS",
    0x73757245: "Coda", 0xAAD7AAEA: "PanFS",
}  # fmt: skip
"""The numbers of file systems that may answer a read short, by `statfs`, and their names."""


class Unguarded(Exception):
    """A map cannot be copied from here without the risk of SIGBUS or of zeros; it says why."""


def file_system(descriptor: int) -> int:
    """The number of the file system of an open file; 0 where it is not known."""
    call = getattr(ctypes.CDLL(None), "fstatfs", None) if sys.platform == "linux" else None
    found = ctypes.create_string_buffer(512)  # `struct statfs` begins with it and has 120 bytes
    if call is None or call(descriptor, found):
        return 0
    return ctypes.c_long.from_buffer(found).value & 0xFFFFFFFF


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
        if (kind := SHORT.get(file_system(descriptor))) is not None:
            raise Unguarded(f"{kind} may answer a memory map's read short, which gives zeros")
        self._map = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
        self._address = int(np.frombuffer(self._map, np.uint8).ctypes.data)
        if _copied(self._address, 1, [memoryview(bytearray(1))]) is None:
            self._map.close()
            raise Unguarded(
                "this system has no safe way to copy from a memory map (a failing disk would end "
                "the process)"
            )

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
