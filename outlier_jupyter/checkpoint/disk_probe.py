"""The disk probe: measures reads through the page cache and past it.

It reads random places of one file with each combination of reader, size and number of reads at
once, for an equal share of its time; the best reader and number of threads follow from that. Before
a read through the page cache its place is evicted from the cache where the system allows that.
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
"""How long a probe takes; with its last reads less than two."""
DEPTHS = (1, 2, 4, 8)
SPLITS = (1, 4)
"""Numbers of reads that an expert is split into."""
PASSES = 2
"""Tries of each combination; the best counts, since other load can only slow it."""
AROUND = 8 << 20
"""Bytes on either side evicted with a place: the system reads ahead, in large folios."""
LEAST = 128 << 10
"""The smallest read that an expert is split into."""
NEAR = 0.8
"""Direct reads are chosen from this share of the buffered speed on: they use no page cache and a
third of the CPU time (benchmarks/reads.py)."""
ENOUGH = 0.9
"""The fewest threads that reach this share of the best speed are chosen, but at least two: one
waits for the disk while the other handles the end of its read."""
Clock = Callable[[], float]


class Cell(NamedTuple):
    """The result of one combination: `depth` reads of `nbytes` at once.

    Attributes:
        mb_per_s: 10^6 bytes per second, all threads together.
        p50_ms, p95_ms: percentiles of the milliseconds per read.
        reads: the number of reads.
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
    """The results of a probe, and its advice.

    Attributes:
        file: the file that was read.
        nbytes: bytes of a whole expert.
        note: what the file system refused; "" if nothing.
    """

    file: Path
    nbytes: int
    cells: tuple[Cell, ...]
    note: str = ""

    def speed(self, reader: str) -> float:
        """The best speed of whole experts with `reader`, in MB/s; 0 if it was not tried."""
        return max((cell.mb_per_s for cell in self._whole(reader)), default=0.0)

    @property
    def reader(self) -> str:
        """The advised reader."""
        direct = self.speed("direct")
        return "direct" if direct and direct >= NEAR * self.speed("pread") else "pread"

    @property
    def threads(self) -> int:
        """The advised number of reads at once."""
        least = ENOUGH * self.speed(self.reader)
        enough = (cell.depth for cell in self._whole(self.reader) if cell.mb_per_s >= least)
        return max(2, min(enough))

    def why(self) -> str:
        """The advice and its reason, in one line."""
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
    """Measure reads of `file` in every combination, for `seconds` in all.

    Args:
        nbytes: bytes of an expert.
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
        # Each pass in another order, so that changing load affects all combinations alike.
        passes = (random.Random(seed).sample(every, len(every)) for seed in range(PASSES))
        tries = list(itertools.chain.from_iterable(passes))
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


def _measure(
    reader: Reader, file: Path, depth: int, nbytes: int, seconds: float, clock: Clock
) -> Cell:
    """Read with `depth` threads until the time is over; each thread reads at least once."""
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


probed: dict[int, DiskTable] = {}
"""A file system's device number → its probe, made once per process."""
_lock = threading.Lock()


def known_disk(files: Sequence[Path], nbytes: int) -> DiskTable:
    """The probe of the file system of the largest of `files`, made once per process.

    Raises:
        ReadFailed: as `probe_disk`.
    """
    largest = max(files, key=_size)
    with _lock:
        device = largest.stat().st_dev
        if device not in probed:
            probed[device] = probe_disk(largest, nbytes)
        return probed[device]
