"""One token's key and value into mlx-lm's KV cache, straight into its memory where that is safe.

mlx-lm's own update builds and evaluates a graph. After one such update the cache's arrays are
nobody else's, for MLX copies what is shared before it writes. From then on tokens are written into
the memory behind them, as long as the cache is still the one that was left, with room.
"""

from __future__ import annotations

import weakref
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.models.cache import KVCache

from ..kernels import Cached
from .arrays import F32s, view


class Growing:
    """The KV cache of one layer while one token after the other is added to it.

    Its memory is known here and not kept: it goes when nobody has the cache any more.
    """

    def __init__(self) -> None:
        self._cache: weakref.ref[KVCache] = weakref.ref(KVCache())
        self._keys: mx.array | None = None
        self._values: mx.array | None = None
        self._room: tuple[Cached, Cached] | None = None
        self._offset = 0

    def add(self, cache: Any, key: F32s, value: F32s) -> tuple[Cached, Cached, int]:
        """Add key and value [heads, width]; all keys and all values, and how many tokens' they are.

        What is returned is only to be read, and only until the next token.
        """
        room = self.room(cache)
        if room is not None:
            keys, values, at = room
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
        rooms = [view(part)[0] for part in (cache.keys, cache.values)]
        in_order = all(_in_order(room) for room in rooms)
        # Views of arrays that are held here: they stay where they are for as long.
        self._room = (Cached(rooms[0], "f32"), Cached(rooms[1], "f32")) if in_order else None
        keys, values = self._room or (Cached(held(part, cache.offset), "f32")
                                      for part in (cache.keys, cache.values))  # fmt: skip
        return keys, values, cache.offset

    def room(self, cache: Any) -> tuple[Cached, Cached, int] | None:
        """All keys and all values, and the place among them of one more token's, now counted.

        Whoever asks writes them there. None: there is no room, or the cache is not the one that
        was left; then `add` has to be asked.
        """
        if not self.owns(cache):
            return None
        assert self._room is not None
        at = self._offset
        cache.offset = self._offset = at + 1
        return *self._room, at

    def _forget(self, cache: weakref.ref[KVCache]) -> None:
        """A run has ended, and nobody kept its cache."""
        if cache is self._cache:
            self._keys = self._values = self._room = None

    def owns(self, cache: Any) -> bool:
        """Whether `cache` is as it was left here, with room for one more."""
        return (
            self._room is not None
            and type(cache) is KVCache
            and cache.keys is self._keys
            and cache.values is self._values
            and cache.offset == self._offset
            and cache.keys is not None
            and cache.offset < cache.keys.shape[2]
        )


def held(part: mx.array, tokens: int) -> F32s:
    """The first tokens of a cache's keys or values: [heads, tokens, width], rows in one piece."""
    found: F32s = view(part)[0][:, :tokens]
    return found if _in_order(found) else np.ascontiguousarray(found)


def _in_order(part: F32s) -> bool:
    """Whether rows are in one piece. MLX takes what fills a cache whole as it is, in any order."""
    return part.strides[1:] == (part.itemsize * part.shape[2], part.itemsize)


def takes_float32(cache: Any) -> bool:
    """Whether a cache hands out plain arrays, and those it has are float32."""
    if cache is None or not hasattr(cache, "offset") or hasattr(cache, "bits"):
        return False
    keys = getattr(cache, "keys", 0)
    return keys is None or (isinstance(keys, mx.array) and keys.dtype == mx.float32)
