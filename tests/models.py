"""Tiny random checkpoints of every model type in the installed mlx-lm that builds a switch.

The types are found by reading mlx-lm's own modules, so that a new one is included by itself. One
dictionary of tiny values serves them all: a type's config is the part of it whose names its
module, or a module it builds on, mentions. A type that cannot be built from that fails with a
sentence that says what to add here.
"""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path
from typing import Any

import mlx_lm.models
from mlx_lm.models.switch_layers import SwitchGLU, SwitchMLP

from outlier_jupyter.testing import tiny_checkpoint

MODELS = Path(next(iter(mlx_lm.models.__path__)))
LAYERS = 3
EXPERTS = 8
TOP_K = 2
SPREAD = ("qwen3_moe", "mixtral", "gpt_oss")
"""Types whose experts the tests spread over ranks, beside the demo."""

TINY: dict[str, Any] = {
    # widths
    "hidden_size": 64, "model_dim": 64, "head_dim": 32, "v_head_dim": 32, "kv_lora_rank": 32,
    "q_lora_rank": 32, "qk_nope_head_dim": 32, "qk_rope_head_dim": 32, "qk_head_dim": 64,
    "intermediate_size": 64, "ffn_hidden_size": 64, "expert_ffn_hidden_size": 64,
    "moe_intermediate_size": 64, "shared_expert_intermediate_size": 64,
    "moe_shared_expert_intermediate_size": 64, "shared_intermediate_size": 64,
    "share_expert_dim": 64, "intermediate_size_mlp": 64, "rotary_dim": 32,
    # counts
    "num_hidden_layers": LAYERS, "num_layers": LAYERS, "vocab_size": 260, "num_vocab": 260,
    "num_attention_heads": 2, "num_heads": 2, "num_key_value_heads": 2, "num_attention_groups": 2,
    "num_experts": EXPERTS, "num_local_experts": EXPERTS, "n_routed_experts": EXPERTS,
    "moe_num_experts": EXPERTS, "num_experts_per_tok": TOP_K, "num_experts_per_token": TOP_K,
    "moe_topk": TOP_K, "moe_top_k": TOP_K, "moe_k": TOP_K, "top_k_experts": TOP_K,
    "n_shared_experts": 1, "num_shared_experts": 1, "num_shared_expert": 1,
    "moe_num_shared_experts": 1, "max_position_embeddings": 4096, "n_group": 2, "topk_group": 1,
    "num_expert_group": 2, "num_nextn_predict_layers": 0,
    # which layers are what
    "first_k_dense_replace": 1, "decoder_sparse_step": 1, "moe_layer_freq": 1,
    "mlp_only_layers": [], "num_dense_layers": 1, "sliding_window": 64,
    # the rest
    "rms_norm_eps": 1e-6, "layer_norm_epsilon": 1e-6, "layernorm_epsilon": 1e-6, "norm_eps": 1e-6,
    "rope_theta": 10_000.0, "norm_topk_prob": True, "attention_bias": False, "mlp_bias": False,
    "use_bias": False, "tie_word_embeddings": False, "routed_scaling_factor": 1.5,
    "moe_routed_scaling_factor": 1.5,
}  # fmt: skip
"""Name of a config's field → its tiny value, for all types."""

FULL, SLIDING, LINEAR = "full_attention", "sliding_attention", "linear_attention"
GRANITE = {
    "embedding_multiplier": 1.0, "attention_multiplier": 0.2, "logits_scaling": 1.0,
    "residual_multiplier": 0.22,
}  # fmt: skip
LINEAR_ATTENTION = {
    "linear_num_value_heads": 2, "linear_num_key_heads": 2, "linear_key_head_dim": 32,
    "linear_value_head_dim": 32, "linear_conv_kernel_dim": 4, "full_attention_interval": 2,
}  # fmt: skip
KDA = {"kda_layers": [1, 3], "full_attn_layers": [2], "num_heads": 2, "head_dim": 32,
       "short_conv_kernel_size": 4}  # fmt: skip
MAMBA = {"mamba_d_conv": 4, "mamba_d_state": 32, "mamba_proj_bias": False, "mamba_conv_bias": True}
GEMMA = {
    "enable_moe_block": True, "num_kv_shared_layers": 0, "hidden_size_per_layer_input": 0,
    "layer_types": [SLIDING, FULL, SLIDING], "global_head_dim": 32,
}  # fmt: skip
LONGCAT = {"zero_expert_num": 2, "zero_expert_type": "identity", "mla_scale_q_lora": True,
           "mla_scale_kv_lora": True, "attention_method": "MLA"}  # fmt: skip
OVERRIDES: dict[str, dict[str, Any]] = {
    "afmoe": {"layer_types": [SLIDING, FULL, SLIDING]},
    "bailing_hybrid": {"layer_group_size": 2, "group_norm_size": 2, "partial_rotary_factor": 1.0},
    "bailing_moe_linear": {"layer_group_size": 2, "group_norm_size": 2},
    "deepseek_v2": {"topk_method": "group_limited_greedy",
                    "rope_scaling": {"type": "yarn", "factor": 2.0,
                                     "original_max_position_embeddings": 2048}},
    "deepseek_v32": {"index_topk": 64},
    "deepseek_v41": {"o_groups": 2, "o_lora_rank": 32, "index_n_heads": 2, "index_head_dim": 32},
    "exaone_moe": {"layer_types": [SLIDING, FULL, SLIDING], "is_moe_layer": [False, True, True]},
    "gemma4": GEMMA,
    "gemma4_text": GEMMA,
    "glm4_moe": {"rope_scaling": None, "use_qk_norm": True, "partial_rotary_factor": 0.5},
    "glm_moe_dsa": {"index_head_dim": 32, "index_n_heads": 2, "index_topk": 64,
                    "topk_method": "noaux_tc", "scoring_func": "sigmoid",
                    "rope_parameters": {"rope_theta": 10_000.0, "type": "default"}},
    "granitemoe": GRANITE,
    "granitemoehybrid": GRANITE | MAMBA | {"mamba_n_heads": 4, "mamba_d_head": 32,
                                           "mamba_n_groups": 1,
                                           "layer_types": ["mamba", "attention", "mamba"]},
    "hunyuan": {"use_mixed_mlp_moe": True, "use_qk_norm": True, "use_cla": True,
                "cla_share_factor": 2,
                "rope_scaling": {"type": "dynamic", "factor": 1.0, "alpha": 1.0}},
    "jamba": MAMBA | {"attn_layer_offset": 1, "attn_layer_period": 2, "expert_layer_offset": 0,
                      "expert_layer_period": 2, "mamba_expand": 2},
    "kimi_k3": {"linear_attn_config": KDA, "routed_expert_hidden_size": 32,
                "latent_moe_use_norm": True},
    "kimi_linear": {"linear_attn_config": KDA, "model_max_length": 4096},
    "lfm2_moe": {"use_expert_bias": True, "conv_bias": False, "conv_L_cache": 3,
                 "full_attn_idxs": [1]},
    "llama4": {"attention_chunk_size": 64, "interleave_moe_layer_step": 1, "rope_scaling": None,
               "use_qk_norm": True, "num_experts_per_tok": 1, "num_hidden_layers": 4},
    "longcat_flash": LONGCAT,
    "longcat_flash_ngram": LONGCAT,
    "mellum": {"layer_types": [SLIDING, FULL, SLIDING],
               "rope_parameters": {FULL: {"rope_type": "default", "rope_theta": 10_000.0},
                                   SLIDING: {"rope_type": "default", "rope_theta": 10_000.0}}},
    "mimo_v2_flash": {"hybrid_layer_pattern": [0, 1, 0], "moe_layer_freq": [0, 1, 1],
                      "add_swa_attention_sink_bias": True, "add_full_attention_sink_bias": False,
                      "sliding_window_size": 64, "topk_method": "noaux_tc",
                      "scoring_func": "sigmoid", "swa_rope_theta": 10_000.0,
                      "swa_num_attention_heads": 2, "swa_num_key_value_heads": 2,
                      "swa_head_dim": 32, "swa_v_head_dim": 32, "partial_rotary_factor": 1.0},
    "minimax_m3_vl": {"moe_layer_freq": [0, 1, 1], "dense_intermediate_size": 64},
    "mistral4": {"rope_parameters": {"type": "default", "rope_theta": 10_000.0,
                                     "llama_4_scaling_beta": 0.1,
                                     "original_max_position_embeddings": 2048}},
    "muse_spark": {"post_norm_eps": 1e-6, "rope_parameters": {"rope_theta": 10_000.0},
                   "layer_rope_theta": [10_000.0] * LAYERS, "layer_types": [SLIDING, FULL, SLIDING],
                   "final_logit_softcapping": 30.0, "output_multiplier": 1.0,
                   "moe_hidden_size": 32, "num_shared_experts": 0},
    "nemotron_h": MAMBA | {"mamba_num_heads": 4, "mamba_head_dim": 32, "ssm_state_size": 32,
                           "conv_kernel": 4, "n_groups": 1, "use_conv_bias": True,
                           "layers_block_type": ["mamba", "moe", "attention", "moe"],
                           "moe_latent_size": 32},
    "prism_hadamard_qwen35": LINEAR_ATTENTION | {"hidden_size": 128, "moe_intermediate_size": 128},
    "qwen3_5": LINEAR_ATTENTION,
    "qwen3_5_moe": LINEAR_ATTENTION,
    "qwen3_next": LINEAR_ATTENTION | {"partial_rotary_factor": 1.0},
}  # fmt: skip
"""Type → config fields that differ from the tiny ones, or are additional."""

AROUND: dict[str, dict[str, Any]] = {
    "gemma4": {"vocab_size": 260},
    "muse_spark": {"audio_config": {"out_hidden_size": 64}},
    "prism_hadamard_qwen35": {
        "schema_version": 1, "tensor_namespace": "mlx-lm-text",
        "modules": [{"path": "lm_head", "embedding": False, "dtype": "float16", "block": 0}],
        "quantization": {"bits": 2, "group_size": 128, "mode": "affine"},
    },
}  # fmt: skip
"""Type → the fields beside text_config in a config that has one."""

BITS = {"prism_hadamard_qwen35": {"bits": 2, "group_size": 128}}
"""Type → the quantisation that it requires."""

INNER = {"mistral3": "mistral4"}
"""Type of a wrapper → the type of its text_config, where that selects the model."""

CANNOT: dict[str, str] = {
    "muse_spark": "its attention and its experts' norm are Metal kernels, with no CPU fallback",
}
"""Type → why mlx-lm itself cannot build it tiny, or run it on the CPU."""


@functools.cache
def source(module: str) -> str:
    return (MODELS / f"{module}.py").read_text()


@functools.cache
def bases(module: str) -> frozenset[str]:
    """The modules of mlx_lm.models that `module` builds on, itself included."""
    found = {module}
    for node in ast.walk(ast.parse(source(module))):
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            names = [node.module] if node.module else [alias.name for alias in node.names]
            for name in names:
                if (MODELS / f"{name}.py").exists():
                    found |= bases(name)
    return frozenset(found)


@functools.cache
def model_types() -> list[str]:
    """Every module of mlx-lm that has a Model and builds on a switch."""
    pattern = re.compile(rf"({SwitchGLU.__name__}|{SwitchMLP.__name__})\(")
    names = [path.stem for path in sorted(MODELS.glob("*.py")) if path.stem != "switch_layers"]
    switched = {name for name in names if pattern.search(source(name))}
    return [name for name in names if "class Model(" in source(name) and bases(name) & switched]


def tiny_config(model_type: str) -> dict[str, Any]:
    """A config of `model_type`: the tiny values its modules mention, and its own differences."""
    inner = INNER.get(model_type, model_type)
    spoken = set(re.findall(r"\w+", "".join(source(name) for name in bases(model_type))))
    flat = {name: value for name, value in TINY.items() if name in spoken}
    flat |= OVERRIDES.get(inner, {})
    if not any(re.search(r"^    text_config:", source(name), re.M) for name in bases(model_type)):
        return {"model_type": model_type, **flat}
    text = {"model_type": inner, **flat}
    return {"model_type": model_type, "text_config": text, **AROUND.get(model_type, {})}


def checkpoint(model_type: str, folder: Path, config: dict[str, Any] | None = None) -> Path:
    """Write a tiny random checkpoint of `model_type` to `folder`, and return it.

    `config` replaces the type's tiny one.

    Raises:
        AssertionError: mlx-lm cannot build the type from the values here.
    """
    try:
        return tiny_checkpoint(
            folder, base=config or tiny_config(model_type), **BITS.get(model_type, {})
        )
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise AssertionError(
            f"mlx-lm does not build a {model_type} from the tiny config of tests/models.py "
            f"({type(error).__name__}: {error}): add the field's tiny value to TINY, or to "
            f"OVERRIDES[{model_type!r}]"
        ) from error
