"""Measures how fast this machine reads memory and disk, multiplies, and runs Python.

A forecast rests on these numbers. They are kept, and measured again on demand.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ..checkpoint.disk_probe import probe_disk
from ..errors import ReadFailed
from ..system import files
from ..system.machine_speed import MachineSpeed, keep_speed, speed_file
from ..system.memory_info import measure_memory

PROBED_NBYTES = 128 << 20
"""Bytes of the file that is written and read where a model is not on this machine."""
SIDE, PRODUCTS_S = 1024, 0.3
"""Rows of the matrices whose product is timed, and for how many seconds."""
LOOP, LOOPS_S = 10_000, 0.1
"""Turns of the Python loop that is timed, and for how many seconds."""


def measure_speed(candidates: Sequence[Path], nbytes: int, keep: bool = True) -> MachineSpeed:
    """Measure for about three seconds, and keep the result.

    Args:
        candidates: files on the disk that the model will be read from. If none is large enough one
            is written beside the user's cache, and removed.
        nbytes: bytes of an expert.
        keep: whether later forecasts rest on it.

    Raises:
        ReadFailed: the file cannot be written or read.
    """
    large = [file for file in candidates if file.stat().st_size >= PROBED_NBYTES]
    with _file(large[0] if large else None) as there:
        table = probe_disk(there, min(nbytes, there.stat().st_size))
    disk = 1e6 * max(table.speed("direct") or table.speed("pread"), 1e-3)
    day = time.strftime("%Y-%m-%d")
    speed = MachineSpeed(measure_memory(), disk, _products(), _loops(), day)
    if keep:
        keep_speed(speed)
    return speed


@contextmanager
def _file(file: Path | None) -> Iterator[Path]:
    if file is not None:
        yield file
        return
    there = speed_file().with_name(f"probe-{os.getpid()}")
    try:
        there.parent.mkdir(parents=True, exist_ok=True)
        random = np.random.default_rng(0).bytes(PROBED_NBYTES)
        files.write(there, random, ReadFailed, "a file to measure the disk by")
        yield there
    except OSError as error:
        raise ReadFailed(f"the disk cannot be measured: {there}: {error.strerror}") from error
    finally:
        there.unlink(missing_ok=True)


def _products() -> float:
    """Multiplications per second of float32 matrices, the best of a few."""
    one = np.ones((SIDE, SIDE), np.float32)
    best, end = np.inf, time.perf_counter() + PRODUCTS_S
    while time.perf_counter() < end:
        begin = time.perf_counter()
        one @ one
        best = min(best, time.perf_counter() - begin)
    return float(SIDE**3 / best)


def _loops() -> float:
    """Turns per second of a loop in Python, the best of a few."""
    best, end = np.inf, time.perf_counter() + LOOPS_S
    while time.perf_counter() < end:
        begin, total = time.perf_counter(), 0
        for number in range(LOOP):
            total += number * number
        best = min(best, time.perf_counter() - begin)
    return float(LOOP / best)
