"""A token's time by architecture: nanoseconds a byte that it reads, against qwen3_moe's in turn.

    python -m benchmarks.architectures [--only qwen3_next …] [--rounds 8] [--keep]

Every model type has four layers of real width, all experts cached: hidden 2048, 64 experts of 768,
top-8 (gpt_oss top-4), 4 bits. `LARGE` are layers of published models, at their own widths. Files
are holes but for the dense weights, so experts add nothing and cost what they cost. Bytes are the
dense weights, the experts of a token, and nothing of the cache.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import Any

from mlx.utils import tree_flatten

import outlier_jupyter
from benchmarks.cli import parser, print_rows
from benchmarks.results import Row
from outlier_jupyter.benchmark.rounds import digits
from outlier_jupyter.engine.engine import Engine
from outlier_jupyter.engine.first_experts import read_all_experts
from outlier_jupyter.testing import hollow_checkpoint

TOKENS = 24
BASE = "qwen3_moe"
COMMON: dict[str, Any] = {
    "hidden_size": 2048, "num_hidden_layers": 4, "vocab_size": 8192, "moe_intermediate_size": 768,
    "num_experts": 64, "num_experts_per_tok": 8, "n_routed_experts": 64, "num_local_experts": 64,
    "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128, "rms_norm_eps": 1e-6,
    "max_position_embeddings": 4096, "rope_theta": 1e6, "norm_topk_prob": True,
    "intermediate_size": 6144, "decoder_sparse_step": 1, "mlp_only_layers": [],
    "tie_word_embeddings": False, "attention_bias": False,
}  # fmt: skip
DELTA: dict[str, Any] = {
    "linear_num_value_heads": 32, "linear_num_key_heads": 16, "linear_key_head_dim": 128,
    "linear_value_head_dim": 128, "linear_conv_kernel_dim": 4, "num_attention_heads": 16,
    "num_key_value_heads": 2, "head_dim": 256, "shared_expert_intermediate_size": 768,
    "partial_rotary_factor": 0.25,
}  # fmt: skip
GROUPS: dict[str, Any] = {
    "n_group": 8, "topk_group": 4, "routed_scaling_factor": 2.5, "n_shared_experts": 1,
    "first_k_dense_replace": 0, "moe_layer_freq": 1, "use_qk_norm": True, "rope_scaling": None,
}  # fmt: skip
LATENT: dict[str, Any] = GROUPS | {
    "num_attention_heads": 16, "num_key_value_heads": 16, "kv_lora_rank": 512,
    "q_lora_rank": 1536, "qk_rope_head_dim": 64, "v_head_dim": 128, "qk_nope_head_dim": 128,
}  # fmt: skip
KIMI: dict[str, Any] = LATENT | {
    "num_experts_per_token": 8, "num_shared_experts": 1, "num_expert_group": 1, "topk_group": 1,
    "model_max_length": 4096, "moe_renormalize": True, "moe_router_activation_func": "sigmoid",
    "linear_attn_config": {
        "kda_layers": [1, 2, 3], "full_attn_layers": [4], "num_heads": 32, "head_dim": 128,
        "short_conv_kernel_size": 4,
    },
}  # fmt: skip
CHANGES: dict[str, dict[str, Any]] = {
    BASE: {},
    "mixtral": {"intermediate_size": 768},
    "gpt_oss": {
        "num_experts_per_tok": 4, "intermediate_size": 768, "head_dim": 64, "rope_theta": 150000,
        "num_attention_heads": 64, "num_key_value_heads": 8, "sliding_window": 128,
    },
    "minimax": {
        "intermediate_size": 768, "rotary_dim": 64, "shared_intermediate_size": 0,
        "use_qk_norm": True, "scoring_func": "sigmoid",
    },
    "glm4_moe": GROUPS | {"partial_rotary_factor": 0.5},
    "qwen3_next": DELTA,
    "qwen3_5_moe": DELTA,
    "deepseek_v3": LATENT,
    "deepseek_v32": LATENT | {"index_head_dim": 128, "index_n_heads": 64, "index_topk": 2048},
    "glm4_moe_lite": LATENT | {"n_group": 1, "topk_group": 1},
    "kimi_linear": KIMI,
}  # fmt: skip
"""What differs from `COMMON`, by model type."""
LARGE: dict[str, dict[str, Any]] = {
    "gpt-oss-120b": CHANGES["gpt_oss"] | {
        "model_type": "gpt_oss", "hidden_size": 2880, "intermediate_size": 2880,
        "num_local_experts": 128, "num_hidden_layers": 4,
    },
    "DeepSeek-V3": LATENT | {
        "model_type": "deepseek_v3", "hidden_size": 7168, "intermediate_size": 18432,
        "moe_intermediate_size": 2048, "n_routed_experts": 256, "num_hidden_layers": 2,
        "num_attention_heads": 128, "num_key_value_heads": 128,
    },
}  # fmt: skip
"""Models at their own widths, with fewer layers and a vocabulary of 8,192."""


def config_of(name: str) -> dict[str, Any]:
    """The config of a model type, or of a name of `LARGE`."""
    config = {**COMMON, "model_type": name, **(CHANGES | LARGE)[name]}
    return {"model_type": name, "text_config": config} if name == "qwen3_5_moe" else config


def loaded(name: str, folder: Path) -> Engine:
    """The engine, with all experts cached."""
    hollow_checkpoint(folder, config_of(name), dense_seed=0)
    engine = outlier_jupyter.load(folder, cache_experts=64, kernels="auto", quiet=True)
    engine.resize(cache_experts=engine.status().experts)
    read_all_experts(engine)
    engine.tokenizer.eos_token_ids = set()
    return engine


def bytes_of(engine: Engine, k: int) -> int:
    """Bytes of weights that a token reads."""
    flat: Any = tree_flatten(engine.model.parameters())
    dense = sum(array.nbytes for name, array in flat if "embed_tokens" not in name)
    return dense + sum(k * nbytes for nbytes in engine.info.expert_nbytes)


def token_s(engine: Engine) -> float:
    """The time of a token that follows a short prompt: the least of a few, as others disturb."""
    calls = engine.generate("Hello", raw=True, max_tokens=TOKENS).trace.calls
    return float(calls["ns"][calls["phase"] == 1][4:].min()) / 1e9


def rows(names: list[str], rounds: int, folder: Path) -> Iterator[Row]:
    """A row for each model type."""
    with closing(loaded(BASE, folder / BASE)) as base:
        for name in names:
            with closing(loaded(name, folder / name)) as engine:
                k = engine.info.native_top_k
                read = {"it": bytes_of(engine, k), "base": bytes_of(base, 8)}
                found = [(token_s(base), token_s(engine)) for _ in range(rounds)]
            plain, mine = (median(each) for each in zip(*found, strict=True))
            ratios = [b / read["it"] / (a / read["base"]) for a, b in found]
            yield {
                "model_type": name, "token_ms": digits(1e3 * mine), "base_ms": digits(1e3 * plain),
                "mb": digits(read["it"] / 1e6), "gb_s": digits(read["it"] / 1e9 / mine),
                "per_byte": digits(median(ratios)), "rounds": rounds,
            }  # fmt: skip


def main() -> int:
    """Measure, and print a row for each type."""
    made = parser(__doc__, rounds=8)
    made.add_argument("--only", nargs="+", choices=CHANGES | LARGE, default=[*CHANGES, *LARGE][1:])
    asked = made.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print_rows("architectures", rows(asked.only, asked.rounds, Path(folder)), asked.keep)
    return 0


if __name__ == "__main__":
    sys.exit(main())
