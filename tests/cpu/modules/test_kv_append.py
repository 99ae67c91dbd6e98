"""Tokens are appended to mlx-lm's KV cache one by one, as mlx-lm does."""

from __future__ import annotations

import copy

import mlx.core as mx
import numpy as np
from mlx_lm.models.cache import KVCache, RotatingKVCache

from outlier_jupyter.cpu.modules.kv_append import KVAppender, takes_float32


def token(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A key and a value of two heads."""
    random = np.random.default_rng(seed)
    return tuple(random.normal(size=(2, 8)).astype(np.float32) for _ in range(2))


def contents(cache: KVCache) -> list[np.ndarray]:
    """The keys and values in a cache."""
    return [np.array(part) for part in cache.keys_and_values()]


def by_mlx_lm(seeds: list[int], kind: type = KVCache, **settings: int) -> KVCache:
    """A cache that mlx-lm filled."""
    cache = kind(**settings)
    for seed in seeds:
        key, value = (mx.array(part[None, :, None]) for part in token(seed))
        cache.update_and_fetch(key, value)
    return cache


def test_a_cache_holds_what_mlx_lm_would_have_put_there():
    """Over several of its growth steps, the cache is as if mlx-lm had added each token."""
    seeds = list(range(600))
    cache, appender = by_mlx_lm(seeds[:5]), KVAppender()
    for seed in seeds[5:]:
        keys, values, tokens = appender.add(cache, *token(seed))
        assert tokens == seed + 1
        for part, mine in zip((keys, values), token(seed), strict=True):
            assert np.array_equal(part.memory[:, tokens - 1], mine)
    for found, wanted in zip(contents(cache), contents(by_mlx_lm(seeds)), strict=True):
        assert np.array_equal(found, wanted)


def test_a_copy_of_a_cache_is_left_alone():
    """Copies that share a beginning, trimmed or not, never see each other's tokens."""
    appender = KVAppender()
    cache = by_mlx_lm([0, 1])
    for seed in (2, 3):
        appender.add(cache, *token(seed))
    branch = copy.deepcopy(cache)
    branch.trim(2)
    for seed in (20, 21, 22):
        appender.add(branch, *token(seed))
    appender.add(cache, *token(4))
    cache.trim(3)
    appender.add(cache, *token(30))
    for mine, seeds in ((branch, [0, 1, 20, 21, 22]), (cache, [0, 1, 30])):
        for found, wanted in zip(contents(mine), contents(by_mlx_lm(seeds)), strict=True):
            assert np.array_equal(found, wanted)


def test_a_rotating_cache_is_mlx_lms_to_update():
    """A cache that forgets returns the tokens it still has, in any order."""
    cache, appender = RotatingKVCache(max_size=4), KVAppender()
    for seed in range(9):
        keys, _, tokens = appender.add(cache, *token(seed))
    wanted = {token(seed)[0][0, 0] for seed in range(5, 9)}
    assert set(keys.memory[0, :tokens, 0]) == wanted


def test_only_plain_float32_caches_are_taken():
    """Quantised caches and those of other types stay mlx-lm's."""
    assert takes_float32(KVCache())
    assert not takes_float32(None)
    quantised = KVCache()
    quantised.update_and_fetch(*(mx.zeros((1, 2, 1, 32)) for _ in "kv"))
    assert not takes_float32(quantised.to_quantized(group_size=32, bits=8))
    half = KVCache()
    half.update_and_fetch(*(mx.zeros((1, 2, 1, 8), mx.bfloat16) for _ in "kv"))
    assert not takes_float32(half)
