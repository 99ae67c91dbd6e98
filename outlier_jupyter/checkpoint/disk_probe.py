"""How fast a disk gives what is asked of it, through the page cache and past it.

A probe reads places of one file at random, so many at once, so large, for an equal share of the
time it is given; which reader and how many threads are best follows from that. Reads through the
cache find their place cold where the system can be asked to forget it. What the file holds is not
known here.
"""

from __future__ import annotations

import itertools
import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import NamedTuple

from ..errors import ReadFailed
from ..system.files import regular
from ..system.huge_pages import buffer
from .layout import ByteRange
from .readers import PAGE, Reader, open_reader

SECONDS = 1.8
"""What a probe takes; with the last reads, which are waited for, less than two."""
DEPTHS = (1, 2, 4, 8)
SPLITS = (1, 4)
"""Into how many reads an expert is cut."""
PASSES = 2
"""How often each way is tried; the better counts, for what else runs can only slow it."""
AROUND = 8 << 20
"""Bytes on either side to be forgotten with a place: the system reads ahead, in large folios."""
LEAST = 128 << 10
"""No read is cut smaller."""
NEAR = 0.8
"""Direct reads are taken from this share of the other's speed on: they leave the RAM alone, and
take a third of the CPU time (benchmarks/reads.py)."""
ENOUGH = 0.9
"""The fewest threads are taken that reach this share of the best speed, but two: one of them
waits for the disk while the other is told that its bytes are there."""
Clock = Callable[[], float]


class Cell(NamedTuple):
    """One way of reading: `depth` reads of `nbytes` at once.

    Attributes:
        mb_per_s: 10^6 bytes a second, all threads together.
        p50_ms, p95_ms: of the milliseconds a read took.
        reads: how many there were.
    """

    reader: str
    depth: int
    nbytes: int
    mb_per_s: float
    p50_ms: float
    p95_ms: float
    reads: int


@dataclass(frozen=True)
class DiskTable:
    """What a probe found, and what it advises.

    Attributes:
        file: what was read.
        nbytes: of a whole expert.
        note: what the file system refused; "" when nothing.
    """

    file: Path
    nbytes: int
    cells: tuple[Cell, ...]
    note: str = ""

    def speed(self, reader: str) -> float:
        """The best speed of whole experts with `reader`, MB/s; 0 where it was not tried."""
        return max((cell.mb_per_s for cell in self._whole(reader)), default=0.0)

    @property
    def reader(self) -> str:
        """The reader to take."""
        direct = self.speed("direct")
        return "direct" if direct and direct >= NEAR * self.speed("pread") else "pread"

    @property
    def threads(self) -> int:
        """How many reads to have under way at once."""
        wanted = ENOUGH * self.speed(self.reader)
        enough = (cell.depth for cell in self._whole(self.reader) if cell.mb_per_s >= wanted)
        return max(2, min(enough))

    def why(self) -> str:
        """The advice and its reason, in a line."""
        if self.note:
            return self.note
        direct, pread = self.speed("direct"), self.speed("pread")
        return (
            f"a probe of the disk read {direct:,.0f} MB/s directly and {pread:,.0f} through the "
            f"page cache; {self.threads} at once"
        )

    def _whole(self, reader: str) -> list[Cell]:
        return [c for c in self.cells if c.reader == reader and c.nbytes == self.nbytes]

    def __str__(self) -> str:
        """The table, and the advice."""
        lines = ["reader   at once   kB a read      MB/s    p50 ms    p95 ms   reads"]
        lines += [
            f"{c.reader:7}  {c.depth:7}  {c.nbytes / 1e3:10,.0f}  {c.mb_per_s:8,.0f}  "
            f"{c.p50_ms:8.2f}  {c.p95_ms:8.2f}  {c.reads:6}"
            for c in sorted(self.cells, key=lambda c: (c.reader, -c.nbytes, c.depth))
        ]
        return "\n".join([*lines, "", f"{self.reader}: {self.why()} ({self.file})"])


def probe_disk(
    file: Path, nbytes: int, seconds: float = SECONDS, clock: Clock = time.perf_counter
) -> DiskTable:
    """Read places of `file` in every way, for `seconds` in all.

    Args:
        nbytes: of an expert.
        clock: seconds.

    Raises:
        ReadFailed: the file cannot be opened or read.
    """
    whole = max(PAGE, min(nbytes, _size(file)) // PAGE * PAGE)
    sizes = [whole // split // PAGE * PAGE for split in SPLITS]
    sizes = [size for size in sizes if size == whole or size >= LEAST]
    readers = [open_reader("direct", [file]), open_reader("pread", [file])]
    note = readers[0].note
    if readers[0].name != "direct":
        readers.pop(0).close()
    try:
        every = list(itertools.product(readers, DEPTHS, sizes))
        end, best = clock() + seconds, dict[tuple[str, int, int], Cell]()
        tries = [way for number in range(PASSES) for way in _shuffled(every, number)]
        for done, (reader, depth, size) in enumerate(tries):
            share = (end - clock()) / (len(tries) - done)
            cell = _measure(reader, file, depth, size, share, clock)
            key = cell[:3]
            best[key] = max(cell, best.get(key, cell), key=lambda cell: cell.mb_per_s)
    finally:
        for reader in readers:
            reader.close()
    return DiskTable(file, whole, tuple(best.values()), note)


def _size(file: Path) -> int:
    try:
        return regular(file).stat().st_size
    except OSError as error:
        raise ReadFailed(f"{file} cannot be opened: {error.strerror or error}") from error


Way = tuple[Reader, int, int]


def _shuffled(ways: list[Way], seed: int) -> list[Way]:
    """In another order, so that what changes meanwhile changes all alike."""
    return random.Random(seed).sample(ways, len(ways))


def _measure(
    reader: Reader, file: Path, depth: int, nbytes: int, seconds: float, clock: Clock
) -> Cell:
    """Reads of one size, `depth` at once, until the time is over; at least one by each thread."""
    size = _size(file)
    places = max(1, size // nbytes)
    forget = getattr(os, "posix_fadvise", None) if reader.name == "pread" else None
    opened = FileIO(regular(file))
    begin = clock()

    def work(thread: int) -> list[float]:
        chance, took = random.Random(thread * 7919 + nbytes), []
        with buffer(nbytes) as view:
            while True:
                where = ByteRange(file, chance.randrange(places) * nbytes // PAGE * PAGE, nbytes)
                where = where._replace(nbytes=min(nbytes, size - where.offset))
                if forget is not None:
                    start = max(0, where.offset - AROUND)
                    forget(opened.fileno(), start, nbytes + 2 * AROUND, os.POSIX_FADV_DONTNEED)
                before = clock()
                with view[: where.nbytes] as into:
                    reader.read(where, into)
                took.append(clock() - before)
                if clock() - begin >= seconds:
                    return took

    with opened, ThreadPoolExecutor(depth, thread_name_prefix="outlier-probe") as pool:
        took = sorted(time for each in pool.map(work, range(depth)) for time in each)
    speed = len(took) * nbytes / max(clock() - begin, 1e-9) / 1e6
    middle, high = (took[int(share * (len(took) - 1))] * 1e3 for share in (0.5, 0.95))
    return Cell(reader.name, depth, nbytes, speed, middle, high, len(took))


_known: dict[int, DiskTable] = {}
_lock = threading.Lock()


def known_disk(files: Sequence[Path], nbytes: int) -> DiskTable:
    """The probe of the file system that the first of `files` is on: made once in this process.

    Raises:
        ReadFailed: as `probe_disk`.
    """
    largest = max(files, key=_size)
    with _lock:
        device = largest.stat().st_dev
        if device not in _known:
            _known[device] = probe_disk(largest, nbytes)
        return _known[device]
