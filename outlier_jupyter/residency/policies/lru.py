"""Least recently used: of experts looked up together, the first one is evicted first.

The order does not depend on which of them were resident, so the experts in a small cache are always
in a larger one too: one pass over a trace finds the hits of every size.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .. import Int64s
from ..numba_options import compiled
from .registry import Policy


@compiled
def touch(score, clock, keys):  # type: ignore[no-untyped-def]
    """Score `keys` as used now, one after the other; `clock`, float64 [1], counts uses."""
    for key in keys:
        clock[0] += 1
        score.ravel()[key] = clock[0]


class LRU(Policy):
    """Least recently used: an expert's score is the time of its last use.

    Attributes:
        clock: float64 [1], counts uses.
    """

    name = "lru"

    def __init__(self, experts_per_layer: Sequence[int]) -> None:
        super().__init__(experts_per_layer)
        self.clock = np.zeros(1)

    def used(self, keys: Int64s) -> None:
        """As `Policy.used`: the last of `keys` was used last."""
        touch(self.score, self.clock, keys)
