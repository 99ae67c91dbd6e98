"""Attention with kernels, from the activations to the output projection.

It repeats the arithmetic of the classes that `families` names; tests compare it with mlx-lm's.
Other calls (another mask, a quantised cache) run mlx-lm's code. The KV cache is mlx-lm's.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.models.cache import KVCache

from ...families import known_as
from ..kernels import (
    AppendKV,
    Attend,
    Cached,
    Chain,
    HeadRotation,
    Link,
    Stack,
    Workspace,
    attend,
    attend_causal,
    norm_link,
)
from .arrays import F32s, as_rows
from .classes import native_class
from .kv_append import KVAppender, cached_rows, takes_float32
from .linear import SharedInput, compute

HEADS = ("n_heads", "num_heads", "num_attention_heads")
KV_HEADS = ("n_kv_heads", "num_key_value_heads")
SCALES = ("scale", "sm_scale")


class AttentionPlan:
    """One layer's attention: projections, norms, RoPE and KV cache."""

    def __init__(self, module: Any, shared: SharedInput, output: Stack) -> None:
        self.shared, self.output = shared, output
        self.appender = KVAppender()
        self.heads, self.kv_heads = _first(module, HEADS), _first(module, KV_HEADS)
        self.scale = float(_first(module, SCALES))
        self.width = shared.stack.heights[0] // self.heads
        self.sinks = as_rows(module.sinks)[0].copy() if "sinks" in module else None
        frequencies, paired = _frequencies(module.rope, self.width)
        norms = [module[name] for name in ("q_norm", "k_norm") if name in module]
        # A norm over all heads at once differs from one per head; it runs before the rotation.
        self.norms = [as_rows(norm.weight)[0].copy() for norm in norms]
        self.epsilon = float(norms[0].eps) if norms else 0.0
        self.each = bool(norms) and len(self.norms[0]) == self.width
        weights = None
        if self.each:
            counts = (self.heads, self.kv_heads)
            weights = np.concatenate(
                [np.tile(norm, (n, 1)) for norm, n in zip(self.norms, counts, strict=True)]
            )
        self.nbytes = shared.stack.nbytes + output.nbytes
        self.rotate = HeadRotation(
            self.heads + self.kv_heads, self.width, frequencies, paired, weights, self.epsilon
        )

    def decode(self, x: F32s, cache: Any) -> F32s:
        """x [1, width] → [1, width], with the token's key and value added to `cache`."""
        found = self.shared.stack.multiply(x)[0]
        rotated = (self.heads + self.kv_heads) * self.width
        queries_and_keys, value = found[:rotated].reshape(-1, self.width), found[rotated:]
        if self.norms and not self.each:
            split = self.heads * self.width
            for part, weight in zip((found[:split], found[split:rotated]), self.norms, strict=True):
                part *= weight / np.sqrt(np.mean(part * part) + self.epsilon)
        self.rotate(queries_and_keys, cache.offset)
        queries, key = queries_and_keys[: self.heads], queries_and_keys[self.heads :]
        found = self.appender.add(cache, key, value.reshape(self.kv_heads, -1))
        mixed = attend(queries, found[0], found[1], self.scale, self.sinks, found[2])
        return self.output.multiply(mixed.reshape(1, -1))

    def links(self, x: F32s, out: F32s, memory: Workspace) -> list[Link]:
        """`decode` as links of a chain: x [width] → out [width]; `begin` sets the position."""
        stack, rotated = self.shared.stack, (self.heads + self.kv_heads) * self.width
        wide = (stack.height - rotated) // self.kv_heads
        found = memory.floats("found", stack.height)
        mixed = memory.floats("mixed", self.heads * wide)
        norms = []
        if self.norms and not self.each:
            split = self.heads * self.width
            for part, weight in zip((found[:split], found[split:rotated]), self.norms, strict=True):
                norms.append(norm_link(part, weight, self.epsilon, part))
        self._rotated = self.rotate.link(found[:rotated])
        self._append = AppendKV(found, self.heads, self.kv_heads, self.width, wide, self.scale)
        before = [*stack.links(x, found), *norms, self._rotated, self._append.link]
        self._attend = Attend(found, mixed, self.heads, self.sinks)
        self._place = len(before)
        return [*before, self._attend.link, *self.output.links(mixed, out)]

    def takes(self, cache: Any) -> bool:
        """As `Mixer.takes`."""
        return self.appender.owns(cache) or takes_float32(cache)

    def ready(self, cache: Any) -> bool:
        """As `Mixer.ready`."""
        return self.appender.owns(cache)

    def begin(self, chain: Chain, first: int, cache: Any) -> None:
        """As `Mixer.begin`."""
        place = self.appender.reserve(cache)
        assert place is not None, "only caches that are ready"
        keys, values, at = place
        self.rotate.at(at, self._rotated)
        self._append.append_to(keys, values, at)
        self._attend.over(keys, values, at + 1, chain, first + self._place)

    def prefill(self, x: F32s, cache: KVCache) -> F32s:
        """x [rows, width] → [rows, width]; each row attends to the cache and the rows up to it."""
        rows, offset = len(x), cache.offset
        found = compute(x, self.shared.stack)
        split = self.heads * self.width
        rotated = split + self.kv_heads * self.width
        if self.norms and not self.each:
            for part, weight in zip((found[:, :split], found[:, split:rotated]), self.norms,
                                    strict=True):  # fmt: skip
                squares = np.mean(part * part, axis=1, keepdims=True)
                part *= weight / np.sqrt(squares + self.epsilon)
        for row in range(rows):
            self.rotate(found[row, :rotated].reshape(-1, self.width), offset + row)
        shape = (1, rows, self.kv_heads, -1)
        keys, values = (
            mx.array(np.ascontiguousarray(part.reshape(shape).transpose(0, 2, 1, 3)))
            for part in (found[:, split:rotated], found[:, rotated:])
        )
        cache.update_and_fetch(keys, values)
        seen = [Cached(cached_rows(part, cache.offset), "f32")
                for part in (cache.keys, cache.values)]  # fmt: skip
        queries = found[:, :split].reshape(rows, self.heads, self.width)
        mixed = attend_causal(queries, seen[0], seen[1], self.scale, self.sinks)
        return compute(mixed.reshape(rows, -1), self.output)


class _Attention:
    """The native behaviour of an attention module."""

    _plan: AttentionPlan

    def __call__(self, x: mx.array, mask: Any = None, cache: Any = None) -> mx.array:
        if mask is None and x.shape[:2] == (1, 1) and takes_float32(cache):
            found = self._plan.decode(as_rows(x), cache)
            return mx.array(found[None])
        if (
            isinstance(mask, str)
            and mask == "causal"
            and len(x) == 1
            and type(cache) is KVCache
            and takes_float32(cache)
        ):
            return mx.array(self._plan.prefill(as_rows(x), cache)[None])
        return super().__call__(x, mask, cache)  # type: ignore[misc,no-any-return]  # the other base has it


def can_swap(module: nn.Module) -> bool:
    """Whether the module is an attention of a known class, with plain RoPE."""
    return known_as(module, "attention") is not None and type(module.rope) is nn.RoPE


def swap_attention(module: Any, shared: SharedInput, output: Stack) -> None:
    """Make an attention module compute natively."""
    object.__setattr__(module, "_plan", AttentionPlan(module, shared, output))
    module.__class__ = native_class(_Attention, type(module))


def _first(module: Any, names: tuple[str, ...]) -> Any:
    return next(getattr(module, name) for name in names if hasattr(module, name))


def _frequencies(rope: Any, width: int) -> tuple[np.ndarray[Any, np.dtype[np.float64]], bool]:
    """Radians per token of each pair of coordinates, and whether pairs are neighbours."""
    dims = rope.dims
    places = np.arange(0, dims, 2, dtype=np.float64) / dims
    return rope.scale * float(rope.base) ** -places, bool(rope.traditional)
