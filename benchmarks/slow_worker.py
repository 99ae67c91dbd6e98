"""A rank with a slow disk, a slow network and one processor, for `benchmarks/ranks.py`.

`python -m benchmarks.slow_worker` is `python -m outlier_jupyter.worker` with these changes, by the
environment: `BENCH_DISK`, bytes a second of all its reads together; `BENCH_HOP_MS`, added to each
hop of the ring's sum.
"""

from __future__ import annotations

import os
import threading
import time
from typing import Any

from outlier_jupyter import worker
from outlier_jupyter.checkpoint.readers import PreadReader
from outlier_jupyter.engine.rank_worker import RankWorker

PLAIN = PreadReader._fill


def slow_disk(rate: float) -> None:
    """Have all reads of this process share a disk of `rate` bytes a second, from now on."""
    lock, free = threading.Lock(), [0.0]

    def fill(self: Any, where: Any, into: Any, needed: int | None = None) -> None:
        with lock:
            free[0] = max(free[0], time.perf_counter()) + where.nbytes / rate
            until = free[0]
        PLAIN(self, where, into, needed)
        time.sleep(max(0.0, until - time.perf_counter()))

    PreadReader._fill = fill  # type: ignore[method-assign]
    PreadReader.kernel_readable = lambda self, where: None  # type: ignore[method-assign]


def slow_network(hop_ms: float) -> None:
    """Have a sum of n ranks take 2 (n - 1) hops longer."""
    plain = RankWorker._sum

    def summed(self: Any, words: Any) -> Any:
        time.sleep(2 * (self._ranks - 1) * hop_ms / 1e3)
        return plain(self, words)

    RankWorker._sum = summed  # type: ignore[method-assign]


def one_processor() -> None:
    """Give each rank the processor of its number."""
    plain = RankWorker._load

    def load(self: Any, message: Any, payload: bytes) -> Any:
        os.sched_setaffinity(0, {message["rank"] % (os.cpu_count() or 1)})
        return plain(self, message, payload)

    RankWorker._load = load  # type: ignore[method-assign]


def main() -> None:
    """Serve as a rank does."""
    if rate := float(os.environ.get("BENCH_DISK", "0")):
        slow_disk(rate)
    if hop := float(os.environ.get("BENCH_HOP_MS", "0")):
        slow_network(hop)
    one_processor()
    worker.main()


if __name__ == "__main__":
    main()
