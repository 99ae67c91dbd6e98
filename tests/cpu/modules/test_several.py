"""Several prompts that share calls, natively: each has its own cache, and its own logits."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm import load as load_unpaged
from mlx_lm.models.cache import make_prompt_cache

import outlier_jupyter
from outlier_jupyter.cpu.modules.rows_plan import RowsPlan
from outlier_jupyter.engine.batch_kv import kv_of
from tests.cpu.modules.clear import near
from tests.models import checkpoint

TYPES = ["qwen3_moe", "qwen2_moe", "olmoe", "mixtral", "glm4_moe", "minimax"]
LENGTHS = [1, 7, 2, 40, 5]


def prompts_of(lengths: list[int], number: int) -> list[list[int]]:
    """Prompts of random tokens."""
    random = np.random.default_rng(number)
    return [random.integers(0, 256, length).tolist() for length in lengths]


def shared_logits(model, prompts: list[list[int]], decoded: int) -> list[np.ndarray]:
    """As `tests.paging.test_exact.logits` of each, from calls that all prompts share."""
    each = [make_prompt_cache(model) for _ in prompts]
    kv = kv_of(model, each)
    found = [[] for _ in prompts]

    def call(pieces: list[list[int]]) -> None:
        laid = kv.lay(pieces)
        out = model(mx.array(laid.tokens), cache=kv.layers)[0]
        mx.eval(out)
        for mine, span in zip(found, laid.spans, strict=True):
            mine.append(np.array(out[span][-1:].astype(mx.float32)))

    call(prompts)
    for token in range(decoded):
        call([[token + 3] for _ in prompts])
    return [np.concatenate(mine) for mine in found]


def decoded_alone(model, tokens: list[int], decoded: int) -> np.ndarray:
    """The same of one prompt."""
    return shared_logits(model, [tokens], decoded)[0]


@pytest.mark.parametrize("model_type", TYPES)
@pytest.mark.parametrize("count", [2, 5])
def test_each_prompt_has_the_logits_of_its_own_call(model_type, count, tmp_path, monkeypatch):
    """With few slots and with all; from the second token on, layers run as chains of kernels."""
    folder = checkpoint(model_type, tmp_path / "model")
    unpaged = load_unpaged(str(folder))[0]
    ran = []
    decode = RowsPlan.decode
    monkeypatch.setattr(RowsPlan, "decode", lambda *each: ran.append(1) or decode(*each))
    for slots in (3, 32):
        with outlier_jupyter.load(folder, cache_experts=slots, kernels="auto") as engine:
            layers, agreed = len(engine.model.layers), 0
            for number in range(3):
                prompts = prompts_of(LENGTHS[:count], number)
                shared = shared_logits(engine.model, prompts, 3)
                for tokens, found in zip(prompts, shared, strict=True):
                    agreed += near(found, decoded_alone(unpaged, tokens, 3))
            assert agreed >= 3 * count - 1  # one may meet a tie, which processors break differently
    assert len(ran) == 2 * 3 * 3 * layers
