"""Least recently used: of experts looked up together, the first of them is evicted first.

The order does not depend on which of them were resident, so what a small cache holds is always
part of what a larger one holds: one pass over a trace finds the hits of every size.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .. import Int64s
from ..numba_options import compiled
from .registry import Policy


@compiled
def touch(score, clock, keys):  # type: ignore[no-untyped-def]
    """`keys` are used now, one after the other; `clock`, float64 [1], counts uses."""
    for key in keys:
        clock[0] += 1
        score.ravel()[key] = clock[0]


class LRU(Policy):
    """See the module: an expert's score is when it was used last."""

    name = "lru"

    def __init__(self, experts_per_layer: Sequence[int]) -> None:
        super().__init__(experts_per_layer)
        self._clock = np.zeros(1)

    def used(self, keys: Int64s) -> None:
        """As every policy's: the last of `keys` was used last."""
        touch(self.score, self._clock, keys)
