"""What ranks did in a run: recorded from their events, saved with a trace, checked on load.

A trace without them, as of one process, has neither array.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..events import RanksServed
from .column_packing import Arrays, deflate, inflate
from .validate import check_numbers, check_shape

if TYPE_CHECKING:
    from .schema import TraceInfo
    from .trace import Trace

NAMES = ("owners", "rank_us")


class RankRecord:
    """Collects the events of a run's complete calls."""

    def __init__(self, layers: int) -> None:
        self._layers = layers
        self._us: list[npt.NDArray[np.int32]] = []
        self._owners: dict[int, npt.NDArray[np.int64]] = {}

    def add(self, events: Sequence[RanksServed]) -> None:
        """Add the events of one call."""
        if not events:
            return
        found = np.zeros((self._layers, len(events[0].ns)), np.int32)
        for event in events:
            found[event.layer] = np.minimum(event.ns // 1000, 2**31 - 1)
            self._owners[event.layer] = event.owners
        self._us.append(found)

    def arrays(self, calls: int) -> dict[str, Any]:
        """The arrays of a trace with so many calls; {} if not all of them had ranks."""
        if not self._us or len(self._us) != calls:
            return {}
        widest = max(len(each) for each in self._owners.values())
        owners = np.full((self._layers, widest), -1, np.int16)
        for layer, each in self._owners.items():
            owners[layer, : len(each)] = each
        return {"owners": owners, "rank_us": np.stack(self._us)}


def packed(trace: Trace) -> Arrays:
    """The arrays as they are saved; {} without ranks."""
    if not trace.owners.size:
        return {}
    return {"owners": trace.owners, "rank_us": deflate(trace.rank_us.ravel())}


def validated(arrays: Arrays, info: TraceInfo, calls: int) -> Arrays:
    """The fields of a trace; {} if the file has none.

    Raises:
        ValueError: arrays that do not fit each other or the model.
    """
    if not all(name in arrays for name in NAMES):
        return {}
    layers, ranks = len(info.experts_per_layer), len(info.hosts)
    owners = arrays["owners"]
    check_shape("owners", owners.shape, [layers, max(info.experts_per_layer, default=0)])
    check_numbers("owners", owners, -1, ranks - 1)
    shape = (calls, layers, ranks)
    times = inflate("rank_us", arrays["rank_us"], prod(shape))
    check_numbers("rank_us", times, 0, 2**31 - 1)
    return {"owners": owners.astype(np.int16), "rank_us": times.reshape(shape).astype(np.int32)}
