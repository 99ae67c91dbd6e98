"""Latent attention with kernels: one compressed key and value per token, which all heads share.

A token's queries are brought into the latent space, and what it reads out of it, each head by
matrices of its own. Prompts, and tokens before the cache's memory is known, are mlx-lm's: it
stores the 16 bits of the model's weights, too, and multiplies them as float32.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.models.cache import CacheList, KVCache

from ..kernels import (
    AppendKV,
    Attend,
    Chain,
    HeadMatrices,
    HeadRotation,
    Link,
    Workspace,
    layer_norm_link,
    norm_link,
)
from .arrays import F32s, as_rows, contiguous
from .classes import native_class
from .kv_append import KVAppender
from .linear import format_of
from .parts import Matrices, Projection, norm_of
from .rotation import rotation_of
from .stored_type import stored_type


class IndexKeys:
    """The keys of an indexer, which selects the tokens that sparse attention reads.

    Its kernels keep them, and select nothing: they serve texts of up to as many tokens as it
    selects, which attention reads whole.

    Raises:
        KeyError: its linear layer is not native.
    """

    def __init__(self, indexer: Any, matrices: Matrices) -> None:
        self.matrix = matrices[id(indexer.wk)]
        self._most = int(indexer.index_topk)
        norm = indexer.k_norm
        self._norm = *(as_rows(each)[0].copy() for each in (norm.weight, norm.bias)), norm.eps
        self._rotate = HeadRotation(1, self.matrix.height, *rotation_of(indexer.rope))
        self._appender = KVAppender(mx.float32)

    def links(self, key: F32s) -> list[Link]:
        """Links that norm, turn and keep the token's `key` [width]."""
        weight, bias, epsilon = self._norm
        self._rotated = self._rotate.link(key)
        self._append = AppendKV(key, 1, key.size, 0, self._appender.kind)
        return [
            layer_norm_link(key, weight, bias, float(epsilon), key), self._rotated,
            self._append.link,
        ]  # fmt: skip

    def ready(self, cache: Any) -> bool:
        """Whether `cache` has room for the next token, and all of it is read."""
        return self._appender.owns(cache) and bool(cache.offset < self._most)

    def begin(self, cache: Any) -> None:
        """Reserve the next token's place."""
        place = self._appender.reserve(cache)
        assert place is not None, "only caches that are ready"
        self._rotate.at(place.position, self._rotated)
        self._append.append_to(place.keys, place.values, place.at)

    def own(self, cache: Any) -> None:
        """After mlx-lm has appended a token, write the next ones into the cache's memory."""
        self._appender.own(cache)


class LatentAttention:
    """One layer's latent attention: a `Mixer`.

    Args:
        module: that `can_attend_latents` accepts; its prompts are stored in 16 bits from then on.

    Raises:
        KeyError: one of its linear layers is not native.
    """

    def __init__(self, module: Any, matrices: Matrices) -> None:
        self._module = module
        self._heads, self._scale = module.num_heads, float(module.scale)
        self._embed, self._unembed = (
            _head_matrices(module[name]) for name in ("embed_q", "unembed_out")
        )
        self._latent, self._wide = self._embed.height, self._unembed.height
        self._turned = module.qk_rope_head_dim
        low = "q_a_proj" in module
        first = [module.q_a_proj if low else module.q_proj, module.kv_a_proj_with_mqa]
        # All heads' queries in the latent space, then all that are rotated.
        size = self._embed.width + self._turned
        rows = np.arange(self._heads * size).reshape(self._heads, size)
        order = np.concatenate([part.ravel() for part in np.split(rows, [size - self._turned], 1)])
        self._index = IndexKeys(module.indexer, matrices) if "indexer" in module else None
        parts = [matrices[id(each)] for each in first]
        parts += [self._index.matrix] if self._index else []
        end = parts[0].height
        self._ends = end, end + parts[1].height
        after = np.arange(*self._ends)
        self._first = Projection(parts, None if low else np.concatenate([order, after]))
        self._second = Projection([matrices[id(module.q_b_proj)]], order) if low else None
        self._output = Projection([matrices[id(module.o_proj)]])
        self._kv_norm = norm_of(module.kv_a_layernorm)
        self._q_norm = norm_of(module.q_a_layernorm) if low else None
        used = (self._first, self._second, self._output, self._embed, self._unembed)
        self.nbytes = sum(each.nbytes for each in used if each)
        self._rotates: list[HeadRotation] = []
        if "rope" in module:
            rotation = rotation_of(module.rope)
            self._rotates = [HeadRotation(n, self._turned, *rotation) for n in (self._heads, 1)]
        dtype = stored_type(module)
        assert dtype is not None, "only modules that can_attend_latents accepts"
        self._appender = KVAppender(dtype)
        if dtype != mx.float32:
            object.__setattr__(module, "_appender", self._appender)
            module.__class__ = native_class(_Narrow, type(module))

    def links(self, x: F32s, out: F32s, memory: Workspace) -> list[Link]:
        """As `Mixer.links`."""
        heads, latent = self._heads, self._latent
        found = memory.floats("found", self._first.height)
        low, key, index_key = np.split(found, self._ends)
        links, queries = self._first.links(x, found), low
        if self._second is not None and self._q_norm is not None:
            queries = memory.floats("queries", self._second.height)
            links += [norm_link(low, *self._q_norm, low), *self._second.links(low, queries)]
        plain, turned = np.split(queries, [heads * self._embed.width])
        links.append(norm_link(key[:latent], *self._kv_norm, key[:latent]))
        self._rotated = [each.link(heads_of) for each, heads_of in
                         zip(self._rotates, (turned, key[latent:]), strict=False)]  # fmt: skip
        if self._index is not None:
            links += self._index.links(index_key)
        latent_queries = memory.floats("latent_queries", heads * latent)
        read = memory.floats("latent_read", heads * latent)
        mixed = memory.floats("mixed", heads * self._wide)
        self._append = AppendKV(key, 1, latent, self._turned, self._appender.kind)
        self._attend = Attend(
            latent_queries, read, heads, 1, latent, self._appender.kind, self._scale, more=turned
        )
        return [
            *links, *self._rotated, *self._embed.links(plain, latent_queries), self._append.link,
            self._attend.link, *self._unembed.links(read, mixed), *self._output.links(mixed, out),
        ]  # fmt: skip

    def takes(self, cache: Any) -> bool:
        """As `Mixer.takes`: what the kernels do not know is mlx-lm's."""
        return True

    def ready(self, cache: Any) -> bool:
        """As `Mixer.ready`."""
        if self._index is None:
            return self._appender.owns(cache)
        if type(cache) is not CacheList:
            return False
        return self._appender.owns(cache[0]) and self._index.ready(cache[1])

    def begin(self, chain: Chain, first: int, cache: Any) -> None:
        """As `Mixer.begin`."""
        if self._index is not None:
            self._index.begin(cache[1])
            cache = cache[0]
        place = self._appender.reserve(cache)
        assert place is not None, "only caches that are ready"
        for each, made in zip(self._rotates, self._rotated, strict=True):
            each.at(place.position, made)
        self._append.append_to(place.keys, place.values, place.at)
        self._attend.over(place.keys, place.keys, place.tokens, place.values)

    def decode(self, x: F32s, cache: Any) -> F32s:
        """As `Mixer.decode`, with mlx-lm's code; from then on the cache's memory is known."""
        found = as_rows(self._module(mx.array(x[None]), None, cache))
        if self._index is not None and type(cache) is CacheList:
            self._index.own(cache[1])
            cache = cache[0]
        self._appender.own(cache)
        return found


class _Narrow:
    """What a latent attention's class is mixed with: its cache is `_Narrowed`."""

    _appender: KVAppender

    def __call__(self, x: mx.array, mask: Any = None, cache: Any = None) -> mx.array:
        if type(cache) is CacheList and type(cache[0]) is KVCache:
            cache = CacheList(_Narrowed(cache[0], self._appender), *cache.caches[1:])
        elif type(cache) is KVCache:
            cache = _Narrowed(cache, self._appender)
        return super().__call__(x, mask, cache)  # type: ignore[misc,no-any-return]  # the other base has it


class _Narrowed:
    """A cache that stores as the appender does, and returns float32."""

    def __init__(self, cache: KVCache, appender: KVAppender) -> None:
        self._cache, self._appender = cache, appender

    @property
    def offset(self) -> int:
        """As the cache's."""
        return int(self._cache.offset)

    @property
    def keys(self) -> Any:
        """As the cache's; mlx-lm gives it other dependencies."""
        return self._cache.keys

    @keys.setter
    def keys(self, array: mx.array) -> None:
        self._cache.keys = array

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """As the cache's."""
        found = self._appender.update(self._cache, keys, values)
        return found[0].astype(mx.float32), found[1].astype(mx.float32)


def formats_of(module: Any) -> set[str]:
    """The formats of the matrices that each head has by itself."""
    forms = (format_of(module[name]) for name in ("embed_q", "unembed_out"))
    return {form.name for form in forms if form is not None}


def _head_matrices(module: Any) -> HeadMatrices:
    form = format_of(module)
    if form is None:
        raise KeyError(id(module))
    weight = contiguous(module.weight)
    heads, height = weight.shape[:2]
    width = weight[0, 0].nbytes * 8 // form.bits
    scales = contiguous(module.scales) if form.kind != "plain" else None
    biases = contiguous(module.biases) if form.kind == "affine" else None
    return HeadMatrices(form, heads, height, width, weight, scales, biases)
