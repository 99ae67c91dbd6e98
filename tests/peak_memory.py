"""The most memory that this process has in a block, beyond what it has before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from outlier_jupyter.system.memory_info import process_nbytes

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@contextmanager
def peak() -> Iterator[Callable[[], int]]:
    """Yields a function: bytes at the peak since, less those at the begin; 0 but on Linux."""
    try:
        CLEAR.write_text("5")  # the highest resident set is that of now
    except OSError:
        yield lambda: 0
        return
    before = process_nbytes()

    def grown() -> int:
        (line,) = (x for x in STATUS.read_text().splitlines() if x.startswith("VmHWM"))
        return 1024 * int(line.split()[1]) - before

    yield grown
