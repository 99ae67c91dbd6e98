"""Large memory in large pages, where the system gives them to those who ask (Linux).

A page of 4 KiB holds four rows of packed weights, and finding each page costs a product that reads
memory once a tenth of its time or more; one of 2 MiB holds two thousand. Arrays that NumPy makes
have them already, MLX's have not. A disk, too, reads several times as fast into them past the page
cache: it is told of a few pieces of memory in place of hundreds. Where the system refuses, nothing
is lost but speed, and nothing is told.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from functools import lru_cache
from typing import Any

LARGE = 1 << 21
"""Bytes of a large page, on x86-64 and most of ARM."""
DROP, LARGE_PAGES, FILL, GATHER = 4, 14, 23, 25
"""Advice to Linux: MADV_DONTNEED, MADV_HUGEPAGE, MADV_POPULATE_WRITE, MADV_COLLAPSE."""


def renew(address: int, nbytes: int) -> None:
    """Large pages for memory of the process's own that holds zeros; they are zeros afterwards."""
    if _advise(address, nbytes, LARGE_PAGES) and _advise(address, nbytes, DROP):
        _advise(address, nbytes, FILL)


def gather(address: int, nbytes: int) -> None:
    """Have memory that is in use moved into large pages, its content kept."""
    if _advise(address, nbytes, LARGE_PAGES):
        _advise(address, nbytes, GATHER)


def buffer(nbytes: int) -> memoryview:
    """Memory of the process's own that holds zeros, and begins on a page.

    It lies in large pages where it fills one, and then takes whole ones.
    """
    if nbytes < LARGE:
        return memoryview(mmap.mmap(-1, max(nbytes, 1)))[:nbytes]
    size = -(-nbytes // LARGE) * LARGE
    held = mmap.mmap(-1, size + LARGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    address = ctypes.addressof(ctypes.c_char.from_buffer(held))
    first = -address % LARGE
    _advise(address + first, size, LARGE_PAGES)
    return memoryview(held)[first : first + nbytes]


def _advise(address: int, nbytes: int, advice: int) -> bool:
    """Whether the system took it, for the large pages that lie wholly within."""
    begin, end = -(-address // LARGE) * LARGE, (address + nbytes) // LARGE * LARGE
    if end <= begin or not sys.platform.startswith("linux"):
        return False
    return bool(_madvise()(begin, end - begin, advice) == 0)


@lru_cache
def _madvise() -> Any:
    function = ctypes.CDLL(None).madvise
    function.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return function
