"""The runs of a chat's answers, numbered from 1 and bounded in memory.

A trace contains every routing decision, so the runs of a long chat are much larger than its text.
The newest are kept; the error for a dropped one says so.
"""

from __future__ import annotations

from dataclasses import fields

import numpy as np

from ...errors import OptionError
from ...runs.run import Run
from ...values import checked, integer

KEPT_NBYTES = 256_000_000
"""Bytes of traces to keep; the newest run is kept whatever its size."""


class RunStore:
    """The newest runs by number.

    Attributes:
        made: how many runs were added, which is the number of the newest.
    """

    def __init__(self) -> None:
        self.made = 0
        self._kept: dict[int, Run] = {}
        self._nbytes = 0

    def add(self, run: Run) -> int:
        """Add `run`, drop the oldest runs beyond the bound, and return the number of `run`."""
        self.made += 1
        self._kept[self.made] = run
        self._nbytes += trace_nbytes(run)
        while self._nbytes > KEPT_NBYTES and len(self._kept) > 1:
            self._nbytes -= trace_nbytes(self._kept.pop(next(iter(self._kept))))
        return self.made

    @checked(number=integer)
    def get(self, number: int) -> Run:
        """The run with this number.

        Raises:
            OptionError: there was no such run, or it was dropped.
        """
        if number in self._kept:
            return self._kept[number]
        if 1 <= number <= self.made:
            first = next(iter(self._kept))
            raise OptionError(
                f"run {number} was dropped: a chat keeps the newest runs, up to "
                f"{KEPT_NBYTES // 10**6} MB of traces, and run {first} is the oldest one kept"
            )
        raise OptionError(f"there is no run {number!r}: the newest is {self.made}")

    def all(self) -> list[Run]:
        """The runs that are kept, oldest first."""
        return list(self._kept.values())


def trace_nbytes(run: Run) -> int:
    """Bytes of the arrays in a run's trace."""
    arrays = (getattr(run.trace, spec.name) for spec in fields(run.trace))
    return sum(array.nbytes for array in arrays if isinstance(array, np.ndarray))
