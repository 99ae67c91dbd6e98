"""Requests huge pages for large memory (Linux).

A page of 4 KiB holds four rows of packed weights, one of 2 MiB two thousand; finding small pages
costs a product that reads memory once a tenth of its time or more. NumPy's arrays have huge pages
already, MLX's do not. Direct reads into huge pages are several times as fast, because the disk gets
a few pieces of memory instead of hundreds. If the system refuses, only speed is lost, silently.

Pages are allocated when memory is first written. On a virtual machine each can take 15 µs, small or
huge: a gigabyte of small ones takes four seconds. So huge pages are requested before, also for
memory that other code allocates and fills in one go.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

LARGE = 1 << 21
"""Bytes of a huge page, on x86-64 and most of ARM."""
LARGE_PAGES, GATHER = 14, 25
"""Advice to Linux: MADV_HUGEPAGE, MADV_COLLAPSE."""
BY_ITSELF = 1 << 26
"""Bytes from which on C's allocator maps memory separately."""
LOOK_S = 0.001
MAPS = Path("/proc/self/maps")
"""Where Linux lists the mapped memory."""


@contextmanager
def coming(nbytes: int) -> Iterator[None]:
    """Request huge pages for memory of `nbytes` that is mapped and filled within the context.

    A thread watches for it. What is filled before the thread sees it stays in small pages; `gather`
    moves those.
    """
    if nbytes < BY_ITSELF or not MAPS.exists():
        yield
        return
    over = threading.Event()
    watch = threading.Thread(target=_look_out, args=(nbytes, set(_mapped(nbytes)), over))
    watch.start()
    try:
        yield
    finally:
        over.set()
        watch.join()


def _look_out(nbytes: int, known: set[tuple[int, int]], over: threading.Event) -> None:
    """Advise huge pages for newly mapped memory not in `known`, at growing intervals."""
    pause = LOOK_S
    while not over.wait(pause):
        for begin, end in set(_mapped(nbytes)) - known:
            known.add((begin, end))
            _advise(begin, end - begin, LARGE_PAGES)
        pause = min(2 * pause, 0.1)


def _mapped(nbytes: int) -> Iterator[tuple[int, int]]:
    """Begin and end of this process's anonymous mappings of at least `nbytes`."""
    for line in MAPS.read_text().splitlines():
        place, kind, _, _, file = line.split(maxsplit=5)[:5]
        begin, end = (int(part, 16) for part in place.split("-"))
        if end - begin >= nbytes and kind == "rw-p" and file == "0":
            yield begin, end


def gather(address: int, nbytes: int) -> None:
    """Move memory that is in use into huge pages, with its content."""
    if _advise(address, nbytes, LARGE_PAGES):
        _advise(address, nbytes, GATHER)


def buffer(nbytes: int) -> memoryview:
    """Page-aligned anonymous memory of zeros.

    From the size of a huge page on it consists of whole huge pages.
    """
    if nbytes < LARGE:
        return memoryview(mmap.mmap(-1, max(nbytes, 1)))[:nbytes]
    size = -(-nbytes // LARGE) * LARGE
    mapped = mmap.mmap(-1, size + LARGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    address = ctypes.addressof(ctypes.c_char.from_buffer(mapped))
    first = -address % LARGE
    _advise(address + first, size, LARGE_PAGES)
    return memoryview(mapped)[first : first + nbytes]


def _advise(address: int, nbytes: int, advice: int) -> bool:
    """Advise the system on the huge pages completely within; whether it accepted."""
    begin, end = -(-address // LARGE) * LARGE, (address + nbytes) // LARGE * LARGE
    if end <= begin or not sys.platform.startswith("linux"):
        return False
    return bool(_madvise()(begin, end - begin, advice) == 0)


@lru_cache
def _madvise() -> Any:
    function = ctypes.CDLL(None).madvise
    function.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return function
