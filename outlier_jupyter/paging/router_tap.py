"""The router tap: records the weights of experts where the model applies them.

The model's code is not changed. Nearly every model that mlx-lm builds from a switch multiplies the
switch's output [.., k, width] by the weights [.., k, 1] of the experts. `RouterTap.watch_output`
gives that output a class of its own, whose multiplication records the other factor and then
multiplies as MLX does: no copy, no other graph, and the recorded weights are the applied ones.

A model may scale the sum of its experts once more before it adds anything to it (laguna by a
constant, Klear by a gate of the token). The sum is watched too, until the block returns, and its
factors are multiplied into each expert's weight.

`block_hooks` covers two more ways: a function of the model's module that takes output and weights,
and, for one expert per token, weights that multiply the switch's input. For models that do it
otherwise nothing is recorded, and the trace has NaN.

The ids of a fully resident layer stay on the device during a call; the tap keeps the arrays and
reads them all when the call ends. It also keeps each switch's times: reported at the end, they cost
a tenth of what they cost after each layer, whose weights have just passed through the caches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from ..events import ResidentLayers, Routed, Served, Weighed
from ..residency.token_arrays import EXPERTS_NS, NS, START
from .slot_bank import host_bytes
from .token_logs import TokenLogs


@dataclass
class _Weights:
    """The factors of one switch's output, and then of the sum over its experts."""

    layer: int
    k: int
    each: mx.array  # [..., k] or [..., k, 1]
    sums: list[mx.array | float] = field(default_factory=list)  # [..., 1], or one for all tokens

    def applied(self) -> npt.NDArray[np.float32]:
        """Their product, evaluated: [tokens, k]."""
        weights = as_float32(self.each, self.k)
        for factor in self.sums:
            weights = weights * (
                as_float32(factor, 1) if isinstance(factor, mx.array) else np.float32(factor)
            )
        return weights


class RouterTap:
    """Collects one call's weights, the ids of fully resident layers, and the switches' times.

    Args:
        layers: MoE layers that may write to `logs`.

    Attributes:
        logs: what compiled code writes a token's choices to.
    """

    def __init__(self, layers: int = 0) -> None:
        self.logs = TokenLogs(layers)
        self._on = False
        self._ids: list[tuple[int, mx.array | npt.NDArray[Any]]] = []
        self._weights: list[_Weights | Weighed] = []
        self._watched_outputs: dict[int, tuple[int, tuple[int, ...]]] = {}
        self._input_weights: dict[int, mx.array] = {}
        self._seen: list[int] = []
        self._times: list[tuple[int, int, int, int, int]] = []

    def begin(self) -> None:
        """Watch the next call. Calls outside of a run are not watched: nothing drains the tap."""
        self.forget()
        self._on = True

    def forget(self) -> None:
        """Stop watching, and drop what an interrupted call left."""
        self._on = False
        for known in (
            self._ids,
            self._weights,
            self._watched_outputs,
            self._input_weights,
            self._times,
        ):
            known.clear()
        self.logs.clear()
        for array in self._seen:
            _Watched.callbacks.pop(array, None)
        self._seen.clear()

    def record_ids(self, layer: int, ids: mx.array | npt.NDArray[Any]) -> None:
        """Keep the `ids` [..., k], not yet evaluated, that fully resident `layer` chose."""
        if self._on:
            self._ids.append((layer, ids))

    def record_weights(self, layer: int, weights: npt.NDArray[np.float32]) -> None:
        """Keep a native layer's `weights` [tokens, k]; they must not change during the call."""
        if self._on:
            self._weights.append(Weighed(layer, weights))

    def record_served(
        self, layer: int, start_ns: int, ns: int, experts_ns: int, report_ns: int
    ) -> None:
        """Keep the times of a switch that returns, as in `Served`."""
        if self._on:
            self._times.append((layer, start_ns, ns, experts_ns, report_ns))

    def record_token(self, k: int, layers: Sequence[int], resident: Sequence[int]) -> None:
        """Keep what compiled code wrote to `logs` for `layers`, and for fully `resident` ones."""
        if not self._on:
            return
        log = self.logs.of(k)
        times = log.times[layers].tolist()
        for layer, each in zip(layers, times, strict=True):
            self._weights.append(Weighed(layer, log.weights[layer : layer + 1]))
            self._times.append((layer, each[START], each[NS], each[EXPERTS_NS], 0))
        self.logs.note(k, resident)

    def watch_input(self, x: mx.array) -> mx.array:
        """Return a block's input `x` [..., width], watched for weights that multiply it."""
        if not self._on or not isinstance(x, mx.array):
            return x

        per_token_shape = (*x.shape[:-1], 1)

        # These closures must not hold the arrays: a prompt's would all live to its end.
        def on_product(factor: object, product: mx.array) -> None:
            if isinstance(factor, mx.array) and tuple(factor.shape) == per_token_shape:
                self._input_weights[id(product)] = factor
                self._watch(product, _ignore_product)

        return self._watch(x, on_product)

    def watch_output(self, output: mx.array, layer: int, x: mx.array | None = None) -> mx.array:
        """Return a switch's `output` [..., k, width], watched for weights that multiply it.

        Args:
            x: the switch's input; with one expert per token, it may be multiplied already.
        """
        if not self._on:
            return output
        key, shape = id(output), tuple(output.shape[:-1])
        if isinstance(x, _Watched) and shape[-1] == 1:
            weights = self._input_weights.pop(id(x), None)
            if weights is not None:
                self._weights.append(_Weights(layer, 1, weights))
                return output

        def on_product(factor: object, product: mx.array) -> None:
            if isinstance(factor, mx.array) and tuple(factor.shape) == (*shape, 1):
                weights = self._record_output(key, factor)
                if weights is not None:
                    self._watch(
                        product, _ignore_product, lambda total: self._follow(total, weights)
                    )

        self._watched_outputs[key] = (layer, shape)
        return self._watch(output, on_product)

    def inspect_arguments(self, arguments: tuple[object, ...]) -> None:
        """Look for a switch's output and its weights among the arguments of a model's function."""
        for output in arguments:
            if isinstance(output, _Watched) and id(output) in self._watched_outputs:
                _, shape = self._watched_outputs[id(output)]
                for other in arguments:
                    if isinstance(other, mx.array) and tuple(other.shape) in (shape, (*shape, 1)):
                        self._record_output(id(output), other)
                        return

    def end_watch(self, output: object) -> None:
        """Stop watching a block's `output`: what multiplies it from here on weighs no expert."""
        if isinstance(output, _Watched):
            _Watched.callbacks.pop(id(output), None)

    def drain(self) -> list[ResidentLayers | Routed | Weighed | Served]:
        """Return the events since `begin`, ids first, and stop watching.

        All arrays were computed with the call, except in a chunk of the prompt after which nothing
        is sampled: there the last layer's router is evaluated for the trace alone.
        """
        lazy = [weights for weights in self._weights if isinstance(weights, _Weights)]
        factors = [factor for weights in lazy for factor in (weights.each, *weights.sums)]
        mx.eval([ids for _, ids in self._ids if isinstance(ids, mx.array)], factors)
        events: list[ResidentLayers | Routed | Weighed | Served] = [*self.logs.events()]
        for layer, ids in self._ids:
            experts = np.array(ids, copy=True).reshape(-1, ids.shape[-1]).astype(np.int32)
            events.append(Routed(layer, experts, np.ones(experts.shape, bool), 0, 0))
        for weights in self._weights:
            if isinstance(weights, _Weights):
                events.append(Weighed(weights.layer, weights.applied()))
            else:
                events.append(Weighed(weights.layer, weights.weights.copy()))
        events += [Served(*times) for times in self._times]
        self.forget()
        return events

    def _record_output(self, output: int, weights: mx.array) -> _Weights | None:
        """Keep the weights of a watched output, once."""
        known = self._watched_outputs.pop(output, None)
        if known is None:
            return None
        layer, shape = known
        kept = _Weights(layer, shape[-1], weights)
        self._weights.append(kept)
        return kept

    def _follow(self, total: mx.array, weights: _Weights) -> None:
        """Watch `total`, the weighted sum of a switch's output, for factors of the whole."""
        self._watch(total, partial(self._scaled, weights, (*total.shape[:-1], 1)))

    def _scaled(
        self, weights: _Weights, per_token_shape: tuple[int, ...], factor: object, product: mx.array
    ) -> None:
        """Keep a watched sum's factor if it scales whole tokens, and watch the product."""
        if isinstance(factor, int | float):
            weights.sums.append(float(factor))
        elif isinstance(factor, mx.array) and tuple(factor.shape) == per_token_shape:
            weights.sums.append(factor)
        else:
            return
        # No closure that names itself: that cycle would keep a prompt's weights after the run.
        self._watch(product, partial(self._scaled, weights, per_token_shape))

    def _watch(
        self, array: mx.array, on_product: OnProduct, on_sum: OnSum | None = None
    ) -> mx.array:
        _Watched.callbacks[id(array)] = on_product, on_sum or _ignore_sum
        self._seen.append(id(array))
        # Assigning the class keeps the array itself; constructing a subclass would copy it.
        array.__class__ = _Watched
        return array


OnProduct = Callable[[object, mx.array], None]
"""Called with the other factor and the product."""
OnSum = Callable[[mx.array], None]
"""Called with the sum over the experts."""


class _Watched(mx.array):
    __slots__ = ()
    callbacks: ClassVar[dict[int, tuple[OnProduct, OnSum]]] = {}

    def __mul__(self, other: Any) -> mx.array:
        product = super().__mul__(other)
        self._callbacks()[0](other, product)
        return product

    def __rmul__(self, other: Any) -> mx.array:
        product = super().__rmul__(other)
        self._callbacks()[0](other, product)
        return product

    def sum(self, *args: Any, **kwargs: Any) -> mx.array:
        """MLX's sum; one over the experts calls the watched array's `OnSum`."""
        total = super().sum(*args, **kwargs)
        if total.shape == (*self.shape[:-2], self.shape[-1]):
            self._callbacks()[1](total)
        return total

    def _callbacks(self) -> tuple[OnProduct, OnSum]:
        return self.callbacks.get(id(self), (_ignore_product, _ignore_sum))

    def astype(self, *args: Any, **kwargs: Any) -> mx.array:
        """MLX's cast; the result is watched as well."""
        cast = super().astype(*args, **kwargs)
        callback = self.callbacks.get(id(self))
        if callback is not None and cast is not self:
            self.callbacks[id(cast)] = callback
            cast.__class__ = _Watched
        return cast


def _ignore_product(factor: object, product: mx.array) -> None:
    """For a product that needs no recording."""


def _ignore_sum(total: mx.array) -> None:
    """For a sum that needs no recording."""


def as_float32(weights: mx.array, k: int) -> npt.NDArray[np.float32]:
    """Evaluated weights, [..., k] or [..., k, 1], as float32 [tokens, k] on the host."""
    if weights.dtype == mx.bfloat16:  # NumPy has none: its bits are a float32's upper half
        view = memoryview(weights)  # type: ignore[arg-type]  # it has the buffer protocol
        if not view.c_contiguous:
            return np.array(weights.astype(mx.float32), copy=True).reshape(-1, k)
        high = np.asarray(host_bytes(weights)).view(np.uint16).astype(np.uint32)
        return (high << 16).view(np.float32).reshape(-1, k)
    return np.array(weights, copy=True).astype(np.float32).reshape(-1, k)
