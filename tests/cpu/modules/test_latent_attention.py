"""Latent attention continues mlx-lm's cache token by token, with mlx-lm's logits."""

from __future__ import annotations

import copy

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm import load as load_unpaged
from mlx_lm.models.cache import make_prompt_cache

import outlier_jupyter
from outlier_jupyter.cpu.modules.decoder_layer import plans
from outlier_jupyter.testing import tiny_checkpoint
from tests.cpu.modules.clear import near
from tests.cpu.modules.test_precision import distances
from tests.models import checkpoint, tiny_config

YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "mscale": 1.0,
        "mscale_all_dim": 0.5}  # fmt: skip
LARGER = {"kv_lora_rank": 96, "v_head_dim": 64, "qk_nope_head_dim": 64, "num_attention_heads": 12}
"""Sizes that need several vectors, and heads that no kernel's block is full of."""


@pytest.mark.parametrize(
    ("model_type", "change"),
    [
        ("deepseek_v3", LARGER | {"rope_scaling": YARN}),
        ("deepseek_v3", LARGER | {"q_lora_rank": None}),
        ("deepseek_v32", LARGER | {"index_topk": 200, "rope_scaling": YARN}),
        ("glm4_moe_lite", LARGER),
        ("kimi_linear", {}),
    ],
    ids=str,
)
def test_a_cache_is_grown_trimmed_and_copied(model_type, change, tmp_path):
    """Over several of its growth steps, a trim, and beside a copy of it."""
    folder = checkpoint(model_type, tmp_path / "model", tiny_config(model_type) | change)
    plain, found = load_unpaged(str(folder))[0], []
    tokens = np.random.default_rng(0).integers(0, 250, 300).tolist()
    with outlier_jupyter.load(folder, resident=True, kernels="auto") as engine:
        for model in (plain, engine.model):
            cache, seen = make_prompt_cache(model), []

            def read(some, cache, model=model):
                return np.array(model(mx.array([some]), cache=cache)[0, -1])

            read(tokens[:150], cache)
            seen += [read([token], cache) for token in tokens[150:160]]
            if model is not plain:
                ready = [
                    plan.can_reserve(each)
                    for plan, each in zip(plans(model.layers), cache, strict=True)
                ]
                assert all(ready)
            seen += [read([token], cache) for token in tokens[160:]]
            branch = copy.deepcopy(cache)
            if all(layer.is_trimmable() for layer in cache):
                for layer in cache:
                    layer.trim(40)
            for token in (1, 2, 3):
                seen += [read([token], cache), read([token + 9], branch)]
            found.append(np.stack(seen))
    apart = [not near(one, other) for one, other in zip(found[1], found[0], strict=True)]
    # Beyond `index_topk` tokens which ones are read is a choice, and one near a tie may be another;
    # one token of kimi_linear amplifies rounding fivefold, to just the tolerance.
    assert sum(apart) <= (4 if "index_topk" in change else model_type == "kimi_linear")


@pytest.mark.parametrize(
    "model_type", ["deepseek_v3", "deepseek_v32", "glm4_moe_lite", "kimi_linear"]
)
def test_latents_have_the_sixteen_bits_of_the_weights(model_type, tmp_path):
    """In prompts, tokens, and prompts after tokens; the model is then no further from float32."""
    folder = tiny_checkpoint(tmp_path / "model", base=tiny_config(model_type), dtype=mx.bfloat16)
    tokens = np.random.default_rng(1).integers(0, 250, 340).tolist()
    parts = [tokens[:40], *([each] for each in tokens[40:48]), tokens[48:330], tokens[330:331]]
    with outlier_jupyter.load(folder, resident=True, kernels="auto") as engine:
        cache = make_prompt_cache(engine.model)
        for part in parts:
            mx.eval(engine.model(mx.array([part]), cache=cache))
            for layer in cache:
                first = getattr(layer, "caches", (layer,))[0]
                if hasattr(first, "keys"):
                    assert first.keys.dtype == first.values.dtype == mx.bfloat16
    ours, theirs = distances(folder, [tokens[:90], tokens[90:180]], 64)
    assert ours.divergence <= theirs.divergence
