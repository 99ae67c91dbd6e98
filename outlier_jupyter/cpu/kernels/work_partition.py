"""Divides rows of weights into portions (blocks of rows) for threads: large first, small last.

A thread whose core is slow or busy takes fewer portions, and the last are so small that the wait
for the slowest thread is short. Each portion is a share of all rows that are not yet assigned.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import numpy as np

from .compiled import Array, threads

SHARE = 2
"""A portion is the remaining rows over this times the number of threads."""
LEAST = 8
"""The least rows of a portion: below this, taking it costs as much as computing it.

All portions but the last are multiples of it, so that a row has the same bits (as part of a vector,
or not) however rows are divided.
"""
RUN, START, END, SIBLINGS = range(4)
"""Fields of a portion: its run, its first row, the row after its last, and the number of portions
of its run."""
FIELDS = 4


@lru_cache(maxsize=512)
def partition(runs: int, rows: int) -> Array:
    """int64 [portions, 4]: `runs` runs of `rows` rows, in order; no portion spans two runs."""
    found = []
    for run in range(runs):
        starts = [0]
        while starts[-1] < rows:
            left = (runs - run) * rows - starts[-1]
            end = starts[-1] + LEAST * -(-left // (SHARE * threads() * LEAST))
            starts.append(end if end + LEAST <= rows else rows)
        found += [(run, start, end, len(starts) - 1) for start, end in pairwise(starts)]
    return np.array(found, np.int64)
