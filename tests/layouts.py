"""Checkpoints as Hugging Face has them: the inverse of what mlx-lm's `sanitize` does to experts.

A `Layout` names and shapes a switch's experts in one of the ways found in published checkpoints.
Which model type takes which layout is not listed here: `taken` tries the model's `sanitize`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.models.switch_layers import SwitchGLU, SwitchMLP

from outlier_jupyter.testing import Tensors

Layout = Callable[[str, Tensors], Tensors]
"""(the switch's path, its tensors by the name below it) → the tensors to be written."""

SAME = {"gate_proj": "gate_proj", "up_proj": "up_proj", "down_proj": "down_proj"}
W123 = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}
MLP = {"fc1": "up_proj", "fc2": "down_proj"}
FC = {"fc1": "fc1", "fc2": "fc2"}


def block_of(path: str) -> str:
    return path.rpartition(".")[0]


def experts(path: str) -> str:
    """`experts` in the switch's block, which in some models is the switch itself."""
    return path if path.endswith(".experts") else f"{block_of(path)}.experts"


def beside(name: str) -> Callable[[str], str]:
    """A block beside the switch's own."""
    return lambda path: f"{block_of(block_of(path))}.{name}"


def one_by_one(base: Callable[[str], str], names: dict[str, str]) -> Layout:
    """One tensor per expert, `base.E.name.weight`."""

    def write(path: str, tensors: Tensors) -> Tensors:
        written = {}
        for name, stacked in tensors.items():
            projection, _, parameter = name.partition(".")
            for expert in range(stacked.shape[0]):
                key = f"{base(path)}.{expert}.{names[projection]}.{parameter}"
                written[key] = mx.contiguous(stacked[expert])
        return written

    return write


def fused(
    base: Callable[[str], str], join: Callable[[mx.array, mx.array], mx.array],
    turn: Callable[[mx.array], mx.array] = mx.contiguous,
    names: tuple[str, str] = ("gate_up_proj", "down_proj"),
) -> Layout:  # fmt: skip
    """Two tensors per layer, gate and up in one."""

    def write(path: str, tensors: Tensors) -> Tensors:
        gate, up, down = (tensors[f"{n}.weight"] for n in ("gate_proj", "up_proj", "down_proj"))
        return {
            f"{base(path)}.{names[0]}": mx.contiguous(turn(join(gate, up))),
            f"{base(path)}.{names[1]}": mx.contiguous(turn(down)),
        }

    return write


def rows(gate: mx.array, up: mx.array) -> mx.array:
    return mx.concatenate([gate, up], axis=-2)


def turned(array: mx.array) -> mx.array:
    return array.swapaxes(-1, -2)


def renamed(base: Callable[[str], str]) -> Layout:
    """MLX's stacked tensors under another block's name."""

    def write(path: str, tensors: Tensors) -> Tensors:
        return {f"{base(path)}.{name}": stacked for name, stacked in tensors.items()}

    return write


LAYOUTS: dict[str, Layout] = {
    "`experts.E.gate_proj`": one_by_one(experts, SAME),
    "`experts.E.w1`": one_by_one(experts, W123),
    "`block_sparse_moe.experts.E.w1`": one_by_one(
        lambda path: f"{beside('block_sparse_moe')(path)}.experts", W123
    ),
    "`experts.E.up_proj`, two matrices": one_by_one(experts, MLP),
    "`mlp.E.fc1`": one_by_one(lambda path: f"{block_of(path)}.mlp", FC),
    "`gate_up_proj`, rows joined": fused(experts, rows),
    "`gate_up_proj` on the layer, rows joined": fused(block_of, rows),
    "`gate_up_proj`, transposed": fused(experts, rows, turned),
    "`input_linear`, rows joined": fused(
        block_of, rows, names=("input_linear.weight", "output_linear.weight")
    ),
    "`moe.gate_proj`, stacked": renamed(beside("moe")),
}  # fmt: skip


def switches(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for path, module in model.named_modules():
        if isinstance(module, SwitchGLU | SwitchMLP):
            yield path, module


def rewritten(model: nn.Module, tensors: Tensors, layout: Layout) -> Tensors:
    """`tensors`, with those of every switch in `layout`."""
    written = dict(tensors)
    for path, _ in switches(model):
        prefix = f"{path}."
        mine = [name for name in tensors if name.startswith(prefix)]
        written |= layout(path, {name.removeprefix(prefix): written.pop(name) for name in mine})
    return written


def everywhere(layout: Layout) -> Callable[[nn.Module, Tensors], Tensors]:
    """What `tiny_checkpoint` takes to write all of a model's switches in `layout`."""
    return lambda model, tensors: rewritten(model, tensors, layout)


def taken(model: nn.Module) -> dict[str, Layout]:
    """The layouts that the model's `sanitize` converts to the model's own. Lazy."""
    found: dict[frozenset[str], tuple[str, Layout]] = {}
    wanted: Any = tree_flatten(model.parameters(), destination={})
    for name, layout in LAYOUTS.items():
        try:
            written = rewritten(model, wanted, layout)
            made = model.sanitize(dict(written)) if hasattr(model, "sanitize") else {}
        except (KeyError, ValueError, IndexError):
            continue
        same = {n: a.shape for n, a in made.items()} == {n: a.shape for n, a in wanted.items()}
        if same and written.keys() != wanted.keys():
            found.setdefault(frozenset(written), (name, layout))
    return dict(found.values())


def packed(stacked: mx.array, mode: str) -> tuple[mx.array, mx.array]:
    """Experts' matrices as bytes, as published checkpoints have them, and their scales."""
    weight, scales = mx.quantize(stacked, mode=mode)
    return weight.view(mx.uint8), scales


def woven(first: mx.array, second: mx.array, axis: int) -> mx.array:
    """The rows of both, interleaved."""
    return mx.flatten(mx.stack([first, second], axis + 1), axis, axis + 1)


def gpt_oss(path: str, tensors: Tensors) -> Tensors:
    """OpenAI's mxfp4: gate's and up's rows and biases interleaved, blocks of 16 bytes."""
    written = {}
    gate, up = tensors["gate_proj.weight"], tensors["up_proj.weight"]
    for name, matrix in (
        ("gate_up_proj", woven(gate, up, 1)),
        ("down_proj", tensors["down_proj.weight"]),
    ):
        weight, scales = packed(matrix, "mxfp4")
        written[f"{path}.{name}_blocks"] = mx.unflatten(weight, -1, (-1, 16))
        written[f"{path}.{name}_scales"] = scales
    written[f"{path}.gate_up_proj_bias"] = woven(
        tensors["gate_proj.bias"], tensors["up_proj.bias"], 1
    )
    written[f"{path}.down_proj_bias"] = tensors["down_proj.bias"]
    return written


def packed_one_by_one(
    base: Callable[[str], str], mode: str, weight_name: str, scale_name: str
) -> Layout:
    """An expert's bytes and its scales in a tensor each, as w1, w2 and w3."""

    def write(path: str, tensors: Tensors) -> Tensors:
        written = {}
        for name, w in W123.items():
            weight, scales = packed(tensors[f"{name}.weight"], mode)
            for expert in range(weight.shape[0]):
                written[f"{base(path)}.{expert}.{w}.{weight_name}"] = mx.contiguous(weight[expert])
                written[f"{base(path)}.{expert}.{w}.{scale_name}"] = mx.contiguous(scales[expert])
        return written

    return write


def muse_spark(model: nn.Module, tensors: Tensors) -> Tensors:
    """Experts in nvfp4, and the residual stream's gates, by which `sanitize` recognises them."""
    published = rewritten(model, tensors, _muse_experts)
    gates = {
        "add_attn": "post_attention_residual_gate",
        "add_ffn": "post_feedforward_residual_gate",
    }
    for name in list(published):
        for ours, theirs in gates.items():
            if name.endswith((f"{ours}_alpha", f"{ours}_beta")):
                published[f"{name.rpartition(ours)[0]}{theirs}.gate"] = published.pop(name)
    return published


def _muse_experts(path: str, tensors: Tensors) -> Tensors:
    """nvfp4 with gate and up joined, and a scale of each expert's matrix as a factor."""
    gate, up = tensors["gate_proj.weight"], tensors["up_proj.weight"]
    written = {name: t for name, t in tensors.items() if "norm" in name}
    written = {f"{path}.{name}": t for name, t in written.items()}
    for name, matrix in (
        ("gate_up_proj", rows(gate, up)),
        ("down_proj", tensors["down_proj.weight"]),
    ):
        written[f"{path}.{name}"], written[f"{path}.{name}_weight_scale"] = packed(matrix, "nvfp4")
    shape = (gate.shape[0], 2)
    written[f"{path}.gate_up_proj_weight_scale_2"] = mx.random.uniform(shape=shape)
    written[f"{path}.down_proj_weight_scale_2"] = mx.random.uniform(shape=shape[:1])
    return written


V41_NAMES = (
    (".gate.e_score_correction_bias", ".gate.bias"), (".indexer.k_proj.", ".indexer.wk."),
    (".compressor.kv_norm.", ".compressor.norm."), (".q_a_norm.", ".q_norm."),
    (".o_b_proj.", ".wo_b."), (".o_a_proj.", ".wo_a."), (".kv_proj.", ".wkv."),
    (".q_b_proj.", ".wq_b."), (".q_a_proj.", ".wq_a."), (".sinks", ".attn_sink"),
    (".ffn_hc.", ".hc_ffn_"), (".attn_hc.", ".hc_attn_"), ("lm_head.", "head."),
    (".post_attention_layernorm.", ".ffn_norm."), (".input_layernorm.", ".attn_norm."),
    (".shared_experts.gate_proj.", ".shared_experts.w1."), ("embed_tokens", "embed"),
    (".shared_experts.down_proj.", ".shared_experts.w2."), (".self_attn.", ".attn."),
    (".shared_experts.up_proj.", ".shared_experts.w3."), (".mlp.", ".ffn."),
    (".gate_proj.", ".wgate."),
)  # fmt: skip
"""mlx-lm's names of a deepseek_v41 → the published ones."""


def deepseek_v41(model: nn.Module, tensors: Tensors) -> Tensors:
    """DeepSeek's own names throughout, and experts one by one in fp4 with a scale per 32."""
    layout = packed_one_by_one(
        lambda path: f"{path.removesuffix('.switch_mlp')}", "mxfp4", "weight", "scale"
    )
    published = {}
    for name, tensor in rewritten(model, tensors, layout).items():
        name = name.removeprefix("model.")
        for ours, theirs in V41_NAMES:
            name = name.replace(ours, theirs)
        # wo_a is block diagonal, and published as one matrix.
        published[name] = mx.flatten(tensor, 0, 1) if ".wo_a." in name else tensor
    return published
