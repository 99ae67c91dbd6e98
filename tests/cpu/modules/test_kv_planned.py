"""A run takes the KV cache that the plan promises, with either kind of kernels."""

from __future__ import annotations

import mlx.core as mx
import pytest

import outlier_jupyter
from outlier_jupyter.testing import TINY_CONFIG, tiny_checkpoint
from tests.inspection import needs_of
from tests.models import tiny_config

TYPES = ("qwen3_moe", "deepseek_v3", "qwen3_next", "step3p5", "olmoe")
"""Plain attention, a latent, recurrence, a window, norms of all heads at once."""


@pytest.mark.parametrize("kernels", ["auto", "mlx"])
@pytest.mark.parametrize("model_type", TYPES)
def test_a_plan_promises_the_kv_cache_that_is_taken(model_type, kernels, tmp_path):
    """Compiled attention stores the weights' 16 bits, as mlx-lm does; MLX then float32."""
    folder = tiny_checkpoint(tmp_path / "m", base=tiny_config(model_type), dtype=mx.bfloat16)
    found = outlier_jupyter.plan(folder, kernels=kernels)
    with outlier_jupyter.load(folder, cache_experts=8, kernels=kernels) as engine:
        engine.tokenizer.eos_token_ids = set()
        engine.generate("x" * 1020, raw=True, max_tokens=4, reuse_kv=True)
        assert engine.memory().kv_kept == found.kv_fixed + 1024 * found.kv_per_token
        assert needs_of(engine).kv_run == found.kv_fixed + 4096 * found.kv_per_token


def test_four_layers_of_four_heads_take_8_kb_a_token(tmp_path):
    """A token is keys and values of every layer in 16 bits, with either kind of kernels."""
    config = TINY_CONFIG | {"num_hidden_layers": 4, "num_key_value_heads": 4, "head_dim": 128,
                            "num_attention_heads": 4, "hidden_size": 128}  # fmt: skip
    folder = tiny_checkpoint(tmp_path / "m", base=config, dtype=mx.bfloat16)
    assert outlier_jupyter.plan(folder).kv_per_token == 4 * 2 * 4 * 128 * 2
    assert outlier_jupyter.plan(folder, kernels="mlx").kv_per_token == 4 * 2 * 4 * 128 * 2
