"""What the operating system says about memory: of this process, and of the machine.

In a container the machine's memory is not the process's to take: the control group's limit is,
where there is one. Nothing of models is known here.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil

CGROUP = Path("/sys/fs/cgroup")
"""Where Linux shows a container its own control group (version 2)."""


class Machine(NamedTuple):
    """Bytes of memory: `total` of the machine or container, `available` to a process now."""

    total: int
    available: int


def machine_memory(cgroup: Path = CGROUP) -> Machine:
    """The memory of this machine, or of this container where its limit is tighter."""
    seen = psutil.virtual_memory()
    limit = _number(cgroup / "memory.max")
    if limit is None or limit >= seen.total:
        return Machine(seen.total, seen.available)
    used = (_number(cgroup / "memory.current") or 0) - _reclaimable(cgroup / "memory.stat")
    return Machine(limit, max(0, min(seen.available, limit - used)))


def process_nbytes() -> int:
    """The resident set of this process: what the operating system says it holds in RAM."""
    return int(psutil.Process().memory_info().rss)


_memory_rate = 0.0
PROBED_NBYTES = 256_000_000
"""Memory that is read to measure how fast it is: more than caches hold."""


def memory_rate() -> float:
    """Bytes a second that `measure_memory` found in this process; 0 before it was called."""
    return _memory_rate


def measure_memory(nbytes: int = PROBED_NBYTES) -> float:
    """Read memory with all cores for about half a second; the best bytes a second of five rounds.

    Traces recorded from then on carry it, so that `explain` can say what memory allows.
    """
    global _memory_rate
    cores = os.cpu_count() or 1
    parts = np.array_split(np.ones(nbytes // 8, np.int64), cores)
    took = []
    with ThreadPoolExecutor(cores) as threads:
        for _ in range(5):
            begin = time.perf_counter()
            list(threads.map(np.bitwise_or.reduce, parts))
            took.append(time.perf_counter() - begin)
    _memory_rate = sum(part.nbytes for part in parts) / min(took)
    return _memory_rate


def give_back_freed() -> None:
    """Have the C library return what was freed to the operating system, where it keeps it.

    glibc keeps freed memory below other blocks for itself: after the activations of a prompt
    that was 50 MB of a resident set of 218 MB.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:  # musl has none, and keeps little
            trim(0)


def mapped_nbytes(files: list[Path]) -> int:
    """How much of memory-mapped `files` is in this process's resident set; 0 where not told."""
    maps = getattr(psutil.Process(), "memory_maps", None)
    if maps is None:  # macOS does not tell
        return 0
    names = {str(file.resolve()) for file in files}
    return sum(m.rss for m in maps(grouped=True) if m.path in names)


def _reclaimable(stat: Path) -> int:
    """The page cache that the kernel gives up first."""
    try:
        lines = stat.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("inactive_file")), 0)


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):  # no such file, or `max`
        return None
