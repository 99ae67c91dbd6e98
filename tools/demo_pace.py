"""Chooses the number of threads so that training suffers little from other programs.

Two threads that meet at a barrier many times a second are slower than one as soon as something
else takes a core: each waits for the other.  So whenever other programs were busy during a step,
the next one uses one core less.
"""

from __future__ import annotations

import os
from pathlib import Path

STAT = Path("/proc/stat")


class Pace:
    """Reads the processors' time counters between steps."""

    def __init__(self, threads: int, spare: float = 0.25) -> None:
        self.most, self.spare = threads, spare
        self._last = self._read()

    def _read(self) -> tuple[float, float, float]:
        """Busy seconds of all processors, those of this process, and wall time."""
        own = os.times()
        if not STAT.exists():
            return 0.0, 0.0, own.elapsed
        user, nice, system, *_ = (int(word) for word in STAT.read_text().split()[1:4])
        busy = (user + nice + system) / os.sysconf("SC_CLK_TCK")
        return busy, own.user + own.system, own.elapsed

    def threads(self) -> int:
        """How many threads the next step should use."""
        before, now = self._last, self._read()
        self._last = now
        busy, own, gone = (b - a for a, b in zip(before, now, strict=True))
        others = (busy - own) / gone if gone > 0.05 else 0.0
        taken = round(others + 0.5 - self.spare) if others > self.spare else 0
        return max(1, self.most - taken)
