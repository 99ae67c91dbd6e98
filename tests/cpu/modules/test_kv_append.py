"""Tokens are appended to mlx-lm's KV cache one by one, as mlx-lm does."""

from __future__ import annotations

import copy

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.cache import KVCache, RotatingKVCache

from outlier_jupyter.cpu.modules.kv_append import KVAppender, takes_floats


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
    cache, appender = by_mlx_lm(seeds[:5]), KVAppender(mx.float32)
    for seed in seeds[5:]:
        keys, values, tokens = appender.add(cache, *token(seed))
        assert tokens == seed + 1
        for part, mine in zip((keys, values), token(seed), strict=True):
            assert np.array_equal(part.memory[:, tokens - 1], mine)
    for found, wanted in zip(contents(cache), contents(by_mlx_lm(seeds)), strict=True):
        assert np.array_equal(found, wanted)


def test_a_copy_of_a_cache_is_left_alone():
    """Copies that share a beginning, trimmed or not, never see each other's tokens."""
    appender = KVAppender(mx.float32)
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


@pytest.mark.parametrize("kept", [0, 2])
@pytest.mark.parametrize("prompt", [1, 3, 9])
def test_a_rotating_cache_holds_what_mlx_lms_would(prompt, kept):
    """Before and after it is full, after a prompt that exceeds it, and after a trim."""
    settings = {"max_size": 6, "keep": kept}
    wanted, found = (by_mlx_lm([], RotatingKVCache, **settings) for _ in "ab")
    first = [mx.array(np.stack(part, axis=1)[None])
             for part in zip(*(token(seed) for seed in range(prompt)), strict=True)]  # fmt: skip
    for cache in (wanted, found):
        cache.update_and_fetch(*first)
    appender = KVAppender(mx.float32)
    for seed in range(20, 40):
        if seed == 22 and wanted.is_trimmable():
            assert wanted.trim(1) == found.trim(1)
        seen = wanted.update_and_fetch(*(mx.array(part[None, :, None]) for part in token(seed)))
        keys, values, tokens = appender.add(found, *token(seed))
        assert found.state[2:] == wanted.state[2:]
        assert tokens == seen[0].shape[2]
        for part, mine in zip(seen, (keys, values), strict=True):
            assert np.array_equal(np.array(part)[0], mine.memory[:, :tokens])


def test_sixteen_bits_stay_so_when_mlx_lets_a_cache_grow():
    """What MLX appends in float32 is stored in bfloat16, and tokens before it are unchanged."""
    cache, appender = KVCache(), KVAppender(mx.bfloat16)
    for seed in range(3):
        appender.add(cache, *token(seed))
    more = mx.zeros((1, 2, 300, 8))
    cache.update_and_fetch(more, more)
    assert cache.keys.dtype == mx.float32
    keys, _, tokens = appender.add(cache, *token(3))
    assert (cache.keys.dtype, keys.kind, tokens) == (mx.bfloat16, "bf16", 304)
    wanted = mx.array(np.stack([token(seed)[0] for seed in range(3)], axis=1)).astype(mx.bfloat16)
    assert mx.array_equal(cache.keys[0, :, :3], wanted)
    wanted = mx.array(token(3)[0]).astype(mx.bfloat16)
    assert mx.array_equal(cache.keys[0, :, 303], wanted)


def test_only_plain_caches_are_taken():
    """Quantised caches and those of other types stay mlx-lm's."""
    assert takes_floats(KVCache())
    assert not takes_floats(None)
    quantised = KVCache()
    quantised.update_and_fetch(*(mx.zeros((1, 2, 1, 32)) for _ in "kv"))
    assert takes_floats(quantised)
    assert not takes_floats(quantised.to_quantized(group_size=32, bits=8))
