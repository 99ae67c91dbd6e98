"""Recurrent layers keep mlx-lm's cache: it may be copied, resumed and continued by either code."""

from __future__ import annotations

import copy

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm import load as load_unpaged
from mlx_lm.models.cache import ArraysCache, make_prompt_cache

import outlier_jupyter
from outlier_jupyter.cpu.modules.gated_delta import RecurrentState
from tests.cpu.modules.clear import near
from tests.models import checkpoint

TYPES = pytest.mark.parametrize("model_type", ["qwen3_next", "qwen3_5_moe", "kimi_linear"])


def read(model, tokens, cache):
    """Logits of the last of `tokens`."""
    return np.array(model(mx.array([tokens]), cache=cache)[0, -1].astype(mx.float32))


@TYPES
def test_a_copy_of_a_cache_is_left_alone(model_type, tmp_path):
    """A cache and its copy continue with other tokens, as two caches of mlx-lm's do."""
    folder = checkpoint(model_type, tmp_path / "model")
    plain, found = load_unpaged(str(folder))[0], []
    with outlier_jupyter.load(folder, resident=True, kernels="auto") as engine:
        for model in (plain, engine.model):
            cache, seen = make_prompt_cache(model), []
            for tokens in ([5, 9, 30, 7], [3], [8], [11]):
                read(model, tokens, cache)
            branch = copy.deepcopy(cache)
            for first, second in ((1, 2), (4, 6), (10, 12)):
                seen += [read(model, [first], cache), read(model, [second], branch)]
            seen.append(read(model, [20, 21, 22], cache))
            seen.append(read(model, [23], cache))
            found.append(np.stack(seen))
    assert near(found[1], found[0])


@TYPES
def test_a_chat_is_resumed(model_type, tmp_path):
    """An answer over a kept cache is a fresh run's over the same text, with few slots."""
    folder, texts = checkpoint(model_type, tmp_path / "model"), []
    options = {"raw": True, "max_tokens": 12}
    with outlier_jupyter.load(folder, cache_experts=6, kernels="auto") as engine:
        engine.tokenizer.eos_token_ids = set()
        first = engine.generate("def f(x)", reuse_kv=True, **options)
        more = "def f(x)" + first.text + " and"
        texts = [engine.generate(more, reuse_kv=kept, **options).text for kept in (True, False)]
    assert texts[0] == texts[1]


def test_only_plain_float32_caches_are_owned():
    """Caches with padding, of several sequences, of 16 bits or of another kind are mlx-lm's."""
    state = RecurrentState([(1, 3, 8), (1, 2, 4, 4)])
    assert state.takes(ArraysCache(2)) and not state.takes(ArraysCache(3))
    assert not state.takes(None) and not state.takes(ArraysCache(2, left_padding=[1]))
    for array in (mx.zeros((2, 3, 8)), mx.zeros((1, 3, 8), mx.bfloat16)):
        cache = ArraysCache(2)
        cache[0] = array
        assert not state.takes(cache)


def test_memory_is_freed_with_its_cache():
    """A layer keeps no cache, and none of its arrays, beyond the run."""
    state, cache = RecurrentState([(1, 3, 8)]), ArraysCache(1)
    state.own(cache)
    kept = cache[0]
    state.own(cache)
    assert cache[0] is kept and len(state.addresses) == 1
    del cache
    assert state.addresses == []
