"""Switch inputs: lazy MLX arrays, or one token's NumPy rows from a native decoder layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from .partial_experts import LazyPartialExperts, PartialExperts
from .router_tap import RouterTap
from .slot_bank import SlotBank

Ids = npt.NDArray[np.int64]
F32s = npt.NDArray[np.float32]


class SlotMap(NamedTuple):
    """Expert → slot of a fully resident layer, [experts]: uint32 for MLX, int64 on the host."""

    device: mx.array
    host: Ids


class SwitchInputs(Protocol):
    """Activations, and the ids of the experts that the router chose for them."""

    @property
    def indices(self) -> Any:
        """The ids [..., k], as the switch received them."""

    def array(self) -> mx.array:
        """The activations, as a module of the model takes them."""

    def ids(self, bank: SlotBank) -> Ids:
        """Settle the bank, and return the ids [..., k] on the host."""

    def compute_resident(self, inner: Any, slot_map: SlotMap) -> Any:
        """Compute `inner` with all experts resident, the slots looked up in `slot_map`."""

    def compute(self, inner: Any, slots: Ids, bank: SlotBank) -> Any:
        """Compute `inner` over the `slots` of the ids, [..., k]."""

    def partial(self, inner: Any, bank: SlotBank) -> PartialExperts:
        """Begin to compute `inner` group by group."""

    def combined(self, work: PartialExperts) -> Any:
        """The output of all groups of `work`."""

    def tap_weights(self, tap: RouterTap, layer: int, output: Any) -> Any:
        """Return `output`, and have the tap record its weights, now or when they are applied."""


class LazyInputs:
    """MLX's arrays: x [..., width], indices [..., k]."""

    def __init__(self, x: mx.array, indices: mx.array) -> None:
        self._x = x
        self.indices = indices

    def array(self) -> mx.array:
        """As `SwitchInputs.array`."""
        return self._x

    def ids(self, bank: SlotBank) -> Ids:
        """As `SwitchInputs.ids`; this is the one synchronisation per layer."""
        bank.settle(self.indices)
        return np.array(self.indices, copy=True).astype(np.int64)

    def compute_resident(self, inner: Any, slot_map: SlotMap) -> Any:
        """As `SwitchInputs.compute_resident`; nothing is evaluated."""
        return inner(self._x, slot_map.device[self.indices])

    def compute(self, inner: Any, slots: Ids, bank: SlotBank) -> Any:
        """As `SwitchInputs.compute`; nothing is evaluated."""
        output = inner(self._x, mx.array(slots.astype(np.uint32)))
        bank.reading(output)
        return output

    def partial(self, inner: Any, bank: SlotBank) -> PartialExperts:
        """As `SwitchInputs.partial`; native modules have their own implementation."""
        shape = tuple(self.indices.shape)
        if hasattr(inner, "parts"):
            native: PartialExperts = inner.parts(self._x, shape)
            return native
        return LazyPartialExperts(inner, self._x, shape, bank.reading)

    def combined(self, work: PartialExperts) -> Any:
        """As `SwitchInputs.combined`."""
        return work.output()

    def tap_weights(self, tap: RouterTap, layer: int, output: Any) -> Any:
        """As `SwitchInputs.tap_weights`: the model's own code will multiply by the weights."""
        return tap.watch_output(output, layer, self._x)


class TokenInputs:
    """One token's rows: x [1, width], ids and weights [1, k]; `inner` is a native module."""

    def __init__(self, x: F32s, ids: Ids, weights: F32s) -> None:
        self.x, self._weights = x, weights
        self.indices = ids

    def array(self) -> mx.array:
        """As `SwitchInputs.array`."""
        return mx.array(self.x[None])

    def ids(self, bank: SlotBank) -> Ids:
        """As `SwitchInputs.ids`; they are on the host already."""
        bank.settle()
        return self.indices

    def compute_resident(self, inner: Any, slot_map: SlotMap) -> Any:
        """As `SwitchInputs.compute_resident`."""
        return inner.compute(self.x, slot_map.host[self.indices])

    def compute(self, inner: Any, slots: Ids, bank: SlotBank) -> Any:
        """As `SwitchInputs.compute`."""
        return inner.compute(self.x, slots)

    def partial(self, inner: Any, bank: SlotBank) -> PartialExperts:
        """As `SwitchInputs.partial`."""
        native: PartialExperts = inner.parts(self.x, self.indices.shape)
        return native

    def combined(self, work: Any) -> Any:
        """As `SwitchInputs.combined`."""
        return work.rows()

    def tap_weights(self, tap: RouterTap, layer: int, output: Any) -> Any:
        """As `SwitchInputs.tap_weights`."""
        tap.record_weights(layer, self._weights)
        return output


class Stopwatch:
    """Adds up the time of calls, in nanoseconds of a clock."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self.ns = 0
        self._clock = clock

    def __call__(self, compute: Callable[..., Any], *arguments: Any) -> Any:
        """Call `compute`, add the time it takes to `ns`, and return its result."""
        begin = self._clock()
        output = compute(*arguments)
        self.ns += self._clock() - begin
        return output
