"""What is known by name of families of models: the one table of it.

Most of a model is found by its shape: switches, routers, norms. What its shape does not tell stands
here: the names under which configs and modules keep things, and the classes of mlx-lm that the CPU
kernels can stand in for. To teach the package another family, `register` one more `MoeFamily`.

It knows names alone, and imports no model.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MoeFamily:
    """One family; the names of all families are tried on every model.

    Attributes:
        name: mlx-lm's module of it (`mlx_lm.models.<name>`), "" for what many families share.
        top_k: names under which configs keep the number of experts per token.
        router_top_k: further names under which routers and their blocks keep it.
        selection_biases: what is added to scores to select by, and to no weight.
        groups: the number of groups from the best of which experts are chosen.
        routers: parts of the names of routers, where a module's size alone does not tell.
        shared_experts: what blocks call an expert that every token goes through.
        norms: what decoder layers call the norm before their experts, the surest first.
        attention, layer, model: classes of `name` that the CPU kernels stand in for: attention (q,
            k, v; perhaps norms; rope; attention; o), a layer, and embedding, layers and norm.
        block: the layer's name for its sparse block.
        sums_to_one: whether a token's weights are normed where no attribute of the block says.
        fatal_top_k: numbers with which a router of `name` ends the process, unpaged too.
    """

    name: str = ""
    top_k: tuple[str, ...] = ()
    router_top_k: tuple[str, ...] = ()
    selection_biases: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    routers: tuple[str, ...] = ()
    shared_experts: tuple[str, ...] = ()
    norms: tuple[str, ...] = ()
    attention: str = ""
    layer: str = ""
    block: str = ""
    sums_to_one: bool = False
    model: str = ""
    fatal_top_k: tuple[int, ...] = ()


FAMILIES: dict[str, MoeFamily] = {}
"""By name."""


def register(family: MoeFamily) -> None:
    """Know one more family, or more of one."""
    FAMILIES[family.name] = family


def names(attribute: str) -> tuple[str, ...]:
    """The names of all families for one attribute of `MoeFamily`, each once."""
    found = (name for family in FAMILIES.values() for name in getattr(family, attribute))
    return tuple(dict.fromkeys(found))


def family_of(module: object) -> MoeFamily | None:
    """The family in whose file of mlx-lm the class of `module` stands, if it is known."""
    where = type(module).__module__
    return FAMILIES.get(where.rpartition(".")[2]) if where.startswith("mlx_lm.models.") else None


def known_as(module: object, attribute: str) -> MoeFamily | None:
    """The family of `module` where its class is the one named as `attribute` there, else None."""
    family = family_of(module)
    return family if family and getattr(family, attribute) == type(module).__name__ else None


register(
    MoeFamily(
        # Read off mlx-lm 0.32; those shared by many come first.
        top_k=("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_top_k", "moe_k",
               "top_k_experts"),
        router_top_k=("top_k", "k"),
        selection_biases=("e_score_correction_bias", "expert_bias", "router_bias"),
        groups=("n_group", "num_expert_group"),
        routers=("gate", "router"),
        shared_experts=("shared_expert", "shared_experts", "shared_mlp"),
        norms=("pre_mlp_layernorm", "pre_feedforward_layernorm", "post_attention_layernorm",
               "ffn_norm"),
    )
)  # fmt: skip
register(
    MoeFamily(
        "qwen3_moe",
        attention="Attention",
        layer="Qwen3MoeDecoderLayer",
        block="mlp",
        model="Qwen3MoeModel",
    )
)
register(
    MoeFamily(
        "qwen2_moe",
        attention="Attention",
        layer="Qwen2MoeDecoderLayer",
        block="mlp",
        model="Qwen2MoeModel",
    )
)
register(
    MoeFamily(
        "olmoe", attention="Attention", layer="TransformerBlock", block="mlp", model="OlmoeModel"
    )
)
register(
    MoeFamily(
        "mixtral",
        attention="MixtralAttention",
        layer="MixtralDecoderLayer",
        block="block_sparse_moe",
        sums_to_one=True,
        model="MixtralModel",
    )
)
register(MoeFamily("gpt_oss", attention="AttentionBlock"))
register(MoeFamily("llama", attention="Attention"))
register(MoeFamily("qwen3", attention="Attention"))
register(MoeFamily("bailing_moe", fatal_top_k=(1,)))
