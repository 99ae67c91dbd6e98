"""The demo's Mixture-of-Experts transformer in torch, for training only.

The definition is that of ``qwen3_moe``: grouped-query attention with per-head RMS norms and
rotary positions, and in every layer a softmax router that sends each token to its top-k experts,
each a SwiGLU.  Parameter names are those of MLX's safetensors layout, so exporting is a walk over
``named_parameters``.  Matrix products run in bfloat16 (several times faster on processors with
AMX), the residual stream, norms, router and loss in float32.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

COMPUTE = torch.bfloat16
BLOCK = 128


@dataclass(frozen=True)
class Geometry:
    """The model's sizes; the same keys as ``config.json`` of a qwen3_moe checkpoint."""

    vocab_size: int = 4096
    hidden_size: int = 192
    num_hidden_layers: int = 6
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 48
    num_experts: int = 32
    num_experts_per_tok: int = 4
    moe_intermediate_size: int = 128
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    max_position_embeddings: int = 4096
    bits: int = 4
    group_size: int = 64

    def config(self) -> dict[str, object]:
        """``config.json`` as mlx-lm reads it."""
        sizes = asdict(self)
        bits, group_size = sizes.pop("bits"), sizes.pop("group_size")
        quantization: dict[str, object] = {
            "group_size": group_size,
            "bits": bits,
            "mode": "affine",
        }
        for layer in range(self.num_hidden_layers):
            quantization[f"model.layers.{layer}.mlp.gate"] = {"group_size": 64, "bits": 8}
        return {
            "architectures": ["Qwen3MoeForCausalLM"],
            "model_type": "qwen3_moe",
            **sizes,
            "intermediate_size": 3 * self.hidden_size,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
            "norm_topk_prob": True,
            "tie_word_embeddings": True,
            "attention_bias": False,
            "hidden_act": "silu",
            "rope_scaling": None,
            "torch_dtype": "float32",
            "quantization": quantization,
        }


def fake_quantize(weight: Tensor, bits: int, group_size: int) -> Tensor:
    """Round ``weight`` to MLX's affine grid, passing gradients straight through.

    The grid is the one ``mx.quantize`` picks: per group, the end of larger magnitude is stored
    exactly and the scale is adjusted so that zero falls on the grid.
    """
    groups = weight.detach().reshape(-1, group_size)
    top = float(2**bits - 1)
    low, high = groups.amin(1, keepdim=True), groups.amax(1, keepdim=True)
    from_low = low.abs() > high.abs()
    scale = ((high - low) / top).clamp_min(1e-7)
    scale = torch.where(from_low, scale, -scale)
    edge = torch.where(from_low, low, high)
    zero = torch.round(edge / scale)
    scale = torch.where(zero != 0, edge / torch.where(zero != 0, zero, 1.0), scale)
    bias = torch.where(zero != 0, edge, torch.zeros_like(edge))
    steps = torch.clamp(torch.round((groups - bias) / scale), 0.0, top)
    # The checkpoint stores scales and biases in bfloat16.
    scale, bias = scale.to(COMPUTE).float(), bias.to(COMPUTE).float()
    rounded = (steps * scale + bias).reshape(weight.shape)
    return weight + (rounded - weight.detach())


class BlockLinear(torch.autograd.Function):
    """``rows[b] @ weight[owner[b]].T`` for blocks of rows that belong to one expert each."""

    @staticmethod
    def forward(ctx, rows: Tensor, weight: Tensor, owner: Tensor) -> Tensor:
        ctx.save_for_backward(rows, weight, owner)
        return torch.bmm(rows, weight.index_select(0, owner).transpose(1, 2))

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        rows, weight, owner = ctx.saved_tensors
        grad = grad.contiguous()
        d_rows = torch.bmm(grad, weight.index_select(0, owner))
        per_block = torch.bmm(grad.transpose(1, 2), rows).float()
        d_weight = weight.new_zeros(weight.shape, dtype=torch.float32)
        return d_rows, d_weight.index_add_(0, owner, per_block).to(weight.dtype), None


def place(experts: Tensor, loads: Tensor) -> tuple[Tensor, Tensor]:
    """Sort assignments by expert into blocks of ``BLOCK`` rows of one expert each.

    Returns each assignment's row and each block's expert.  The number of blocks depends only on
    the number of assignments: shapes that never change let oneDNN reuse its compiled kernels,
    and no expert has a capacity above which tokens would be dropped.
    """
    blocks = experts.numel() // BLOCK + loads.numel()
    used = (loads + BLOCK - 1) // BLOCK
    ends = used.cumsum(0)
    first_row = (ends - used) * BLOCK
    order = experts.argsort(stable=True)
    rank = torch.arange(experts.numel()) - (loads.cumsum(0) - loads)[experts[order]]
    slots = torch.empty_like(experts)
    slots[order] = first_row[experts[order]] + rank
    owner = torch.searchsorted(ends, torch.arange(blocks), right=True)
    return slots, owner.clamp_max(loads.numel() - 1)


class Weight(nn.Module):
    """A weight matrix (or a stack of them, one per expert) under MLX's parameter name."""

    def __init__(self, *shape: int, bits: int, group_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(*shape))
        self.bits, self.group_size = bits, group_size
        self.quantize = False

    def value(self) -> Tensor:
        """The weight as used in products: in bfloat16, on the 4-bit grid if ``quantize``."""
        weight = self.weight
        if self.quantize:
            weight = fake_quantize(weight, self.bits, self.group_size)
        return weight.to(COMPUTE)

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x.to(COMPUTE), self.value())


class Norm(nn.Module):
    """Root-mean-square normalisation with a learnt scale."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.eps)


class Attention(nn.Module):
    """Causal grouped-query attention with rotary positions (halves, not interleaved)."""

    def __init__(self, g: Geometry) -> None:
        super().__init__()
        self.g = g
        kind = {"bits": g.bits, "group_size": g.group_size}
        queries, keys = g.num_attention_heads * g.head_dim, g.num_key_value_heads * g.head_dim
        self.q_proj = Weight(queries, g.hidden_size, **kind)
        self.k_proj = Weight(keys, g.hidden_size, **kind)
        self.v_proj = Weight(keys, g.hidden_size, **kind)
        self.o_proj = Weight(g.hidden_size, queries, **kind)
        self.q_norm, self.k_norm = (
            Norm(g.head_dim, g.rms_norm_eps),
            Norm(g.head_dim, g.rms_norm_eps),
        )

    def _rotate(self, x: Tensor) -> Tensor:
        half = self.g.head_dim // 2
        rates = self.g.rope_theta ** (-torch.arange(half, dtype=torch.float32) / half)
        angles = torch.arange(x.shape[2], dtype=torch.float32)[:, None] * rates
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        left, right = x[..., :half], x[..., half:]
        return torch.cat([left * cos - right * sin, left * sin + right * cos], dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape

        def heads(rows: Tensor, count: int) -> Tensor:
            return rows.view(batch, length, count, self.g.head_dim)

        q = self.q_norm(heads(self.q_proj(x), self.g.num_attention_heads)).transpose(1, 2)
        k = self.k_norm(heads(self.k_proj(x), self.g.num_key_value_heads)).transpose(1, 2)
        v = heads(self.v_proj(x), self.g.num_key_value_heads).transpose(1, 2)
        repeats = self.g.num_attention_heads // self.g.num_key_value_heads
        q, k = self._rotate(q), self._rotate(k).repeat_interleave(repeats, dim=1)
        v = v.repeat_interleave(repeats, dim=1)
        # Written out: on processors the backward pass of torch's fused kernel is slower.
        hidden = torch.full((length, length), -1e9, dtype=COMPUTE).triu(1)
        weights = functional.softmax(
            (q * self.g.head_dim**-0.5) @ k.transpose(-1, -2) + hidden, dim=-1
        )
        out = weights @ v
        return self.o_proj(out.transpose(1, 2).reshape(batch, length, -1))


class SwitchMLP(nn.Module):
    """The experts' weights, stacked over experts as MLX stores them."""

    def __init__(self, g: Geometry) -> None:
        super().__init__()
        kind = {"bits": g.bits, "group_size": g.group_size}
        self.gate_proj = Weight(g.num_experts, g.moe_intermediate_size, g.hidden_size, **kind)
        self.up_proj = Weight(g.num_experts, g.moe_intermediate_size, g.hidden_size, **kind)
        self.down_proj = Weight(g.num_experts, g.hidden_size, g.moe_intermediate_size, **kind)

    def forward(self, blocks: Tensor, owner: Tensor) -> Tensor:
        gate = BlockLinear.apply(blocks, self.gate_proj.value(), owner)
        up = BlockLinear.apply(blocks, self.up_proj.value(), owner)
        return BlockLinear.apply(functional.silu(gate) * up, self.down_proj.value(), owner)


class SparseMoe(nn.Module):
    """Router and experts of one layer."""

    def __init__(self, g: Geometry) -> None:
        super().__init__()
        self.g = g
        self.gate = Weight(g.num_experts, g.hidden_size, bits=8, group_size=64)
        self.switch_mlp = SwitchMLP(g)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The experts' output, and the load-balancing loss."""
        flat = x.reshape(-1, self.g.hidden_size)
        # Float32 here: near-ties between experts decide the routing.
        weight = self.gate.weight
        if self.gate.quantize:
            weight = fake_quantize(weight, 8, 64)
        shares = functional.softmax(functional.linear(flat.float(), weight), dim=-1)
        scores, experts = shares.topk(self.g.num_experts_per_tok, dim=-1)
        scores = scores / scores.sum(-1, keepdim=True)
        loads = torch.bincount(experts.flatten(), minlength=self.g.num_experts)
        balance = self.g.num_experts * (loads / experts.numel() * shares.mean(0)).sum()
        slots, owner = place(experts.flatten(), loads)
        tokens = torch.arange(flat.shape[0]).repeat_interleave(self.g.num_experts_per_tok)
        # Slots that stay empty read a row of zeros appended to the tokens.
        source = torch.full((owner.shape[0] * BLOCK,), flat.shape[0]).index_copy(0, slots, tokens)
        padded = torch.cat([flat.to(COMPUTE), flat.new_zeros(1, flat.shape[1], dtype=COMPUTE)])
        blocks = padded.index_select(0, source).view(-1, BLOCK, self.g.hidden_size)
        out = self.switch_mlp(blocks, owner).view(-1, self.g.hidden_size)
        out = out.index_select(0, slots).float().view(flat.shape[0], -1, self.g.hidden_size)
        return (out * scores[..., None]).sum(1).view_as(x), balance


class Layer(nn.Module):
    """One decoder layer: attention, then experts, each on a normalised residual stream."""

    def __init__(self, g: Geometry) -> None:
        super().__init__()
        self.self_attn, self.mlp = Attention(g), SparseMoe(g)
        self.input_layernorm = Norm(g.hidden_size, g.rms_norm_eps)
        self.post_attention_layernorm = Norm(g.hidden_size, g.rms_norm_eps)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x + self.self_attn(self.input_layernorm(x)).float()
        out, balance = self.mlp(self.post_attention_layernorm(x))
        return x + out, balance


class Body(nn.Module):
    """Embedding, layers and the last norm; named ``model`` in the checkpoint."""

    def __init__(self, g: Geometry) -> None:
        super().__init__()
        self.embed_tokens = Weight(
            g.vocab_size, g.hidden_size, bits=g.bits, group_size=g.group_size
        )
        self.layers = nn.ModuleList(Layer(g) for _ in range(g.num_hidden_layers))
        self.norm = Norm(g.hidden_size, g.rms_norm_eps)


class DemoMoe(nn.Module):
    """The whole model, with tied embeddings."""

    def __init__(self, g: Geometry, seed: int) -> None:
        super().__init__()
        self.g = g
        self.model = Body(g)
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                small = "embed" in name or "mlp.gate." in name
                std = 0.02 if small else parameter.shape[-1] ** -0.5
                if "o_proj" in name or "down_proj" in name:
                    std /= (2 * g.num_hidden_layers) ** 0.5
                with torch.no_grad():
                    parameter.normal_(0.0, std, generator=generator)

    def set_quantize(self, on: bool) -> None:
        """Turn fake quantisation of every weight matrix on or off."""
        for module in self.modules():
            if isinstance(module, Weight):
                module.quantize = on

    def loss(self, tokens: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Mean cross entropy over targets that are not -100, and the balancing loss."""
        embedding = self.model.embed_tokens.value()
        x = functional.embedding(tokens, embedding).float()
        balances = []
        for layer in self.model.layers:
            x, balance = layer(x)
            balances.append(balance)
        logits = functional.linear(self.model.norm(x).to(COMPUTE), embedding)
        logits = logits.flatten(0, 1).float()
        cross = functional.cross_entropy(logits, targets.flatten(), ignore_index=-100)
        return cross, torch.stack(balances).mean()
