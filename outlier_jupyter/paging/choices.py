"""Where layers that compute natively write what they choose for one token, and when.

All layers' lie beside each other. What is scattered over a token's layers has long left the
processor's caches when the call ends: to collect each layer's own arrays then took 8 µs a layer,
to copy these takes 3.
"""

from __future__ import annotations

from array import array

import numpy as np
import numpy.typing as npt

from ..events import HeldLayers

Ids = npt.NDArray[np.int64]
F32s = npt.NDArray[np.float32]
FIELDS = 4
"""Of a note: k, layer, when it was called, and for how long, in nanoseconds."""


class Choices:
    """What fully resident layers chose of one token, held until the call ends.

    Args:
        layers: MoE layers of the model.
    """

    def __init__(self, layers: int) -> None:
        self._layers = layers
        self._rooms: dict[int, tuple[Ids, F32s]] = {}
        self._notes = array("q")

    def room(self, layer: int, k: int) -> tuple[Ids, F32s]:
        """The ids and the weights that `layer` writes, both [1, k]; always the same memory."""
        if k not in self._rooms:
            shape = self._layers, k
            self._rooms[k] = np.zeros(shape, np.int64), np.zeros(shape, np.float32)
        ids, weights = self._rooms[k]
        return ids[layer : layer + 1], weights[layer : layer + 1]

    def note(self, k: int, layer: int, start_ns: int, ns: int) -> None:
        """`layer` has written and served, which took `ns` since `start_ns`."""
        self._notes.extend((k, layer, start_ns, ns))

    def forget(self) -> None:
        """Nothing was chosen."""
        self._notes = array("q")

    def told(self) -> list[HeldLayers]:
        """What was noted, in the order of serving; layers that choose as many are told together."""
        notes = np.frombuffer(self._notes, np.int64).reshape(-1, FIELDS)
        told = []
        for k, (ids, weights) in self._rooms.items():
            _, layers, start, ns = notes[notes[:, 0] == k].T
            if len(layers):
                experts = ids[layers].astype(np.int32)
                told.append(HeldLayers(layers, experts, weights[layers], start, ns))
        return told
