"""Linear layers and embeddings that multiply with compiled kernels.

Layers of one parent that receive the same activations (q, k and v; gate and up) share one call: the
first computes for all, the others return their part. Activations are compared by identity, so
layers with different inputs are each computed on their own.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ...system import huge_pages
from ..kernels import MANY_ROWS, Format, Matrix, Stack, affine, multiply_many, mxfp4, plain
from .arrays import KINDS, F32s, as_rows, contiguous, view


def format_of(module: Any) -> Format | None:
    """The format of a (switch) linear's weights, or None if no kernel reads it."""
    if not hasattr(module, "bits"):
        kind = KINDS.get(module.weight.dtype)
        return None if kind is None else plain(kind)
    if getattr(module, "global_scale", None) is not None:
        return None
    if module.mode == "mxfp4":
        return mxfp4() if (module.bits, module.group_size) == (4, 32) else None
    kind = KINDS.get(module.scales.dtype)
    if module.mode != "affine" or kind is None or module.biases.dtype != module.scales.dtype:
        return None
    return affine(module.bits, module.group_size, kind)


def matrix_of(module: Any) -> Matrix:
    """A linear layer's or an embedding's weights, not copied."""
    form = format_of(module)
    assert form is not None
    weight = contiguous(module.weight)
    quantised = form.kind != "plain"
    width = weight[0].nbytes * 8 // form.bits
    scales = contiguous(module.scales) if quantised else None
    biases = contiguous(module.biases) if form.kind == "affine" else None
    bias = as_rows(module.bias)[0] if "bias" in module else None
    huge_pages.collapse(weight.ctypes.data, weight.nbytes)
    return Matrix(form, len(weight), width, weight, scales, biases, bias)


class SharedInput:
    """Linear layers that usually receive the same activations."""

    def __init__(self, modules: list[Any]) -> None:
        self.matrices = [matrix_of(module) for module in modules]
        self.stack = Stack(self.matrices)
        self.ends = np.cumsum(self.stack.heights).tolist()
        self._x: mx.array | None = None
        self._found: F32s | None = None
        self._left = 0

    def take(self, x: mx.array, index: int) -> mx.array:
        """x·W of the layer number `index`."""
        if self._x is not x or self._found is None:
            self._x, self._found = x, compute(as_rows(x), self.stack)
            self._left = len(self.ends)
        found = self._found[:, self.ends[index] - self.stack.heights[index] : self.ends[index]]
        self._left -= 1
        if self._left <= 0:
            self._x = self._found = None
        return mx.array(found.reshape(*x.shape[:-1], found.shape[1]))


def compute(x: F32s, stack: Stack) -> F32s:
    """x [rows, width] → [rows, height of all], by the faster method for that many rows."""
    return multiply_many(x, stack) if len(x) >= MANY_ROWS else stack.multiply(x)


class _Linear:
    """The native behaviour of a linear layer, as part of a `SharedInput`."""

    _share: SharedInput
    _index: int

    def __call__(self, x: mx.array) -> mx.array:
        return self._share.take(x, self._index)


class NativeLinear(_Linear, nn.Linear):
    """An unquantised linear layer."""


class NativeQuantizedLinear(_Linear, nn.QuantizedLinear):
    """A quantised linear layer."""


class _Embedding:
    """The native behaviour of an embedding: float32 rows, and a native output head."""

    _head: Stack

    def __call__(self, x: mx.array) -> mx.array:
        found: mx.array = super().__call__(x)  # type: ignore[misc]  # the other base has it
        return found.astype(mx.float32)

    def as_linear(self, x: mx.array) -> mx.array:
        """The output head with the embedding's weights."""
        found = compute(as_rows(x), self._head)
        return mx.array(found.reshape(*x.shape[:-1], found.shape[1]))


class NativeEmbedding(_Embedding, nn.Embedding):
    """An unquantised embedding."""


class NativeQuantizedEmbedding(_Embedding, nn.QuantizedEmbedding):
    """A quantised embedding."""


LINEARS: dict[type, type] = {
    nn.Linear: NativeLinear,
    nn.QuantizedLinear: NativeQuantizedLinear,
}
EMBEDDINGS: dict[type, type] = {
    nn.Embedding: NativeEmbedding,
    nn.QuantizedEmbedding: NativeQuantizedEmbedding,
}


def swap_linears(modules: list[Any]) -> SharedInput:
    """Make linear layers of one format and width compute together."""
    shared = SharedInput(modules)
    for index, module in enumerate(modules):
        module.__class__ = LINEARS[type(module)]
        object.__setattr__(module, "_share", shared)
        object.__setattr__(module, "_index", index)
    return shared


def swap_embedding(module: Any) -> None:
    """Make an embedding return float32, and its output head compute natively."""
    object.__setattr__(module, "_head", Stack([matrix_of(module)]))
    module.__class__ = EMBEDDINGS[type(module)]


__all__ = ["compute", "format_of", "matrix_of", "swap_embedding", "swap_linears", "view"]
