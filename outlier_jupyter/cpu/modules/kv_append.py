"""Appends one token's key and value to mlx-lm's KV cache, directly in its memory where it is safe.

mlx-lm's own update builds and evaluates a graph. After one such update nothing else shares the
cache's arrays, because MLX copies shared arrays before it writes. From then on tokens are written
into that memory, as long as the cache is unchanged otherwise and has room.
"""

from __future__ import annotations

import weakref
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.models.cache import KVCache

from ..kernels import Cached
from .arrays import F32s, view


class KVAppender:
    """Appends tokens to the KV cache of one layer.

    It references the cache weakly, so the cache's memory is freed with the cache.
    """

    def __init__(self) -> None:
        self._cache: weakref.ref[KVCache] = weakref.ref(KVCache())
        self._keys: mx.array | None = None
        self._values: mx.array | None = None
        self._memory: tuple[Cached, Cached] | None = None
        self._offset = 0

    def add(self, cache: Any, key: F32s, value: F32s) -> tuple[Cached, Cached, int]:
        """Append key and value [heads, width]; returns all keys, all values and the token count.

        The result is read-only and valid until the next token.
        """
        place = self.reserve(cache)
        if place is not None:
            keys, values, at = place
            keys.memory[:, at], values.memory[:, at] = key, value
            return keys, values, at + 1
        fetched = cache.update_and_fetch(
            mx.array(key[None, :, None]), mx.array(value[None, :, None])
        )
        if type(cache) is not KVCache:
            keys, values = (Cached(view(mx.contiguous(part))[0], "f32") for part in fetched)
            return keys, values, keys.memory.shape[1]
        mx.eval(cache.keys, cache.values)
        self._cache = weakref.ref(cache, self._forget)
        self._keys, self._values, self._offset = cache.keys, cache.values, cache.offset
        memories = [view(part)[0] for part in (cache.keys, cache.values)]
        in_order = all(_in_order(memory) for memory in memories)
        # Views of arrays that this object references, so their memory does not move.
        self._memory = (
            (Cached(memories[0], "f32"), Cached(memories[1], "f32")) if in_order else None
        )
        keys, values = self._memory or (Cached(cached_rows(part, cache.offset), "f32")
                                      for part in (cache.keys, cache.values))  # fmt: skip
        return keys, values, cache.offset

    def reserve(self, cache: Any) -> tuple[Cached, Cached, int] | None:
        """Reserve the place of one more token: all keys, all values, and the place's number.

        The caller writes the token's key and value there. None if the cache has no room or was
        changed elsewhere; then call `add`.
        """
        if not self.owns(cache):
            return None
        assert self._memory is not None
        at = self._offset
        cache.offset = self._offset = at + 1
        return *self._memory, at

    def _forget(self, cache: weakref.ref[KVCache]) -> None:
        """Free the memory when the cache itself is freed."""
        if cache is self._cache:
            self._keys = self._values = self._memory = None

    def owns(self, cache: Any) -> bool:
        """Whether `cache` is unchanged since the last append, with room for one more token."""
        return (
            self._memory is not None
            and type(cache) is KVCache
            and cache.keys is self._keys
            and cache.values is self._values
            and cache.offset == self._offset
            and cache.keys is not None
            and cache.offset < cache.keys.shape[2]
        )


def cached_rows(part: mx.array, tokens: int) -> F32s:
    """The first tokens of a cache's keys or values: [heads, tokens, width], rows contiguous."""
    found: F32s = view(part)[0][:, :tokens]
    return found if _in_order(found) else np.ascontiguousarray(found)


def _in_order(part: F32s) -> bool:
    """Whether rows are contiguous. MLX keeps an array that fills a cache whole in any order."""
    return part.strides[1:] == (part.itemsize * part.shape[2], part.itemsize)


def takes_float32(cache: Any) -> bool:
    """Whether a cache is unquantised and float32, or still empty."""
    if cache is None or not hasattr(cache, "offset") or hasattr(cache, "bits"):
        return False
    keys = getattr(cache, "keys", 0)
    return keys is None or (isinstance(keys, mx.array) and keys.dtype == mx.float32)
