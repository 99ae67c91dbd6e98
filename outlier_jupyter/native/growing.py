"""One token's key and value into mlx-lm's KV cache, straight into its memory where that is safe.

mlx-lm's own update builds and evaluates a graph. After one such update the cache's arrays are
nobody else's, for MLX copies what is shared before it writes. From then on tokens are written into
the memory behind them, as long as the cache is still the one that was left, with room.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.models.cache import KVCache

from .arrays import F32s, view


class Growing:
    """The KV cache of one layer while one token after the other is added to it."""

    def __init__(self) -> None:
        self._keys: mx.array | None = None
        self._values: mx.array | None = None
        self._offset = 0

    def add(self, cache: Any, key: F32s, value: F32s) -> tuple[F32s, F32s]:
        """Add key and value [heads, width]; all keys and values so far, [heads, tokens, width].

        What is returned is only to be read, and only until the next token.
        """
        if self._owns(cache):
            at = cache.offset
            keys, values = view(cache.keys)[0], view(cache.values)[0]
            keys[:, at], values[:, at] = key, value
            cache.offset = self._offset = at + 1
            return held(cache.keys, at + 1), held(cache.values, at + 1)
        fetched = cache.update_and_fetch(
            mx.array(key[None, :, None]), mx.array(value[None, :, None])
        )
        if type(cache) is KVCache:
            mx.eval(cache.keys, cache.values)
            self._keys, self._values, self._offset = cache.keys, cache.values, cache.offset
            return held(cache.keys, cache.offset), held(cache.values, cache.offset)
        keys, values = fetched
        return view(mx.contiguous(keys))[0], view(mx.contiguous(values))[0]

    def _owns(self, cache: Any) -> bool:
        return (
            type(cache) is KVCache
            and cache.keys is self._keys
            and cache.values is self._values
            and cache.offset == self._offset
            and cache.keys is not None
            and cache.offset < cache.keys.shape[2]
        )


def held(part: mx.array, tokens: int) -> F32s:
    """The first tokens of a cache's keys or values: [heads, tokens, width], rows in one piece."""
    found: F32s = view(part)[0][:, :tokens]
    in_order = found.strides[1:] == (found.itemsize * found.shape[2], found.itemsize)
    # MLX takes what fills a cache whole as it is, in whatever order its bytes are.
    return found if in_order else np.ascontiguousarray(found)


def takes_float32(cache: Any) -> bool:
    """Whether a cache hands out plain arrays, and those it has are float32."""
    if cache is None or not hasattr(cache, "offset") or hasattr(cache, "bits"):
        return False
    keys = getattr(cache, "keys", 0)
    return keys is None or (isinstance(keys, mx.array) and keys.dtype == mx.float32)
