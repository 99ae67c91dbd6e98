"""A whole decoder layer for one new token, with nothing of it left for MLX to evaluate.

For the classes of `KNOWN`, which are all of one shape: norm, attention, norm, router, experts,
perhaps a shared expert. What their small operations cost in MLX, an evaluation each time the graph
is cut, is more than they compute. The experts are asked of the paged switch as ever, and the
router's weights pass by its tap; the ids of a token come in the order of their weights.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..kernels import Stack, blend, choose, norm
from .arrays import F32s, as_rows
from .classes import native_class
from .growing import takes_float32

KNOWN = {
    ("qwen3_moe", "Qwen3MoeDecoderLayer"): "mlp",
    ("qwen2_moe", "Qwen2MoeDecoderLayer"): "mlp",
    ("olmoe", "TransformerBlock"): "mlp",
    ("mixtral", "MixtralDecoderLayer"): "block_sparse_moe",
}
"""(module, class) of mlx-lm → the name of its sparse block."""


class Norm:
    """An RMS norm of one row."""

    def __init__(self, module: Any) -> None:
        self._weight = as_rows(module.weight)[0].copy()
        self._epsilon = float(module.eps)

    def __call__(self, x: F32s) -> F32s:
        """x [1, width], normed."""
        return norm(x, self._weight, self._epsilon)


class Shared:
    """The expert that every token goes through, in proportion to a gate."""

    def __init__(self, block: Any, stacks: dict[int, Stack]) -> None:
        expert = block.shared_expert
        self._gate_and_up = stacks[id(expert.gate_proj)]
        self._down, self._gate = stacks[id(expert.down_proj)], stacks[id(block.shared_expert_gate)]

    def __call__(self, x: F32s) -> F32s:
        """x [1, width] → [1, width]."""
        both = self._gate_and_up.multiply(x)
        gate, up = np.split(both, 2, axis=1)
        out = self._down.multiply(gate / (1 + np.exp(-gate)) * up)
        found: F32s = out / (1 + np.exp(-self._gate.multiply(x)))
        return found


class Plan:
    """What one layer is made of."""

    def __init__(self, layer: Any, stacks: dict[int, Stack]) -> None:
        block = layer[KNOWN[_where(layer)]]
        self.attention = layer.self_attn._plan
        self.before, self.after = Norm(layer.input_layernorm), Norm(layer.post_attention_layernorm)
        self.router = stacks[id(block.gate)]
        self.k = int(block.top_k if hasattr(block, "top_k") else block.num_experts_per_tok)
        # Mixtral takes its softmax over the chosen ones, which is the same as making them sum to 1.
        self.sums_to_one = bool(getattr(block, "norm_topk_prob", _where(layer)[0] == "mixtral"))
        self.shared = Shared(block, stacks) if "shared_expert" in block else None
        self.gate, self.experts = block.gate, block.switch_mlp

    def decode(self, x: F32s, cache: Any) -> F32s:
        """x [1, width] → [1, width]."""
        x = x + self.attention.decode(self.before(x), cache)
        normed = self.after(x)
        chosen, weights = choose(self.router.multiply(normed), self.k, self.sums_to_one)
        beside: list[F32s] = []  # what is computed while experts are read
        shared = self.shared
        outputs = self.experts.decode(
            normed, chosen[None], weights[None],
            None if shared is None else lambda: beside.append(shared(normed)),
        )  # fmt: skip
        x = blend(x, weights, outputs[0])
        return x + beside[0] if beside else x


class _Layer:
    """What a decoder layer does when it computes natively."""

    _plan: Plan

    def __call__(self, x: mx.array, mask: Any = None, cache: Any = None) -> mx.array:
        # A router whose choice is changed (paging/steering.py) is asked in its own words.
        own = not getattr(self._plan.gate, "steered", False)
        if own and mask is None and x.shape[:2] == (1, 1) and takes_float32(cache):
            return mx.array(self._plan.decode(as_rows(x), cache)[None])
        return super().__call__(x, mask, cache)  # type: ignore[misc,no-any-return]  # the other base has it


class _FinalNorm:
    """What the norm after the last layer does: of one token, which lies in memory, at once."""

    _norm: Norm

    def __call__(self, x: mx.array) -> mx.array:
        if x.shape[:2] == (1, 1) and x.dtype == mx.float32:
            return mx.array(self._norm(as_rows(x))[None])
        return super().__call__(x)  # type: ignore[misc,no-any-return]  # the other base has it


def swap_final_norm(model: nn.Module) -> None:
    """Have the norm of `model` compute natively, if it comes after layers that all do."""
    norm, layers = model.get("norm"), model.get("layers") or ()
    if layers and type(norm) is nn.RMSNorm and all(isinstance(each, _Layer) for each in layers):
        object.__setattr__(norm, "_norm", Norm(norm))
        norm.__class__ = native_class(_FinalNorm, nn.RMSNorm)


def can_swap(layer: nn.Module) -> bool:
    """Whether the layer is one that is known here, with experts that are paged."""
    where = _where(layer)
    return where in KNOWN and hasattr(layer[KNOWN[where]].get("switch_mlp"), "decode")


def swap_layer(layer: Any, stacks: dict[int, Stack]) -> None:
    """Have a layer decode natively; its attention must already.

    Args:
        stacks: the id of each of the model's linear layers that is native → its matrices.
    """
    object.__setattr__(layer, "_plan", Plan(layer, stacks))
    layer.__class__ = native_class(_Layer, type(layer))


def _where(module: Any) -> tuple[str, str]:
    return type(module).__module__.rpartition(".")[2], type(module).__name__
