"""The shapes of published models, written by hand from their configs; no weights anywhere."""

from __future__ import annotations

from typing import Any

_QWEN3 = {
    "model_type": "qwen3_moe", "num_attention_heads": 32, "num_key_value_heads": 4,
    "head_dim": 128, "intermediate_size": 6144, "decoder_sparse_step": 1, "mlp_only_layers": [],
    "rms_norm_eps": 1e-6, "vocab_size": 151936, "rope_theta": 1e6, "norm_topk_prob": True,
    "tie_word_embeddings": False, "max_position_embeddings": 40960,
}  # fmt: skip
_QWEN35 = {
    "num_attention_heads": 32, "num_key_value_heads": 2, "head_dim": 256, "vocab_size": 248320,
    "linear_num_value_heads": 64, "linear_num_key_heads": 16, "linear_key_head_dim": 128,
    "linear_value_head_dim": 128, "max_position_embeddings": 262144,
}  # fmt: skip

CONFIGS: dict[str, dict[str, Any]] = {
    "Qwen3.5-397B-A17B": {
        "model_type": "qwen3_5_moe",
        "text_config": _QWEN35 | {
            "hidden_size": 4096, "num_hidden_layers": 60, "num_experts": 512,
            "num_experts_per_tok": 10, "moe_intermediate_size": 1024,
            "shared_expert_intermediate_size": 1024,
        },
    },
    "Qwen3.5-35B-A3B": {
        "model_type": "qwen3_5_moe",
        "text_config": _QWEN35 | {
            "hidden_size": 2048, "num_hidden_layers": 40, "num_experts": 256,
            "num_experts_per_tok": 8, "moe_intermediate_size": 512,
            "shared_expert_intermediate_size": 512, "num_attention_heads": 16,
            "linear_num_value_heads": 32,
        },
    },
    "Qwen3-30B-A3B": _QWEN3 | {
        "hidden_size": 2048, "num_hidden_layers": 48, "num_experts": 128,
        "num_experts_per_tok": 8, "moe_intermediate_size": 768,
    },
    "Qwen3-Next-80B-A3B": _QWEN3 | {
        "model_type": "qwen3_next", "hidden_size": 2048, "num_hidden_layers": 48,
        "num_experts": 512, "num_experts_per_tok": 10, "moe_intermediate_size": 512,
        "shared_expert_intermediate_size": 512, "num_attention_heads": 16,
        "num_key_value_heads": 2, "head_dim": 256, "linear_num_value_heads": 32,
        "linear_num_key_heads": 16, "linear_key_head_dim": 128, "linear_value_head_dim": 128,
        "linear_conv_kernel_dim": 4, "partial_rotary_factor": 0.25,
        "max_position_embeddings": 262144,
    },
    "OLMoE-1B-7B": {
        "model_type": "olmoe", "hidden_size": 2048, "num_hidden_layers": 16,
        "intermediate_size": 1024, "num_attention_heads": 16, "num_key_value_heads": 16,
        "rms_norm_eps": 1e-5, "vocab_size": 50304, "num_experts": 64, "num_experts_per_tok": 8,
        "max_position_embeddings": 4096, "tie_word_embeddings": False,
    },
    "Mixtral-8x7B": {"model_type": "mixtral", "max_position_embeddings": 32768},
    "gpt-oss-120b": {"model_type": "gpt_oss", "max_position_embeddings": 131072},
    "DeepSeek-V3": {
        "model_type": "deepseek_v3", "vocab_size": 129280, "hidden_size": 7168,
        "intermediate_size": 18432, "moe_intermediate_size": 2048, "num_hidden_layers": 61,
        "num_attention_heads": 128, "num_key_value_heads": 128, "n_shared_experts": 1,
        "n_routed_experts": 256, "routed_scaling_factor": 2.5, "n_group": 8, "topk_group": 4,
        "num_experts_per_tok": 8, "first_k_dense_replace": 3, "max_position_embeddings": 163840,
    },
    "GLM-4.5-Air": {
        "model_type": "glm4_moe", "vocab_size": 151552, "hidden_size": 4096,
        "intermediate_size": 10944, "max_position_embeddings": 131072,
        "moe_intermediate_size": 1408, "norm_topk_prob": True, "num_attention_heads": 96,
        "n_group": 1, "head_dim": 128, "topk_group": 1, "n_shared_experts": 1,
        "n_routed_experts": 128, "routed_scaling_factor": 1.0, "num_experts_per_tok": 8,
        "first_k_dense_replace": 1, "num_hidden_layers": 46, "num_key_value_heads": 8,
        "rms_norm_eps": 1e-5, "rope_theta": 1e6, "rope_scaling": None, "use_qk_norm": False,
        "tie_word_embeddings": False, "attention_bias": True, "partial_rotary_factor": 0.5,
    },
}  # fmt: skip
