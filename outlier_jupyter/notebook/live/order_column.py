"""The eviction order in the frames of a run: at the rate that a person can follow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from .frame_head import EXACT, UNKNOWN

ORDER_MS = 250.0
"""The least time between two frames with the order: it changes with every token, and costs about
0.1 µs for each resident expert."""

ORDER_FACTOR = 500
"""The wait after an order is at least its cost times this: beside the frames, a 500th of a run."""

Order: TypeAlias = Callable[[], tuple[npt.NDArray[np.int64], int, bool]]
"""The resident experts' numbers in eviction order, how many at the end are pinned, and whether the
policy can tell that order."""


class OrderColumn:
    """Asks for the order when it is due.

    Args:
        order: the order now; None if it is not to be sent.
        clock: nanoseconds, monotonic.
    """

    def __init__(self, order: Order | None, clock: Callable[[], int]) -> None:
        self._order, self._clock = order, clock
        self._due = 0

    def fields(self, now: int, steps: int, final: bool) -> dict[str, Any]:
        """The fields of a frame for the order after `steps`; none if it is not due.

        Args:
            final: whether the run is over: then it is always due.
        """
        if self._order is None or (now < self._due and not final):
            return {}
        begin = self._clock()
        order, pinned, known = self._order()
        self._due = now + max(round(ORDER_MS * 1e6), ORDER_FACTOR * (self._clock() - begin))
        if not known:
            return {"order_kind": UNKNOWN}
        return {
            "order_kind": EXACT,
            "order": order.astype(np.uint32),
            "pinned": pinned,
            "order_steps": steps,
        }
