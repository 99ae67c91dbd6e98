"""Attention over the KV cache, against float64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outlier_jupyter.cpu.kernels import Attend, Cached, attend, attention
from outlier_jupyter.cpu.kernels.tiles import pairs

from .conftest import run

PRECISION = {True: 2**-7, False: 1e-5}
"""Allowed difference, as a share of the largest value: queries and weights of pairs are rounded to
bfloat16, by up to 2⁻⁹, and e^score turns the queries' rounding into a larger one."""


def as_stored(values: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """The tokens as the cache stores them, and the values they then have."""
    if kind == "f32":
        return values, values.astype(np.float64)
    if kind == "f16":
        stored = values.astype(np.float16)
        return stored, stored.astype(np.float64)
    stored = (values.view(np.uint32) >> 16).astype(np.uint16)
    return stored, (stored.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def by_float64(
    queries: np.ndarray, keys: np.ndarray, values: np.ndarray, scale: float,
    sinks: np.ndarray | None, window: int,
) -> np.ndarray:  # fmt: skip
    """Causal attention of a cache's last tokens, with whole score matrices."""
    rows, heads, _ = queries.shape
    shared, tokens = heads // len(keys), keys.shape[1]
    keys, values = (np.repeat(part, shared, axis=0) for part in (keys, values))
    scores = np.einsum("rhd,htd->rht", queries.astype(np.float64), keys) * scale
    mine = np.arange(tokens - rows, tokens)[:, None]
    seen = (np.arange(tokens) <= mine) & (np.arange(tokens) > mine - window)
    scores = np.where(seen[:, None], scores, -np.inf)
    top = scores.max(axis=2, keepdims=True)
    weights = np.exp(scores - top)
    total = weights.sum(axis=2)
    if sinks is not None:
        total = total + np.exp(sinks - top[..., 0])
    return np.einsum("rht,htd->rhd", weights / total[..., None], values)


@given(data=st.data())
@settings(max_examples=40, deadline=None, derandomize=True)
def test_attention_is_that_of_float64(data):
    """Any heads, widths, lengths and windows, with sinks or without, in every type of cache."""
    kind = data.draw(st.sampled_from(["f32", "f16", "bf16"]), "kind")
    kv_heads, shared = (
        data.draw(st.integers(1, 3)),
        data.draw(st.sampled_from([1, 2, 4, 7, 8, 9, 20])),
    )
    width, wide = (data.draw(st.sampled_from([8, 20, 48, 64, 128])) for _ in "kv")
    first, tokens = data.draw(st.integers(0, 9)), data.draw(st.integers(1, 700))
    rows = data.draw(st.sampled_from([1, 1, 2, 17, 150]).filter(lambda n: n <= tokens), "rows")
    window = data.draw(st.sampled_from([1 << 62, 1, 100, 300]), "window")
    random = np.random.default_rng(tokens)
    room = first + tokens + 3
    k, keys = as_stored(random.normal(size=(kv_heads, room, width)).astype(np.float32), kind)
    v, values = as_stored(random.normal(size=(kv_heads, room, wide)).astype(np.float32), kind)
    queries = random.normal(size=(rows, kv_heads * shared, width)).astype(np.float32)
    sinks = random.normal(size=kv_heads * shared).astype(np.float32) if tokens % 2 else None
    cached = [Cached(part[:, first:], kind) for part in (k, v)]
    found = attend(queries, *cached, width**-0.5, sinks, tokens, window)
    wanted = by_float64(
        queries, *(part[:, first : first + tokens] for part in (keys, values)), width**-0.5, sinks,
        window,
    )  # fmt: skip
    assert np.abs(found - wanted).max() <= PRECISION[pairs(kind)] * np.abs(wanted).max()


@pytest.mark.parametrize("kind", ["f32", "bf16"])
def test_heads_that_do_not_divide_are_refused(kind):
    """Five query heads cannot share two key heads, and a query is as wide as a key."""
    stored, _ = as_stored(np.zeros((2, 4, 8), np.float32), kind)
    cached = Cached(stored, kind)
    for heads, width in ((5, 8), (4, 6)):
        with pytest.raises(ValueError, match="do not fit"):
            attend(np.zeros((1, heads, width), np.float32), cached, cached, 1.0)


@pytest.mark.parametrize("kind", ["f32", "bf16"])
def test_a_long_context_is_combined_from_its_chunks(kind, random):
    """One token over 3,000 others: its chunks together give what a prompt's last row has."""
    queries = random.normal(size=(2, 4, 64)).astype(np.float32)
    cached = [Cached(as_stored(random.normal(size=(2, 3000, 64)).astype(np.float32), kind)[0], kind)
              for _ in "kv"]  # fmt: skip
    alone = attend(queries[1:], *cached, 0.125)
    together = attend(queries, *cached, 0.125)
    assert np.abs(alone[0] - together[1]).max() <= PRECISION[pairs(kind)] * np.abs(alone).max()


@pytest.mark.parametrize("tiles", [True, False])
@pytest.mark.parametrize("kind", ["f32", "bf16"])
@pytest.mark.parametrize("tokens", [1, 37, 700])
def test_keys_may_have_two_parts(tiles, kind, tokens, monkeypatch, random):
    """As in latent attention, of any number of heads; with tile registers, if any, and without."""
    if not tiles:
        monkeypatch.setattr(attention, "tiles_permitted", lambda: False)
    heads, width, more, room = 20, 64, 32, tokens + 1
    queries, second = (
        random.normal(size=(1, heads, size)).astype(np.float32) for size in (width, more)
    )
    latent, keys = as_stored(random.normal(size=(1, room, width)).astype(np.float32), kind)
    turned, rest = as_stored(random.normal(size=(1, room, more)).astype(np.float32), kind)
    out = np.empty(heads * width, np.float32)
    attend_one = Attend(queries[0].ravel(), out, heads, 1, width, kind, 0.125, more=second.ravel())
    cached = Cached(latent, kind)
    attend_one.over(cached, cached, tokens, Cached(turned, kind))
    run(attend_one.link)
    whole = np.concatenate([keys, rest], axis=2)[:, :tokens]
    wanted = by_float64(np.concatenate([queries, second], axis=2), whole, keys[:, :tokens], 0.125,
                        None, 1 << 62)  # fmt: skip
    found = out.reshape(1, heads, width)
    assert np.abs(found - wanted).max() <= PRECISION[pairs(kind)] * np.abs(wanted).max()
