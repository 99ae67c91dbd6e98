"""Memory of this process and of the machine, as the operating system reports it.

In a container, the limit of the control group counts instead of the machine's memory; so does a
limit of the process's address space.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil

from .address_space import rooms

CGROUP = Path("/sys/fs/cgroup")
"""Where Linux shows control groups: of version 2, or of version 1, `unified` among them."""
OWN_GROUPS = Path("/proc/self/cgroup")
"""Where Linux lists the control groups of this process."""


class Machine(NamedTuple):
    """Bytes of memory: `total` of the machine or container, `available` to a process now."""

    total: int
    available: int


def machine_memory(cgroup: Path = CGROUP, own: Path = OWN_GROUPS) -> Machine:
    """The memory of this machine, or of the tightest of this process's groups and limits."""
    machine = psutil.virtual_memory()
    total, available = machine.total, machine.available
    for group in groups(cgroup, own):
        limits = (_number(group / name) for name in LIMITS)
        limit = min((n for n in limits if n is not None), default=total)
        if limit >= machine.total:  # version 1 says "none" by a number near 2^63
            continue
        used = next((n for n in (_number(group / name) for name in USED) if n is not None), 0)
        free = limit - used + _reclaimable(group / "memory.stat")
        total, available = min(total, limit), max(0, min(available, free))
    for room in rooms():
        total, available = min(total, room.limit), min(available, room.free)
    return Machine(total, available)


LIMITS = ("memory.max", "memory.high", "memory.limit_in_bytes")
USED = ("memory.current", "memory.usage_in_bytes")


def groups(cgroup: Path, own: Path) -> Iterator[Path]:
    """The folders of this process's memory groups, from its own up to the outermost.

    A container may see only its own group, as the root, while its path is the one outside; so
    missing folders are skipped.
    """
    try:
        lines = own.read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    paths = {names: path for _, names, path in (line.split(":", 2) for line in lines)}
    version_1 = next((p for names, p in paths.items() if "memory" in names.split(",")), "/")
    roots = {cgroup: paths.get("", "/"), cgroup / "unified": paths.get("", "/"),
             cgroup / "memory": version_1}  # fmt: skip
    for root, path in roots.items():
        parts = [part for part in path.split("/") if part and part != ".."]
        for depth in range(len(parts), -1, -1):
            group = root.joinpath(*parts[:depth])
            if group.is_dir():
                yield group


def process_nbytes() -> int:
    """The resident set size of this process, in bytes."""
    return int(psutil.Process().memory_info().rss)


_memory_rate = 0.0
PROBED_NBYTES = 256_000_000
"""Bytes read to measure the speed of memory: more than fit in caches."""


def memory_rate() -> float:
    """Bytes per second that `measure_memory` found in this process; 0 before it ran."""
    return _memory_rate


def measure_memory(nbytes: int = PROBED_NBYTES) -> float:
    """Read memory with all cores for about half a second; return the best bytes per second of ten.

    Traces recorded from then on include it, so that `explain` can compare with what memory allows.
    """
    global _memory_rate
    cores = os.cpu_count() or 1
    parts = np.array_split(np.ones(nbytes // 4, np.float32), cores)  # a maximum is the fastest
    took = []
    with ThreadPoolExecutor(cores) as threads:
        for _ in range(10):
            begin = time.perf_counter()
            list(threads.map(np.max, parts))
            took.append(time.perf_counter() - begin)
    _memory_rate = sum(part.nbytes for part in parts) / min(took)
    return _memory_rate


def trim_heap() -> None:
    """Have the C library return freed memory to the operating system.

    glibc keeps freed memory below other blocks: after the activations of a prompt that was 50 MB of
    a resident set of 218 MB.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:  # musl has none, and keeps little memory
            trim(0)


def mapped_nbytes(files: list[Path]) -> int:
    """Bytes of memory-mapped `files` in this process's resident set; 0 where unknown."""
    maps = getattr(psutil.Process(), "memory_maps", None)
    if maps is None:  # macOS does not report it
        return 0
    names = {str(file.resolve()) for file in files}
    return sum(m.rss for m in maps(grouped=True) if m.path in names)


def _reclaimable(stat: Path) -> int:
    """The page cache that the kernel reclaims first; in version 1 `total_` includes subgroups."""
    try:
        rows = dict(line.split()[:2] for line in stat.read_text().splitlines() if " " in line)
    except OSError:
        return 0
    return int(rows.get("total_inactive_file", rows.get("inactive_file", 0)))


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):  # no such file, or `max`
        return None
