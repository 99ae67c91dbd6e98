"""The runs of a chat's answers: numbered from 1 as they are made, and bounded in memory.

A trace holds every routing decision, so a long chat's runs are far larger than its text. The
newest are kept; what was let go of is told as such.
"""

from __future__ import annotations

from dataclasses import fields

import numpy as np

from ...errors import OptionError
from ...runs.run import Run
from ...values import checked, integer

KEPT_NBYTES = 256_000_000
"""Traces kept, in bytes; the newest run is kept whatever its size."""


class KeptRuns:
    """Attributes: `made`, how many runs there have been; the number of the newest."""

    def __init__(self) -> None:
        self.made = 0
        self._kept: dict[int, Run] = {}
        self._nbytes = 0

    def add(self, run: Run) -> int:
        """Keep `run`, let go of the oldest beyond the bound, and return its number."""
        self.made += 1
        self._kept[self.made] = run
        self._nbytes += trace_nbytes(run)
        while self._nbytes > KEPT_NBYTES and len(self._kept) > 1:
            self._nbytes -= trace_nbytes(self._kept.pop(next(iter(self._kept))))
        return self.made

    @checked(number=integer)
    def get(self, number: int) -> Run:
        """The run of this number.

        Raises:
            OptionError: there never was one, or it has been let go of.
        """
        if number in self._kept:
            return self._kept[number]
        if 1 <= number <= self.made:
            first = next(iter(self._kept))
            raise OptionError(
                f"run {number} has been let go of: a chat keeps the newest runs, up to "
                f"{KEPT_NBYTES // 10**6} MB of traces, and run {first} is the oldest still here"
            )
        raise OptionError(f"there is no run {number!r}: there have been {self.made}")

    def all(self) -> list[Run]:
        """Those kept, oldest first."""
        return list(self._kept.values())


def trace_nbytes(run: Run) -> int:
    """Bytes of the arrays of a run's trace."""
    arrays = (getattr(run.trace, spec.name) for spec in fields(run.trace))
    return sum(array.nbytes for array in arrays if isinstance(array, np.ndarray))
