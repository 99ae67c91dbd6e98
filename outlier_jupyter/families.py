"""The table of model families: what the package knows of them by name.

Switches and routers are mostly found by the model's shape. This table holds the rest: the
names that configs and modules use, and the mlx-lm classes that the CPU kernels replace. `register`
adds a family. The module holds names only and imports no model.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MoeFamily:
    """One family. Names are tried on every model, whichever family lists them.

    Attributes:
        name: its module in mlx-lm (`mlx_lm.models.<name>`); "" for names that many families share.
        top_k: config keys of the number of experts per token.
        router_top_k: further attributes of routers and their blocks for that number.
        selection_biases: biases that are added to the scores for selection, not to the weights.
        groups, top_groups: attributes of the number of expert groups, for routers that choose
            groups first, and of how many of them they choose.
        normalised, scales, score_functions: attributes of routers: whether weights are made to sum
            to 1, what they are multiplied by, and "sigmoid" or "softmax".
        routers: parts of router names, for modules that the size alone does not identify.
        shared_experts: attributes of the block's shared expert.
        attention, latent, delta, layer, block, gate, model: classes of `name` whose arithmetic the
            CPU kernels repeat: attention (q, k, v; optional norms; RoPE; attention; optional gate;
            o), latent attention, a gated delta net, a decoder layer (norm, one of these, norm,
            block or MLP), a sparse block, its gate where that is no linear layer, and the model
            (embedding to norm).
        sigmoid, sums_to_one: whether a block's scores are sigmoids, and whether its weights are
            made to sum to 1, where no attribute says so.
        fatal_top_k: values of top-k with which mlx-lm's router ends the process, paged or not.
    """

    name: str = ""
    top_k: tuple[str, ...] = ()
    router_top_k: tuple[str, ...] = ()
    selection_biases: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    top_groups: tuple[str, ...] = ()
    normalised: tuple[str, ...] = ()
    scales: tuple[str, ...] = ()
    score_functions: tuple[str, ...] = ()
    routers: tuple[str, ...] = ()
    shared_experts: tuple[str, ...] = ()
    attention: str = ""
    latent: str = ""
    delta: str = ""
    layer: str = ""
    block: str = ""
    gate: str = ""
    sigmoid: bool = False
    sums_to_one: bool = False
    model: str = ""
    fatal_top_k: tuple[int, ...] = ()


FAMILIES: dict[str, MoeFamily] = {}
"""By name."""


def register(family: MoeFamily) -> None:
    """Add a family, or replace the one of the same name."""
    FAMILIES[family.name] = family


def names(attribute: str) -> tuple[str, ...]:
    """All families' names for one attribute of `MoeFamily`, without duplicates."""
    found = (name for family in FAMILIES.values() for name in getattr(family, attribute))
    return tuple(dict.fromkeys(found))


def family_of(module: object) -> MoeFamily | None:
    """The family whose mlx-lm file defines the class of `module`; None for others."""
    file = type(module).__module__
    return FAMILIES.get(file.rpartition(".")[2]) if file.startswith("mlx_lm.models.") else None


def known_as(module: object, attribute: str) -> MoeFamily | None:
    """The family of `module` if its class is the family's `attribute` class, else None."""
    family = family_of(module)
    return family if family and getattr(family, attribute) == type(module).__name__ else None


register(
    MoeFamily(
        # From mlx-lm 0.32; the most common names come first.
        top_k=("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_top_k", "moe_k",
               "top_k_experts"),
        router_top_k=("top_k", "k"),
        selection_biases=("e_score_correction_bias", "expert_bias", "router_bias"),
        groups=("n_group", "num_expert_group"),
        top_groups=("topk_group",),
        normalised=("norm_topk_prob", "moe_renormalize"),
        scales=("routed_scaling_factor",),
        score_functions=("moe_router_activation_func",),
        routers=("gate", "router"),
        shared_experts=("shared_expert", "shared_experts", "shared_mlp"),
    )
)  # fmt: skip
register(
    MoeFamily(
        "qwen3_moe",
        attention="Attention",
        layer="Qwen3MoeDecoderLayer",
        block="Qwen3MoeSparseMoeBlock",
        model="Qwen3MoeModel",
    )
)
register(
    MoeFamily(
        "qwen2_moe",
        attention="Attention",
        layer="Qwen2MoeDecoderLayer",
        block="Qwen2MoeSparseMoeBlock",
        model="Qwen2MoeModel",
    )
)
register(
    MoeFamily(
        "olmoe",
        attention="Attention",
        layer="TransformerBlock",
        block="OlmoeSparseMoeBlock",
        model="OlmoeModel",
    )
)
register(
    MoeFamily(
        "mixtral",
        attention="MixtralAttention",
        layer="MixtralDecoderLayer",
        block="MixtralSparseMoeBlock",
        sums_to_one=True,
        model="MixtralModel",
    )
)
register(
    MoeFamily(
        "gpt_oss",
        attention="AttentionBlock",
        layer="TransformerBlock",
        block="MLPBlock",
        sums_to_one=True,
        model="GptOssMoeModel",
    )
)
register(
    MoeFamily(
        "qwen3_next",
        attention="Qwen3NextAttention",
        delta="Qwen3NextGatedDeltaNet",
        layer="Qwen3NextDecoderLayer",
        block="Qwen3NextSparseMoeBlock",
        model="Qwen3NextModel",
    )
)
register(
    # Its attention and its block are qwen3_next's.
    MoeFamily("qwen3_5", delta="GatedDeltaNet", layer="DecoderLayer", model="Qwen3_5TextModel")
)
register(
    MoeFamily(
        "glm4_moe",
        attention="Attention",
        layer="DecoderLayer",
        block="MoE",
        gate="MoEGate",
        sigmoid=True,
        model="LanguageModel",
    )
)
register(
    MoeFamily(
        "minimax",
        attention="MiniMaxAttention",
        layer="MiniMaxDecoderLayer",
        block="MiniMaxSparseMoeBlock",
        sigmoid=True,
        sums_to_one=True,
        model="MiniMaxModel",
    )
)
register(
    MoeFamily(
        "deepseek_v3",
        latent="DeepseekV3Attention",
        layer="DeepseekV3DecoderLayer",
        block="DeepseekV3MoE",
        gate="MoEGate",
        sigmoid=True,
        model="DeepseekV3Model",
    )
)
register(
    MoeFamily(
        "deepseek_v32",
        latent="DeepseekV32Attention",
        layer="DeepseekV32DecoderLayer",
        block="DeepseekV32MoE",
        gate="MoEGate",
        sigmoid=True,
        model="DeepseekV32Model",
    )
)
register(
    MoeFamily(
        "glm4_moe_lite",
        latent="Glm4MoeLiteAttention",
        layer="Glm4MoeLiteDecoderLayer",
        block="Glm4MoeLiteMoE",
        gate="MoEGate",
        sigmoid=True,
        model="Glm4MoeLiteModel",
    )
)
register(
    MoeFamily(
        "kimi_linear",
        latent="KimiMLAAttention",
        delta="KimiDeltaAttention",
        layer="KimiDecoderLayer",
        block="KimiSparseMoE",
        model="KimiLinearModel",
    )
)
register(MoeFamily("llama", attention="Attention"))
register(MoeFamily("qwen3", attention="Attention"))
register(MoeFamily("bailing_moe", fatal_top_k=(1,)))
