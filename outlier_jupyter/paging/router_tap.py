"""Catches the router's weights where the model applies them, without touching the model's code.

Nearly every model that mlx-lm builds from a switch multiplies the switch's output [.., k, width]
by the weights [.., k, 1] of the experts. `RouterTap.watch` gives that output a class of its own
whose multiplication remembers the other factor and then multiplies as MLX does: no copy, no other
graph, and what is remembered is what was applied. A model may scale the sum of its experts once
more before it adds anything to it (laguna by a constant, Klear by a gate of the token): the sum is
watched too, until the block returns, and its factors belong to each expert's weight. Two more ways
are seen with the help of `blocks.py`: a function of the model's module that takes output and
weights, and, for one expert a token, weights that multiply the switch's input. Where a model does
it otherwise nothing is caught, and the trace says so with NaN.

A fully resident layer's ids never leave the device while a call lasts; the tap keeps them too,
and reads all of them at the call's end. It keeps what each switch took, too: told at the end,
this costs a tenth of what it does after each layer, whose weights have just passed through the
processor's caches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from ..events import ResidentLayers, Routed, Served, Weighed
from .resident_log import Choices, Note
from .slots import host_bytes


@dataclass
class _Weights:
    """What was multiplied with one switch's output, and then with the sum of it."""

    layer: int
    k: int
    each: mx.array  # [..., k] or [..., k, 1]
    sums: list[mx.array | float] = field(default_factory=list)  # a token's each, [..., 1], or one

    def applied(self) -> npt.NDArray[np.float32]:
        """Their product, evaluated: [tokens, k]."""
        weights = as_float32(self.each, self.k)
        for factor in self.sums:
            weights = weights * (
                as_float32(factor, 1) if isinstance(factor, mx.array) else np.float32(factor)
            )
        return weights


class RouterTap:
    """Collects of a call its weights, the ids of fully resident layers, and its switches' times.

    Args:
        layers: how many layers may write into the room of the tap's own, `choices`.

    Attributes:
        noted: told, as a `Note`, that a layer, fully resident, has written its choice there.
    """

    def __init__(self, layers: int = 0) -> None:
        self.choices = Choices(layers)
        self.noted: Callable[[Note], object] = _ignore_note
        self._on = False
        self._ids: list[tuple[int, mx.array | npt.NDArray[Any]]] = []
        self._caught: list[_Weights | Weighed] = []
        self._watching: dict[int, tuple[int, tuple[int, ...]]] = {}
        self._inputs: dict[int, mx.array] = {}
        self._seen: list[int] = []
        self._served: list[tuple[int, int, int, int, int]] = []

    def begin(self) -> None:
        """Watch the call that follows. Calls outside of a run are not watched: nobody drains."""
        self.forget()
        self._on = True
        self.noted = self.choices.note

    def forget(self) -> None:
        """Stop watching, and let go of what a call that was cut short left."""
        self._on = False
        self.noted = _ignore_note
        for known in (self._ids, self._caught, self._watching, self._inputs, self._served):
            known.clear()
        self.choices.forget()
        for array in self._seen:
            _Watched.catchers.pop(array, None)
        self._seen.clear()

    def chose(self, layer: int, ids: mx.array | npt.NDArray[Any]) -> None:
        """`layer`, fully resident, was asked for the experts `ids`, [..., k], not yet evaluated."""
        if self._on:
            self._ids.append((layer, ids))

    def weighs(self, layer: int, weights: npt.NDArray[np.float32]) -> None:
        """The experts of `layer` are weighed by `weights` [tokens, k], which are not MLX's.

        They must stay as they are until the call ends.
        """
        if self._on:
            self._caught.append(Weighed(layer, weights))

    def served(self, layer: int, start_ns: int, ns: int, experts_ns: int, report_ns: int) -> None:
        """The switch of `layer` returns; as `Served`."""
        if self._on:
            self._served.append((layer, start_ns, ns, experts_ns, report_ns))

    def enter(self, x: mx.array) -> mx.array:
        """Return `x`, a block's input [..., width], so that weights multiplied to it are seen."""
        if not self._on or not isinstance(x, mx.array):
            return x

        wanted = (*x.shape[:-1], 1)

        # These closures must not hold the arrays: a prompt's would then all live to its end.
        def caught(factor: object, product: mx.array) -> None:
            if isinstance(factor, mx.array) and tuple(factor.shape) == wanted:
                self._inputs[id(product)] = factor
                self._mark(product, _ignore)

        return self._mark(x, caught)

    def watch(self, output: mx.array, layer: int, x: mx.array | None = None) -> mx.array:
        """Return `output`, a switch's [..., k, width], so that what weighs it is seen.

        `x` is the switch's input: with one expert a token, the weights may be in it already.
        """
        if not self._on:
            return output
        key, shape = id(output), tuple(output.shape[:-1])
        if isinstance(x, _Watched) and shape[-1] == 1:
            weights = self._inputs.pop(id(x), None)
            if weights is not None:
                self._caught.append(_Weights(layer, 1, weights))
                return output

        def caught(factor: object, product: mx.array) -> None:
            if isinstance(factor, mx.array) and tuple(factor.shape) == (*shape, 1):
                weights = self._catch(key, factor)
                if weights is not None:
                    self._mark(product, _ignore, lambda total: self._follow(total, weights))

        self._watching[key] = (layer, shape)
        return self._mark(output, caught)

    def passed(self, arguments: tuple[object, ...]) -> None:
        """A function of the model is called: is a switch's output among these, and its weights?"""
        for output in arguments:
            if isinstance(output, _Watched) and id(output) in self._watching:
                _, shape = self._watching[id(output)]
                for other in arguments:
                    if isinstance(other, mx.array) and tuple(other.shape) in (shape, (*shape, 1)):
                        self._catch(id(output), other)
                        return

    def leave(self, output: object) -> None:
        """A block returns `output`: what it is multiplied by from here on weighs no expert."""
        if isinstance(output, _Watched):
            _Watched.catchers.pop(id(output), None)

    def drain(self) -> list[ResidentLayers | Routed | Weighed | Served]:
        """What was chosen, caught and taken since `begin`, ids first. Ends the watch.

        All of it was computed with the call, except in a chunk of the prompt after which nothing
        is sampled: there the last layer's router is evaluated for the trace alone.
        """
        caught = [weights for weights in self._caught if isinstance(weights, _Weights)]
        factors = [factor for weights in caught for factor in (weights.each, *weights.sums)]
        mx.eval([ids for _, ids in self._ids if isinstance(ids, mx.array)], factors)
        told: list[ResidentLayers | Routed | Weighed | Served] = [*self.choices.told()]
        for layer, ids in self._ids:
            experts = np.array(ids, copy=True).reshape(-1, ids.shape[-1]).astype(np.int32)
            told.append(Routed(layer, experts, np.ones(experts.shape, bool), 0, 0))
        for weights in self._caught:
            if isinstance(weights, _Weights):
                told.append(Weighed(weights.layer, weights.applied()))
            else:
                told.append(Weighed(weights.layer, weights.weights.copy()))
        told += [Served(*times) for times in self._served]
        self.forget()
        return told

    def _catch(self, output: int, weights: mx.array) -> _Weights | None:
        """Book the weights of a watched output, once."""
        known = self._watching.pop(output, None)
        if known is None:
            return None
        layer, shape = known
        caught = _Weights(layer, shape[-1], weights)
        self._caught.append(caught)
        return caught

    def _follow(self, total: mx.array, weights: _Weights) -> None:
        """Watch `total`, the weighed sum of a switch's output, for what scales it as a whole."""
        self._mark(total, partial(self._scaled, weights, (*total.shape[:-1], 1)))

    def _scaled(
        self, weights: _Weights, wanted: tuple[int, ...], factor: object, product: mx.array
    ) -> None:
        """A watched sum is multiplied; what weighs a whole token is booked, the product watched."""
        if isinstance(factor, int | float):
            weights.sums.append(float(factor))
        elif isinstance(factor, mx.array) and tuple(factor.shape) == wanted:
            weights.sums.append(factor)
        else:
            return
        # No closure that names itself: that cycle would keep a prompt's weights after the run.
        self._mark(product, partial(self._scaled, weights, wanted))

    def _mark(self, array: mx.array, caught: Catcher, summed: Summed | None = None) -> mx.array:
        _Watched.catchers[id(array)] = caught, summed or _ignore_sum
        self._seen.append(id(array))
        # Assigning the class keeps the array itself; constructing a subclass would copy it.
        array.__class__ = _Watched
        return array


Catcher = Callable[[object, mx.array], None]
"""Told the other factor and the product."""
Summed = Callable[[mx.array], None]
"""Told the sum over the experts."""


class _Watched(mx.array):
    __slots__ = ()
    catchers: ClassVar[dict[int, tuple[Catcher, Summed]]] = {}

    def __mul__(self, other: Any) -> mx.array:
        product = super().__mul__(other)
        self._caught_by()[0](other, product)
        return product

    def __rmul__(self, other: Any) -> mx.array:
        product = super().__rmul__(other)
        self._caught_by()[0](other, product)
        return product

    def sum(self, *args: Any, **kwargs: Any) -> mx.array:
        """A sum of what was weighed is told of, where it is one over the experts."""
        total = super().sum(*args, **kwargs)
        if total.shape == (*self.shape[:-2], self.shape[-1]):
            self._caught_by()[1](total)
        return total

    def _caught_by(self) -> tuple[Catcher, Summed]:
        return self.catchers.get(id(self), (_ignore, _ignore_sum))

    def astype(self, *args: Any, **kwargs: Any) -> mx.array:
        """Another type of the same numbers is watched in its place."""
        cast = super().astype(*args, **kwargs)
        catcher = self.catchers.get(id(self))
        if catcher is not None and cast is not self:
            self.catchers[id(cast)] = catcher
            cast.__class__ = _Watched
        return cast


def _ignore(factor: object, product: mx.array) -> None:
    """Nobody waits for this product."""


def _ignore_note(note: Note) -> None:
    """Nobody watches this call."""


def _ignore_sum(total: mx.array) -> None:
    """Nobody waits for this sum."""


def as_float32(weights: mx.array, k: int) -> npt.NDArray[np.float32]:
    """Evaluated weights, [..., k] or [..., k, 1], as float32 [tokens, k] on the host."""
    if weights.dtype == mx.bfloat16:  # NumPy has none: its bits are a float32's upper half
        view = memoryview(weights)  # type: ignore[arg-type]  # it has the buffer protocol
        if not view.c_contiguous:
            return np.array(weights.astype(mx.float32), copy=True).reshape(-1, k)
        high = np.asarray(host_bytes(weights)).view(np.uint16).astype(np.uint32)
        return (high << 16).view(np.float32).reshape(-1, k)
    return np.array(weights, copy=True).astype(np.float32).reshape(-1, k)
