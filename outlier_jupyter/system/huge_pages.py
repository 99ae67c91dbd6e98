"""Large memory in large pages, where the system gives them to those who ask (Linux).

A page of 4 KiB holds four rows of packed weights, and finding each page costs a product that reads
memory once a tenth of its time or more; one of 2 MiB holds two thousand. Arrays that NumPy makes
have them already, MLX's have not. A disk, too, reads several times as fast into them past the page
cache: it is told of a few pieces of memory in place of hundreds. Where the system refuses, nothing
is lost but speed, and nothing is told.

Pages come when memory is first written. On a virtual machine each can take 15 µs, small or large:
a gigabyte in small ones, four seconds. So large ones are asked for before, also for memory that
somebody else asks for and fills in one go.
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
"""Bytes of a large page, on x86-64 and most of ARM."""
LARGE_PAGES, GATHER = 14, 25
"""Advice to Linux: MADV_HUGEPAGE, MADV_COLLAPSE."""
BY_ITSELF = 1 << 26
"""Bytes of memory from which on C's allocator has it mapped by itself."""
LOOK_S = 0.001
MAPS = Path("/proc/self/maps")
"""Where Linux tells which memory is mapped."""


@contextmanager
def coming(nbytes: int) -> Iterator[None]:
    """Large pages for memory of `nbytes` that is mapped and filled within the context.

    A thread looks out for it. What is filled before it sees it stays in small pages; `gather` has
    those moved.
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
    """Advise large pages for what is mapped and was not `known`, less and less often."""
    pause = LOOK_S
    while not over.wait(pause):
        for begin, end in set(_mapped(nbytes)) - known:
            known.add((begin, end))
            _advise(begin, end - begin, LARGE_PAGES)
        pause = min(2 * pause, 0.1)


def _mapped(nbytes: int) -> Iterator[tuple[int, int]]:
    """Begin and end of this process's pieces of memory of `nbytes` and more that are no file's."""
    for line in MAPS.read_text().splitlines():
        place, kind, _, _, file = line.split(maxsplit=5)[:5]
        begin, end = (int(part, 16) for part in place.split("-"))
        if end - begin >= nbytes and kind == "rw-p" and file == "0":
            yield begin, end


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
