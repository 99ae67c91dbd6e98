"""Attention over the KV cache, against float64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outlier_jupyter.cpu.kernels import Cached, attend, attend_causal
from outlier_jupyter.cpu.kernels import prefill_attention as causal

from .conftest import close


def as_stored(values: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """The tokens as the cache stores them, and the values they then have."""
    if kind == "f32":
        return values, values.astype(np.float64)
    if kind == "f16":
        stored = values.astype(np.float16)
        return stored, stored.astype(np.float64)
    stored = (values.view(np.uint32) >> 16).astype(np.uint16)
    return stored, (stored.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


@given(data=st.data())
@settings(max_examples=25, deadline=None, derandomize=True)
def test_attention_is_that_of_float64(data):
    """Any heads, widths, lengths and windows, with sinks or without, in every type of cache."""
    kind = data.draw(st.sampled_from(["f32", "f16", "bf16"]), "kind")
    kv_heads, shared = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 9))
    width, wide = (data.draw(st.sampled_from([8, 20, 48, 64, 128])) for _ in "kv")
    first, tokens = data.draw(st.integers(0, 9)), data.draw(st.integers(1, 700))
    random = np.random.default_rng(tokens)
    room = first + tokens + 3
    k, keys = as_stored(random.normal(size=(kv_heads, room, width)).astype(np.float32), kind)
    v, values = as_stored(random.normal(size=(kv_heads, room, wide)).astype(np.float32), kind)
    queries = random.normal(size=(kv_heads * shared, width)).astype(np.float32) * 2
    sinks = random.normal(size=len(queries)).astype(np.float32) if tokens % 2 else None
    cached = [Cached(part[:, first : first + tokens], kind) for part in (k, v)]
    found = attend(queries, *cached, 0.3, sinks)
    keys, values = (
        np.repeat(part[:, first : first + tokens], shared, axis=0) for part in (keys, values)
    )
    scores = np.einsum("hd,htd->ht", queries.astype(np.float64), keys) * 0.3
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    total = weights.sum(axis=1)
    if sinks is not None:
        total = total + np.exp(sinks - scores.max(axis=1))
    close(found, np.einsum("ht,htd->hd", weights / total[:, None], values))


def test_heads_that_do_not_divide_are_refused():
    """Five query heads cannot share two key heads."""
    cached = Cached(np.zeros((2, 4, 8), np.float32), "f32")
    with pytest.raises(ValueError, match="do not fit"):
        attend(np.zeros((5, 8), np.float32), cached, cached, 1.0)


@pytest.mark.parametrize("kind", ["f32", "bf16"])
@pytest.mark.parametrize("sunk", [False, True])
def test_a_prompt_sees_what_was_before_it(kind, sunk, random, monkeypatch):
    """Each token of a prompt has the attention it has alone, in one part or several."""
    past, tokens, kv_heads, shared, width = 53, 21, 2, 3, 20
    stored = [
        as_stored(random.normal(size=(kv_heads, past, width)).astype(np.float32), kind)[0]
        for _ in "kv"
    ]
    queries = random.normal(size=(tokens, kv_heads * shared, width)).astype(np.float32)
    sinks = random.normal(size=kv_heads * shared).astype(np.float32) if sunk else None
    cached = [Cached(part, kind) for part in stored]
    alone = [
        attend(
            row, *(Cached(part[:, : past - tokens + i + 1], kind) for part in stored), 0.3, sinks
        )
        for i, row in enumerate(queries)
    ]
    for room in (1 << 25, 1 << 13):
        monkeypatch.setattr(causal, "SCORES_BYTES", room)
        close(attend_causal(queries, *cached, 0.3, sinks), np.stack(alone))
