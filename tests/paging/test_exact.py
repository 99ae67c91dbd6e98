"""Paged logits are bit-identical to mlx-lm's unpaged logits, at every cache size.

This file tests one model type; test_types.py tests the others.
"""

from __future__ import annotations

import gc

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm import load as load_unpaged
from mlx_lm.models.cache import make_prompt_cache

import outlier_jupyter
from outlier_jupyter.options import READERS
from outlier_jupyter.paging import slot_bank
from outlier_jupyter.paging.slot_bank import StagedSlotBank
from tests.inspection import pager_of

PROMPT_LENGTHS = (1, 7, 33, 130)
CACHES = (1, 2, 3, 8, 24)
"""Slots for 3 layers × 8 experts, top-2: one, one token's in a layer, odd, a layer, all."""


def logits(model, tokens: list[int], decoded: int = 6) -> np.ndarray:
    """Logits of a prefill and of some decode steps with fixed tokens: [1 + decoded, vocabulary]."""
    cache = make_prompt_cache(model)
    rows = [model(mx.array([tokens]), cache=cache)[0, -1]]
    rows += [model(mx.array([[11 * step + 3]]), cache=cache)[0, -1] for step in range(decoded)]
    return np.stack([np.array(row.astype(mx.float32)) for row in rows])


def prompt(length: int) -> list[int]:
    return np.random.default_rng(length).integers(0, 256, length).tolist()


@pytest.mark.parametrize("slots", CACHES)
@pytest.mark.parametrize("bits", [4, 8, None])
def test_logits_are_those_of_the_unpaged_model(slots, bits, checkpoint_of):
    """Prefill of 1 to 130 tokens and decode are bit-identical at every cache size and format."""
    folder = checkpoint_of(bits=bits)
    reference, _ = load_unpaged(str(folder))
    with outlier_jupyter.load(folder, cache_experts=slots) as engine:
        for length in PROMPT_LENGTHS:
            expected = logits(reference, prompt(length))
            assert np.array_equal(logits(engine.model, prompt(length)), expected)


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
def test_half_precision_is_exact_too(dtype, checkpoint_of):
    """Quantised models that compute in bf16 and fp16 are exact, and their router weights are seen.

    (Unquantised experts in half precision cannot run on the CPU, paged or not: MLX's gather_mm
    takes only float32 there.)
    """
    folder = checkpoint_of(dtype=dtype)
    reference, _ = load_unpaged(str(folder))
    with outlier_jupyter.load(folder, cache_experts=3) as engine:
        expected = logits(reference, prompt(70), 3)
        assert np.array_equal(logits(engine.model, prompt(70), 3), expected)
        trace = engine.generate("abc", raw=True, max_tokens=2).trace
        assert np.allclose(trace.weights.sum(-1), 1, atol=0.01)


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_gives_the_same_bits(reader, checkpoint_of):
    """pread, direct and mmap fill the slots alike, over several shards."""
    folder = checkpoint_of(shards=3)
    reference, _ = load_unpaged(str(folder))
    with outlier_jupyter.load(folder, cache_experts=5, reader=reader) as engine:
        assert np.array_equal(logits(engine.model, prompt(40)), logits(reference, prompt(40)))


def test_staged_slots_give_the_same_bits(tiny, monkeypatch):
    """The bank for devices without a host view (CUDA's path) is exact, tested on the CPU."""
    monkeypatch.setattr(slot_bank, "SlotBank", StagedSlotBank)
    reference, _ = load_unpaged(str(tiny))
    with outlier_jupyter.load(tiny, cache_experts=3) as engine:
        assert isinstance(pager_of(engine).bank, StagedSlotBank)
        assert np.array_equal(logits(engine.model, prompt(70)), logits(reference, prompt(70)))


def test_two_calls_before_one_evaluation_do_not_share_a_slot(tiny):
    """The fence: a slot that an unevaluated output still reads is not overwritten.

    Two forward passes are built before either is evaluated, with too few slots for both.
    Without the fence the first would compute with the second's experts.
    """
    reference, _ = load_unpaged(str(tiny))
    first, second = mx.array([prompt(3)]), mx.array([prompt(5)])
    expected = [np.array(reference(tokens)) for tokens in (first, second)]
    with outlier_jupyter.load(tiny, cache_experts=2) as engine:
        lazy = [engine.model(first), engine.model(second)]
        mx.eval(lazy)
    for got, want in zip(lazy, expected, strict=True):
        assert np.array_equal(np.array(got), want)


def test_without_the_fence_the_race_is_real(tiny, monkeypatch):
    """Without the fence the same two passes give wrong results: the test above can fail."""
    monkeypatch.setattr(slot_bank.SlotBank, "reading", lambda self, array: None)
    reference, _ = load_unpaged(str(tiny))
    first, second = mx.array([prompt(3)]), mx.array([prompt(5)])
    with outlier_jupyter.load(tiny, cache_experts=8) as engine:
        lazy = [engine.model(first), engine.model(second)]
        mx.eval(lazy)
    assert not np.array_equal(np.array(lazy[0]), np.array(reference(first)))


def test_experts_are_never_loaded_as_whole_tensors(tiny):
    """After loading, MLX has the dense weights and the slots in memory, but not the experts."""
    gc.collect()  # other tests' reference cycles must not be freed during the measurement
    before = mx.get_active_memory()
    with outlier_jupyter.load(tiny, cache_experts=2) as engine:
        status = engine.status()
        active = mx.get_active_memory() - before
        assert status.resident == 0
        assert status.bank_nbytes == 2 * engine.info.expert_nbytes[0]
        assert status.dense_nbytes + status.bank_nbytes <= active < status.experts_nbytes
        names = [name for name, _ in engine.model.named_modules()]
        assert not any("gate_proj" in name for name in names)
