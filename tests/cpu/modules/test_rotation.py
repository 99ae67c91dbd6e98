"""Every fixed rotary embedding of mlx-lm turns heads as the kernel does."""

from __future__ import annotations

import json

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.rope_utils import initialize_rope

import outlier_jupyter
from outlier_jupyter.cpu.kernels import HeadRotation
from outlier_jupyter.cpu.modules.rotation import is_fixed, rotation_of
from outlier_jupyter.errors import UnsupportedModel
from outlier_jupyter.testing import tiny_checkpoint
from tests.models import checkpoint, tiny_config

YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "mscale": 0.7}
SCALINGS = [
    None,
    {"type": "linear", "factor": 2.0},
    {"type": "llama3", "factor": 8.0, "original_max_position_embeddings": 64},
    YARN,
    {"type": "longrope", "original_max_position_embeddings": 64, "short_factor": [1.0] * 16,
     "long_factor": [1.0 + n for n in range(16)]},
    {"type": "proportional", "partial_rotary_factor": 0.5},
]  # fmt: skip


@pytest.mark.parametrize("scaling", SCALINGS, ids=lambda scaling: scaling and scaling["type"])
@pytest.mark.parametrize("traditional", [False, True])
def test_heads_are_turned_as_by_mlx_lm(scaling, traditional):
    """Whole heads or their first coordinates, at several positions."""
    rope = initialize_rope(32, 10_000.0, traditional, scaling, max_position_embeddings=256)
    heads = np.random.default_rng(0).normal(size=(3, 48)).astype(np.float32)
    rotate = HeadRotation(3, 48, *rotation_of(rope))
    for position in (0, 1, 77, 200):
        found = heads.reshape(1, -1).copy()
        rotate(found, position)
        wanted = np.array(rope(mx.array(heads[None, :, None]), offset=position))[0, :, 0]
        assert np.abs(found.reshape(3, 48) - wanted).max() < 2e-5


def test_a_rotation_that_changes_with_the_text_is_not_fixed():
    """Its base grows with the number of tokens."""
    dynamic = {"type": "dynamic", "factor": 2.0}
    assert not is_fixed(initialize_rope(32, 1e4, False, dynamic, max_position_embeddings=64))


def test_a_model_with_yarn_is_native(tmp_path):
    """Its frequencies are read where MLX may evaluate them, not while kernels are compiled."""
    folder = checkpoint("gpt_oss", tmp_path / "m", tiny_config("gpt_oss") | {"rope_scaling": YARN})
    with outlier_jupyter.load(folder, cache_experts=4, kernels="auto") as engine:
        names = {type(module).__name__ for _, module in engine.model.named_modules()}
    assert {"NativeAttentionBlock", "NativeTransformerBlock"} <= names


def test_a_base_that_is_no_number_is_refused_by_a_sentence(tmp_path):
    """A config may say anything; it was another library's ValueError."""
    folder = tiny_checkpoint(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"rope_theta": "x"}))
    with pytest.raises(UnsupportedModel, match="cannot be computed as its config"):
        outlier_jupyter.load(folder, cache_experts=6, kernels="auto", quiet=True)
