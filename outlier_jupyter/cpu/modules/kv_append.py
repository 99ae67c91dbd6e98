"""Appends one token's key and value to mlx-lm's KV cache, directly in its memory where it is safe.

mlx-lm's own update builds and evaluates a graph. After one such update nothing else shares the
cache's arrays, because MLX copies shared arrays before it writes. From then on tokens are written
into that memory, as long as the cache is unchanged otherwise and has room.

Keys and values have the 16 bits of the model's weights, though activations are float32: MLX writes
what is appended in the type of the cache's arrays, and where it lets a cache grow in float32, the
next append brings it back.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
import numpy.typing as npt
from mlx_lm.models.cache import KVCache, RotatingKVCache

from ..kernels import Cached
from .arrays import KINDS, F32s, view

ALL = 1 << 62
"""The window of a token that sees all before it."""
KNOWN = (KVCache, RotatingKVCache)
"""Caches whose memory tokens are written into."""


class CachePlace(NamedTuple):
    """Where the next token's key and value go.

    Attributes:
        keys, values: all of the cache.
        at: number of the token's row.
        tokens: how many rows the token sees, its own included.
        position: of the token in the text.
    """

    keys: Cached
    values: Cached
    at: int
    tokens: int
    position: int


class KVAppender:
    """Appends tokens to the KV cache of one layer.

    It references the cache weakly, so the cache's memory is freed with the cache.

    Args:
        dtype: of what is stored.

    Attributes:
        kind: the name of `dtype`.
    """

    def __init__(self, dtype: mx.Dtype) -> None:
        self.kind = KINDS[dtype]
        self.dtype = dtype
        self._cache: weakref.ref[Any] = weakref.ref(KVCache())
        self._arrays: tuple[mx.array, mx.array] | None = None
        self._memory: tuple[Cached, Cached] | None = None
        self._state: tuple[int, int] = 0, 0

    def add(self, cache: Any, key: F32s, value: F32s) -> tuple[Cached, Cached, int]:
        """Append key and value [heads, width]; returns all keys, all values and the token count.

        The result is read-only and valid until the next token.
        """
        place = self.reserve(cache)
        if place is not None:
            place.keys.memory[:, place.at] = self.stored(key)
            place.values.memory[:, place.at] = self.stored(value)
            return place.keys, place.values, place.tokens
        fetched = self.extend(cache, key[:, None], value[:, None])
        self.own(cache)
        return *fetched, fetched[0].memory.shape[1]

    def extend(self, cache: Any, keys: F32s, values: F32s) -> tuple[Cached, Cached]:
        """Have mlx-lm append keys and values [heads, tokens, width]; returns all of both.

        They are for reading until the next token.
        """
        parts = (mx.array(np.ascontiguousarray(part[None])) for part in (keys, values))
        fetched = self.update(cache, *parts)
        tokens = fetched[0].shape[2]
        if type(cache) is KVCache:  # its own arrays: the first tokens of one are a copy
            fetched = cache.keys, cache.values
        seen = [Cached(_first_rows(part, tokens), self.kind) for part in fetched]
        return seen[0], seen[1]

    def update(self, cache: Any, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """mlx-lm's `update_and_fetch`, of what is stored."""
        for name in ("keys", "values"):
            part = getattr(cache, name)
            if part is not None and part.dtype != self.dtype:
                setattr(cache, name, part.astype(self.dtype))
        found: tuple[mx.array, mx.array] = cache.update_and_fetch(
            keys.astype(self.dtype), values.astype(self.dtype)
        )
        return found

    def make_room(self, cache: KVCache, keys: tuple[int, int], values: tuple[int, int]) -> bool:
        """Make a cache ready for `reserve`, if its memory allows that.

        Args:
            keys, values: heads and width.
        """
        if self.owns(cache):
            return True
        (heads, width), (others, wide) = keys, values
        self.update(cache, mx.zeros((1, heads, 1, width)), mx.zeros((1, others, 1, wide)))
        cache.trim(1)
        self.own(cache)
        return self.owns(cache)

    def stored(self, part: F32s) -> npt.NDArray[Any]:
        """Finite float32 as it is stored."""
        if self.kind == "f32":
            return part
        bits = part.view(np.uint32)
        return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)

    def reserve(self, cache: Any) -> CachePlace | None:
        """Reserve the place of one more token.

        The caller writes the token's key and value there. None if the cache has no room or was
        changed elsewhere; then call `add`.
        """
        if not self.owns(cache):
            return None
        assert self._memory is not None
        keys, values = self._memory
        position = at = cache.offset
        if type(cache) is RotatingKVCache:  # as in mlx-lm's `_update_in_place`
            at = cache.keep if cache._idx == cache.max_size else cache._idx
            cache._idx = at + 1
        cache.offset = position + 1
        self._state = cache.offset, at + 1
        return CachePlace(keys, values, at, min(position + 1, keys.memory.shape[1]), position)

    def own(self, cache: Any) -> None:
        """After an append of mlx-lm's, write the next tokens into the cache's own memory.

        Not if that is not contiguous, or of another kind.
        """
        if type(cache) not in KNOWN or cache.keys.dtype != self.dtype:
            return
        mx.eval(cache.keys, cache.values)
        self._cache = weakref.ref(cache, self._forget)
        self._arrays = cache.keys, cache.values
        self._state = cache.offset, getattr(cache, "_idx", cache.offset)
        self._memory = None
        if all(memoryview(part).c_contiguous for part in self._arrays):  # type: ignore[arg-type]  # as in `view`
            # Views of arrays that this object references, so their memory does not move.
            memories = [Cached(view(part)[0], self.kind) for part in self._arrays]
            self._memory = memories[0], memories[1]

    def _forget(self, cache: weakref.ref[Any]) -> None:
        """Free the memory when the cache itself is freed."""
        if cache is self._cache:
            self._arrays = self._memory = None

    def owns(self, cache: Any) -> bool:
        """Whether `cache` is unchanged since the last append, with room for one more token."""
        if self._memory is None or self._arrays is None or type(cache) not in KNOWN:
            return False
        room = self._memory[0].memory.shape[1]
        return (
            cache.keys is self._arrays[0]
            and cache.values is self._arrays[1]
            and (cache.offset, getattr(cache, "_idx", cache.offset)) == self._state
            and (cache.offset < room or room == getattr(cache, "max_size", None))
        )


class SeveralCaches:
    """One layer's caches of several prompts, whose tokens follow one another in a call.

    Each is mlx-lm's plain cache: a token sees all before it.

    Args:
        lengths: tokens of each prompt in the call; the layers share the list.

    Attributes:
        caches: one per prompt; `appenders`, what writes into each.
    """

    def __init__(self, caches: Sequence[KVCache], lengths: list[int]) -> None:
        self.caches, self.lengths = list(caches), lengths
        self.appenders: list[KVAppender | None] = [None] * len(self.caches)

    def parts(self, like: KVAppender) -> Iterator[tuple[slice, KVCache, KVAppender]]:
        """The rows of each prompt in the call, its cache, and what writes `like` into it."""
        at = 0
        for number, length in enumerate(self.lengths):
            if length:
                yield slice(at, at + length), self.caches[number], self.appender(number, like)
            at += length

    def appender(self, number: int, like: KVAppender) -> KVAppender:
        """What writes into a prompt's cache, of the type of `like`."""
        found = self.appenders[number]
        if found is None:
            found = self.appenders[number] = KVAppender(like.dtype)
        return found

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all prompts but these."""
        self.caches = [self.caches[row] for row in rows]
        self.appenders = [self.appenders[row] for row in rows]

    def extend(self, other: SeveralCaches) -> None:
        """Add those of other prompts."""
        self.caches += other.caches
        self.appenders += other.appenders

    @property
    def state(self) -> list[Any]:
        """The arrays of all caches."""
        return [each.state for each in self.caches if each.keys is not None]

    def make_mask(self, *_: Any, **__: Any) -> None:
        """None: what a token sees follows from its place."""


def _first_rows(part: mx.array, tokens: int) -> npt.NDArray[Any]:
    """The first tokens of keys or values: [heads, tokens, width], rows contiguous."""
    found: npt.NDArray[Any] = view(part)[0][:, :tokens]
    return found if _in_order(found) else np.ascontiguousarray(found)


def _in_order(part: npt.NDArray[Any]) -> bool:
    """Whether rows are contiguous. MLX keeps an array that fills a cache whole in any order."""
    return part.strides[1:] == (part.itemsize * part.shape[2], part.itemsize)


def takes_floats(cache: Any) -> bool:
    """Whether a cache holds plain numbers, or is still empty."""
    if cache is None or not hasattr(cache, "offset") or hasattr(cache, "bits"):
        return False
    keys = getattr(cache, "keys", 0)
    return keys is None or (isinstance(keys, mx.array) and keys.dtype in KINDS)


def window_of(mask: Any, cache: Any, tokens: int) -> int | None:
    """How many positions each of several tokens sees; None if `mask` is of another form.

    A rotating cache makes its own mask, of a window as long as itself, once a prompt exceeds it.
    """
    if isinstance(mask, str):
        return ALL if mask == "causal" and type(cache) in KNOWN else None
    if type(cache) is not RotatingKVCache or not isinstance(mask, mx.array):
        return None
    seen = min(cache.max_size - 1, cache.offset) + tokens
    return int(cache.max_size) if mask.shape == (tokens, seen) else None
