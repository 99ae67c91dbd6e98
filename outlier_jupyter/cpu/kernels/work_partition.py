"""Rows of weights dealt out in portions: large ones first, and the last so small that no thread is
waited for long.

A thread that falls behind, for its core is slower or somebody else's for a moment, takes fewer of
those that are left. Each portion is a share of all rows that no thread has yet.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import numpy as np

from .compiled import Array, threads

SHARE = 2
"""Of what is left, a thread takes at once one part in so many for each thread."""
LEAST = 8
"""Rows of a portion, at least: below, taking it costs as much as doing it."""
RUN, START, END, SIBLINGS = range(4)
"""Of a portion: whose rows they are, the first, the one after the last, and how many portions
those rows make."""
FIELDS = 4


@lru_cache(maxsize=512)
def portions(runs: int, rows: int) -> Array:
    """int64 [portions, 4]: `runs` times `rows` rows, in their order, none of two runs."""
    found = []
    for run in range(runs):
        starts = [0]
        while starts[-1] < rows:
            left = (runs - run) * rows - starts[-1]
            end = starts[-1] + max(LEAST, -(-left // (SHARE * threads())))
            starts.append(end if end + LEAST <= rows else rows)
        found += [(run, start, end, len(starts) - 1) for start, end in pairwise(starts)]
    return np.array(found, np.int64)
