"""Catches the router's weights where the model applies them, without touching the model's code.

Every model that mlx-lm builds from a switch multiplies the switch's output [.., k, width] by the
weights [.., k, 1] of the experts. `RouterTap.watch` gives that output a class of its own whose
multiplication remembers the other factor and then multiplies as MLX does: no copy, no other
graph, and what is remembered is what was applied. Where a model does it otherwise nothing is
caught, and the trace says so with NaN.
"""

from __future__ import annotations

from typing import Any, ClassVar

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from .slots import host_bytes


class RouterTap:
    """Collects (layer, weights) of one call of the model."""

    def __init__(self) -> None:
        self._on = False
        self._caught: list[tuple[int, mx.array]] = []
        self._watching: list[int] = []

    def begin(self) -> None:
        """Watch the call that follows. Calls outside of a run are not watched: nobody drains."""
        self.forget()
        self._on = True

    def forget(self) -> None:
        """Stop watching, and let go of what a call that was cut short left."""
        self._on = False
        self._caught.clear()
        for output in self._watching:  # those that were never multiplied
            _Watched.catchers.pop(output, None)
        self._watching.clear()

    def watch(self, output: mx.array, layer: int) -> mx.array:
        """Return `output`, a switch's [..., k, width], so that its multiplication is seen."""
        if not self._on:
            return output
        shape = (*output.shape[:-1], 1)

        def catch(factor: object) -> None:
            if isinstance(factor, mx.array) and tuple(factor.shape) == shape:
                self._caught.append((layer, factor))

        _Watched.catchers[id(output)] = catch
        self._watching.append(id(output))
        # Assigning the class keeps the array itself; constructing a subclass would copy it.
        output.__class__ = _Watched
        return output

    def drain(self) -> list[tuple[int, npt.NDArray[np.float32]]]:
        """What was caught since `begin`: (layer, float32 [tokens, k]), in order. Ends the watch."""
        caught = [(layer, as_float32(weights)) for layer, weights in self._caught]
        self.forget()
        return caught


class _Watched(mx.array):
    __slots__ = ()
    catchers: ClassVar[dict[int, object]] = {}

    def __mul__(self, other: Any) -> mx.array:
        _catch(self, other)
        return super().__mul__(other)

    def __rmul__(self, other: Any) -> mx.array:
        _catch(self, other)
        return super().__rmul__(other)


def _catch(output: mx.array, factor: object) -> None:
    catch = _Watched.catchers.pop(id(output), None)
    if callable(catch):
        catch(factor)


def as_float32(weights: mx.array) -> npt.NDArray[np.float32]:
    """An evaluated [..., k, 1] as float32 [tokens, k] on the host, with no further evaluation."""
    k = weights.shape[-2]
    if weights.dtype == mx.bfloat16:  # NumPy has none: its bits are a float32's upper half
        high = np.asarray(host_bytes(weights)).view(np.uint16).astype(np.uint32)
        return (high << 16).view(np.float32).reshape(-1, k)
    return np.array(weights, copy=True).astype(np.float32).reshape(-1, k)
