"""The time to move a token's bytes in the order in which decode needs them, without computing.

The limit of the hardware, max(memory, disk), assumes that reads start before the routers have
chosen, and that memory and disk reach full speed at the same time. Here a loop that sums numbers
and the OS kernel's queue of reads move the same bytes in the order of decode: of each layer first
the dense weights, then its reads start, then the resident experts, then each miss when its read has
ended. The rest of a run's time is the engine's own.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import numpy as np

from outlier_jupyter.benchmark.limits import Memory
from outlier_jupyter.checkpoint import PAGE, KernelQueue, KernelRead, open_queue
from outlier_jupyter.system.huge_pages import buffer
from outlier_jupyter.trace import Trace

TOKENS = 5
"""Tokens of a run, spread over it, whose reads are repeated."""


class Traffic:
    """Moves bytes of memory and of a file, if the system has a queue for direct reads.

    Args:
        file: is read at random places, `nbytes` of an expert at a time.
        most: experts of a layer that a token may miss.
    """

    def __init__(self, file: Path, nbytes: int, most: int, memory: Memory) -> None:
        self._memory = memory
        self._nbytes = nbytes // PAGE * PAGE
        self._queue = open_queue() if hasattr(os, "O_DIRECT") else None
        if self._queue is not None:
            self._descriptor = os.open(file, os.O_RDONLY | os.O_DIRECT)
        self._places = max(1, file.stat().st_size // self._nbytes)
        self._buffers = [buffer(self._nbytes) for _ in range(most)]
        into = [(np.frombuffer(held, np.uint8).ctypes.data, self._nbytes) for held in self._buffers]
        self._pieces = np.array(into, np.uint64)
        self._chance = np.random.default_rng(0)

    def close(self) -> None:
        """Close file and queue."""
        if self._queue is not None:
            self._queue.close()
            os.close(self._descriptor)

    def token_s(self, trace: Trace, active_bytes: float) -> float:
        """Seconds for a token like those that `trace` decoded; NaN if there is no queue.

        Args:
            active_bytes: of weights and KV cache that a token multiplies.
        """
        layers, k = trace.experts.shape[1:]
        outside = max(0.0, active_bytes - layers * k * self._nbytes) / layers
        if self._queue is None:
            return float("nan")
        decoded = np.flatnonzero(trace.produced >= 0)[1:]  # the prompt produced the first
        steps = decoded[np.linspace(0, len(decoded) - 1, TOKENS).astype(int)]
        missed = [(~trace.hits[step]).sum(axis=-1).tolist() for step in steps]
        return fmean(self._token(self._queue, outside, k, each) for each in missed)

    def _token(self, queue: KernelQueue, outside: float, k: int, missed: Sequence[int]) -> float:
        begin = time.perf_counter()
        for misses in missed:
            self._memory.move(outside)
            self._ask(queue, misses)
            self._memory.move((k - misses) * self._nbytes)
            while queue.pending:
                for _, nbytes in queue.completed(True):
                    if nbytes != self._nbytes:
                        raise OSError(
                            f"a read gave {nbytes} bytes, not {self._nbytes}: measure again"
                        )
                    self._memory.move(self._nbytes)
        return time.perf_counter() - begin

    def _ask(self, queue: KernelQueue, reads: int) -> None:
        places = self._chance.integers(0, self._places, reads).tolist()
        at = self._pieces.ctypes.data
        wanted = [
            KernelRead(i, place * self._nbytes, at + i * self._pieces.strides[0])
            for i, place in enumerate(places)
        ]
        if wanted and queue.submit(wanted, self._descriptor, 1) < reads:
            raise OSError(f"the kernel took fewer than {reads} reads: ask it for fewer at a time")
