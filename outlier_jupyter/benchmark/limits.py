"""The limits of the hardware: bandwidth of memory, and of direct reads from a file.

A token takes at least t = max(bytes of active weights ÷ memory bandwidth, bytes missed ÷ disk
bandwidth). Both bandwidths are measured by reading alone.
"""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit, prange

from ..checkpoint import PAGE, ByteRange, open_reader
from ..cpu.kernels.arguments import READ, read_through
from ..system.huge_pages import buffer

WORDS = 1 << 27
"""float32 that the memory test reads: half a gigabyte, more than the processor's caches."""
PARTS = 64
"""Parts of it for threads."""
STEP = PARTS * READ // 4
"""All readings are multiples of this many float32."""
DEPTHS = (2, 4, 8)
"""Numbers of parallel direct reads that are tried; the fastest counts."""


@njit(parallel=True, nogil=True)  # type: ignore[untyped-decorator]  # Numba has no types
def _sum(words: Any, parts: Any) -> None:
    """Read float32 with all threads."""
    size = len(words) // len(parts)
    for part in prange(len(parts)):
        parts[part] = read_through(words.ctypes.data + 4 * part * size, 4 * size // READ)


class Memory:
    """The memory test: all threads read the same half gigabyte.

    Attributes:
        words: float32, what is read.
        sums: int32 [PARTS], a checksum of each part's words as they were last read.
        position: index in `words` at which the next `move` begins.
    """

    def __init__(self, words: int = WORDS) -> None:
        self.words = np.ones(words, np.float32)
        self.sums = np.zeros(PARTS, np.int32)
        self.position = 0
        self.nbytes = self.words.nbytes
        self.read()

    def read(self) -> None:
        """Read all of it once."""
        _sum(self.words, self.sums)

    def move(self, nbytes: float) -> None:
        """Read `nbytes` of it, from where the last call ended."""
        words = int(nbytes) // 4 // STEP * STEP
        while words > 0:
            end = min(self.position + words, len(self.words))
            _sum(self.words[self.position : end], self.sums)
            words -= end - self.position
            self.position = end % len(self.words)

    def bytes_per_s(self, times: int = 3) -> float:
        """The best of `times` readings."""
        return max(self._once() for _ in range(times))

    def _once(self) -> float:
        begin = time.perf_counter()
        self.read()
        return float(self.nbytes / (time.perf_counter() - begin))


def disk_bytes_per_s(file: Path, nbytes: int, seconds: float = 0.3) -> float:
    """Direct reads of `nbytes` at random places of `file`: `seconds` at each depth, the best."""
    whole = max(PAGE, nbytes // PAGE * PAGE)
    reader = open_reader("direct", [file])
    try:
        return max(_at_depth(reader, file, whole, depth, seconds) for depth in DEPTHS)
    finally:
        reader.close()


def _at_depth(reader: Any, file: Path, nbytes: int, depth: int, seconds: float) -> float:
    places = max(1, file.stat().st_size // nbytes)
    begin = time.perf_counter()

    def work(thread: int) -> int:
        chance, done = random.Random(thread * 7919 + time.monotonic_ns()), 0
        view = buffer(nbytes)  # the kind of buffer affects the speed of reads
        while time.perf_counter() - begin < seconds:
            reader.read(ByteRange(file, chance.randrange(places) * nbytes, nbytes), view)
            done += nbytes
        return done

    with ThreadPoolExecutor(depth) as pool:
        total = sum(pool.map(work, range(depth)))
    return total / (time.perf_counter() - begin)


def least_seconds(active: float, missed: float, memory: float, disk: float) -> float:
    """The least time of a token: bytes to multiply and bytes to read, over their bandwidths."""
    return max(active / memory, missed / disk)
