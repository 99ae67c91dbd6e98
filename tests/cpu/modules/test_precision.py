"""The kernels' distance from float32 is no larger than mlx-lm's own in bfloat16, model by model.

Both figures are those of whole models over held texts: the mean Kullback-Leibler divergence of a
token's distribution from float32's, and the share of tokens whose likeliest successor is float32's.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm import load as load_unpaged
from mlx_lm.models.cache import make_prompt_cache

import outlier_jupyter
from tests.models import CANNOT, checkpoint, model_types

DEMO = Path(outlier_jupyter.__file__).parent / "demo"
TEXTS = (
    "The harbour was quiet when the ferry came in. Two men carried a crate of oranges up the steps,"
    " and the keeper of the light, who had seen neither of them before, wrote both into his book.",
    "def median(numbers):\n    ordered = sorted(numbers)\n    middle = len(ordered) // 2\n"
    "    if len(ordered) % 2:\n        return ordered[middle]\n"
    "    return (ordered[middle - 1] + ordered[middle]) / 2\n",
    "What does a cache of experts do? It keeps those in memory that a model used lately, so that a"
    " token whose router asks for them need not wait for the disk. 12 + 30 = 42, and 7 * 8 = 56.",
)
TYPES = [name for name in model_types() if name not in CANNOT]


class Distance(NamedTuple):
    """A model's distance from float32."""

    divergence: float
    agreement: float


def log_probabilities(model: Any, texts: list[list[int]]) -> np.ndarray:
    """Each text's first half as a prompt, its second token by token: [tokens, vocabulary]."""
    rows = []
    for tokens in texts:
        cache, half = make_prompt_cache(model), len(tokens) // 2
        parts = (tokens[:half], *([token] for token in tokens[half:]))
        logits = (model(mx.array([part]), cache=cache)[0] for part in parts)
        rows += [np.array(each.astype(mx.float32)) for each in logits]
    found = np.concatenate(rows).astype(np.float64)
    found -= found.max(axis=1, keepdims=True)
    return found - np.log(np.exp(found).sum(axis=1, keepdims=True))


def distance(found: np.ndarray, wanted: np.ndarray) -> Distance:
    """Of distributions from those of float32."""
    divergence = (np.exp(wanted) * (wanted - found)).sum(axis=1).mean()
    return Distance(float(divergence), float((found.argmax(1) == wanted.argmax(1)).mean()))


def distances(folder: Path, texts: list[list[int]], slots: int) -> tuple[Distance, Distance]:
    """Of the kernels, and of mlx-lm in bfloat16."""
    model, _ = load_unpaged(str(folder))
    model.set_dtype(mx.float32)
    exact = log_probabilities(model, texts)
    model.set_dtype(mx.bfloat16)
    half = distance(log_probabilities(model, texts), exact)
    with outlier_jupyter.load(folder, cache_experts=slots, kernels="auto") as engine:
        return distance(log_probabilities(engine.model, texts), exact), half


def compare(ours: Distance, theirs: Distance, state: Any) -> None:
    """State both figures in the test's report; neither of the kernels' may be worse."""
    state("kernels", str(ours))
    state("mlx-lm in bfloat16", str(theirs))
    assert ours.divergence <= theirs.divergence, (ours, theirs)
    assert ours.agreement >= theirs.agreement, (ours, theirs)


def test_the_demo_model_is_as_near_float32_as_in_bfloat16(record_property):
    """Over texts that it was not trained on, with half of its experts in RAM."""
    tokenizer = load_unpaged(str(DEMO))[1]
    texts = [tokenizer.encode(text) for text in TEXTS]
    ours, theirs = distances(DEMO, texts, 96)
    compare(ours, theirs, record_property)
    assert ours.divergence < theirs.divergence / 10 and ours.agreement > 0.98


def test_keys_and_values_of_16_bits_are_as_near(tmp_path, record_property):
    """The demo model with all its floats in bfloat16: attention stores and multiplies bfloat16."""
    shutil.copytree(DEMO, tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    weights, notes = mx.load(str(file), return_metadata=True)
    half = {
        name: each.astype(mx.bfloat16) if each.dtype == mx.float32 else each
        for name, each in weights.items()
    }
    mx.save_safetensors(str(file), half, notes)
    tokenizer = load_unpaged(str(DEMO))[1]
    texts = [tokenizer.encode(text) for text in TEXTS]
    ours, theirs = distances(tmp_path / "model", texts, 96)
    compare(ours, theirs, record_property)
    assert ours.divergence < theirs.divergence / 5


@pytest.mark.parametrize("model_type", TYPES)
def test_every_architecture_is_as_near_float32_as_in_bfloat16(
    model_type, tmp_path, record_property
):
    """The same with random weights and random tokens."""
    folder = checkpoint(model_type, tmp_path / "model")
    texts = [np.random.default_rng(seed).integers(0, 256, 24).tolist() for seed in range(2)]
    compare(*distances(folder, texts, 8), record_property)
