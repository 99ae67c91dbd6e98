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

HUGE = 1 << 21
"""Bytes of a huge page, on x86-64 and most of ARM."""
ADVISE_HUGE, COLLAPSE = 14, 25
"""Advice to Linux: MADV_HUGEPAGE, MADV_COLLAPSE."""
DONT_NEED = 4
"""MADV_DONTNEED: the memory is given back, and reads as zeros."""
SEPARATE_MAPPING = 1 << 26
"""Bytes from which on C's allocator maps memory separately."""
FIRST_PAUSE_S = 0.001
MAPS = Path("/proc/self/maps")
"""Where Linux lists the mapped memory."""


@contextmanager
def prepare(nbytes: int) -> Iterator[None]:
    """Request huge pages for memory of `nbytes` that is mapped and filled within the context.

    A thread watches for it. Memory that is filled before the thread sees it stays in small pages,
    until `collapse` moves it.
    """
    if nbytes < SEPARATE_MAPPING or not MAPS.exists():
        yield
        return
    over = threading.Event()
    watch = threading.Thread(target=_advise_new, args=(nbytes, set(_mapped(nbytes)), over))
    watch.start()
    try:
        yield
    finally:
        over.set()
        watch.join()


def _advise_new(nbytes: int, known: set[tuple[int, int]], over: threading.Event) -> None:
    """Advise huge pages for newly mapped memory not in `known`, at growing intervals."""
    pause = FIRST_PAUSE_S
    while not over.wait(pause):
        for begin, end in set(_mapped(nbytes)) - known:
            known.add((begin, end))
            _advise(begin, end - begin, ADVISE_HUGE)
        pause = min(2 * pause, 0.1)


def _mapped(nbytes: int) -> Iterator[tuple[int, int]]:
    """Begin and end of this process's anonymous mappings of at least `nbytes`."""
    for line in MAPS.read_text().splitlines():
        place, kind, _, _, file = line.split(maxsplit=5)[:5]
        begin, end = (int(part, 16) for part in place.split("-"))
        if end - begin >= nbytes and kind == "rw-p" and file == "0":
            yield begin, end


def collapse(address: int, nbytes: int) -> None:
    """Move memory that is in use into huge pages, with its content."""
    if _advise(address, nbytes, ADVISE_HUGE):
        _advise(address, nbytes, COLLAPSE)


def buffer(nbytes: int) -> memoryview:
    """Page-aligned anonymous memory of zeros.

    From the size of a huge page on it consists of whole huge pages.
    """
    if nbytes < HUGE:
        return memoryview(mmap.mmap(-1, max(nbytes, 1)))[:nbytes]
    size = -(-nbytes // HUGE) * HUGE
    mapped = mmap.mmap(-1, size + HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    address = ctypes.addressof(ctypes.c_char.from_buffer(mapped))
    first = -address % HUGE
    _advise(address + first, size, ADVISE_HUGE)
    return memoryview(mapped)[first : first + nbytes]


def _advise(address: int, nbytes: int, advice: int) -> bool:
    """Advise the system on the huge pages completely within; whether it accepted."""
    begin, end = -(-address // HUGE) * HUGE, (address + nbytes) // HUGE * HUGE
    if end <= begin or not sys.platform.startswith("linux"):
        return False
    return bool(madvise()(begin, end - begin, advice) == 0)


@lru_cache
def madvise() -> Any:
    """The system call: (address, bytes, advice) → 0 if it accepted."""
    function = ctypes.CDLL(None).madvise
    function.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return function
