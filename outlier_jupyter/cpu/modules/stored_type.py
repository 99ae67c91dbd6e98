"""The type of the keys and values of attention that computes natively; it loads no Numba."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from ...families import known_as
from .rotation import is_fixed


def stored_type(module: nn.Module) -> mx.Dtype | None:
    """The type of the keys and values, or latents, of attention that computes natively.

    It is bfloat16, or float32 if their weights are; None for other modules. bfloat16 also in place
    of float16, as it cannot overflow and processors multiply pairs of it.
    """
    if can_attend_latents(module):
        part, norm = module.kv_a_proj_with_mqa, module.kv_a_layernorm
    elif known_as(module, "attention") is not None and is_fixed(module.rope):
        part, norm = module.k_proj, module.get("k_norm")
    else:
        return None
    made_by = [part.scales if "scales" in part else part.weight]
    made_by += [norm.weight] if norm is not None else []
    return mx.float32 if any(w.dtype == mx.float32 for w in made_by) else mx.bfloat16


def can_attend_latents(module: nn.Module) -> bool:
    """Whether the module is a latent attention of a known class, with a known RoPE or none."""
    if known_as(module, "latent") is None or not module.qk_rope_head_dim:
        return False
    ropes = [each.rope for each in (module, module.get("indexer")) if each and "rope" in each]
    return all(is_fixed(rope) for rope in ropes)
