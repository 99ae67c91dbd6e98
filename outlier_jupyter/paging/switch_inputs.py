"""What a switch is given, in the two ways there are, and what is done with it either way.

MLX's arrays, of which nothing may have been computed yet; or the numbers of one token, where they
lie, from a decoder layer that computes natively and hands MLX nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from .partial_experts import LazyPartialExperts, PartialExperts
from .router_tap import RouterTap
from .slots import SlotBank

Ids = npt.NDArray[np.int64]
F32s = npt.NDArray[np.float32]


class SlotMap(NamedTuple):
    """Expert → slot of a layer that is held for good: uint32 for MLX, int64, both [experts]."""

    device: mx.array
    host: Ids


class SwitchInputs(Protocol):
    """Activations, and the ids of the experts that they go to."""

    @property
    def indices(self) -> Any:
        """The ids, [..., k], as they were given."""

    def array(self) -> mx.array:
        """The activations as a module of the model takes them."""

    def ids(self, bank: SlotBank) -> Ids:
        """The ids, [..., k], once all that was computed from the bank is done with it."""

    def with_map(self, inner: Any, slot_map: SlotMap) -> Any:
        """What `inner` computes, with slots looked up."""

    def with_slots(self, inner: Any, slots: Ids, bank: SlotBank) -> Any:
        """What `inner` computes over the `slots` of the ids, [..., k]."""

    def parts(self, inner: Any, bank: SlotBank) -> PartialExperts:
        """The same, some pairs at a time."""

    def joined(self, work: PartialExperts) -> Any:
        """What those parts are together."""

    def weighed(self, tap: RouterTap, layer: int, output: Any) -> Any:
        """`output`, with what it is weighed by told to the tap, now or when it is."""


class Graph:
    """MLX's arrays: x [..., width], indices [..., k]."""

    def __init__(self, x: mx.array, indices: mx.array) -> None:
        self._x = x
        self.indices = indices

    def array(self) -> mx.array:
        """As `SwitchInputs.array`."""
        return self._x

    def ids(self, bank: SlotBank) -> Ids:
        """As `SwitchInputs.ids`: this is the one synchronisation per layer."""
        bank.settle(self.indices)
        return np.array(self.indices, copy=True).astype(np.int64)

    def with_map(self, inner: Any, slot_map: SlotMap) -> Any:
        """As `SwitchInputs.with_map`; nothing is evaluated."""
        return inner(self._x, slot_map.device[self.indices])

    def with_slots(self, inner: Any, slots: Ids, bank: SlotBank) -> Any:
        """As `SwitchInputs.with_slots`; nothing is evaluated."""
        output = inner(self._x, mx.array(slots.astype(np.uint32)))
        bank.reading(output)
        return output

    def parts(self, inner: Any, bank: SlotBank) -> PartialExperts:
        """As `SwitchInputs.parts`; what computes natively has parts of its own."""
        shape = tuple(self.indices.shape)
        if hasattr(inner, "parts"):
            parts: PartialExperts = inner.parts(self._x, shape)
            return parts
        return LazyPartialExperts(inner, self._x, shape, bank.reading)

    def joined(self, work: PartialExperts) -> Any:
        """As `SwitchInputs.joined`."""
        return work.output()

    def weighed(self, tap: RouterTap, layer: int, output: Any) -> Any:
        """As `SwitchInputs.weighed`: the model's own code will multiply by the weights."""
        return tap.watch(output, layer, self._x)


class TokenRow:
    """The numbers of one token: x [1, width], ids and weights [1, k]; `inner` computes natively."""

    def __init__(self, x: F32s, ids: Ids, weights: F32s) -> None:
        self._x, self._weights = x, weights
        self.indices = ids

    def array(self) -> mx.array:
        """As `SwitchInputs.array`."""
        return mx.array(self._x[None])

    def ids(self, bank: SlotBank) -> Ids:
        """As `SwitchInputs.ids`: they are known."""
        bank.settle()
        return self.indices

    def with_map(self, inner: Any, slot_map: SlotMap) -> Any:
        """As `SwitchInputs.with_map`."""
        return inner.compute(self._x, slot_map.host[self.indices])

    def with_slots(self, inner: Any, slots: Ids, bank: SlotBank) -> Any:
        """As `SwitchInputs.with_slots`."""
        return inner.compute(self._x, slots)

    def parts(self, inner: Any, bank: SlotBank) -> PartialExperts:
        """As `SwitchInputs.parts`."""
        parts: PartialExperts = inner.parts(self._x, self.indices.shape)
        return parts

    def joined(self, work: Any) -> Any:
        """As `SwitchInputs.joined`."""
        return work.rows()

    def weighed(self, tap: RouterTap, layer: int, output: Any) -> Any:
        """As `SwitchInputs.weighed`."""
        tap.weighs(layer, self._weights)
        return output


class Stopwatch:
    """Adds up what something took, in nanoseconds of a clock."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self.ns = 0
        self._clock = clock

    def __call__(self, compute: Callable[..., Any], *given: Any) -> Any:
        """What `compute` returns; the time it takes is added to `ns`."""
        begin = self._clock()
        output = compute(*given)
        self.ns += self._clock() - begin
        return output
