"""Several prompts at once on every model type of mlx-lm: each prompt's tokens are its own run's."""

from __future__ import annotations

import numpy as np
import pytest

import outlier_jupyter
from tests.models import CANNOT, checkpoint, model_types

PROMPTS = ["ab", "What is an expert, and why is it paged?", "x" * 70]
OPTIONS = {"max_tokens": 6, "raw": True}
ALONE = {"deepseek_v41": "LayerCache", "llama4": "ChunkedKVCache", "longcat_flash_ngram": ""}
"""Types whose prompts run one after the other, and the cache that mlx-lm cannot merge."""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model_type", [each for each in model_types() if each not in CANNOT])
def test_each_prompt_s_tokens_and_experts_are_those_of_its_own_run(model_type, tmp_path):
    """Sliding windows, linear attention and latent attention too; what cannot share says so."""
    folder = checkpoint(model_type, tmp_path / model_type)
    with outlier_jupyter.load(folder, cache_experts=10, force=True, quiet=True) as engine:
        own = [engine.generate(prompt, **OPTIONS) for prompt in PROMPTS]
        many = engine.generate_many(PROMPTS, **OPTIONS)
    assert bool(many.alone) == (model_type in ALONE) and ALONE.get(model_type, "") in many.alone
    for one, other in zip(own, many, strict=True):
        np.testing.assert_array_equal(one.tokens, other.tokens)
        mine, its = (np.sort(run.trace.experts, axis=-1) for run in (one, other))
        np.testing.assert_array_equal(mine, its)
