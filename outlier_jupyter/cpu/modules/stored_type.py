"""The type of the keys and values of attention that computes natively; it loads no Numba."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from ...families import known_as
from .rotation import is_fixed


def stored_type(module: nn.Module) -> mx.Dtype | None:
    """The type of the keys and values of an attention that computes natively; None for others.

    It is bfloat16, or float32 if their weights are. bfloat16 also in place of float16, as it cannot
    overflow and processors multiply pairs of it.
    """
    if known_as(module, "attention") is None or not is_fixed(module.rope):
        return None
    part = module.k_proj
    made_by = [part.scales if "scales" in part else part.weight]
    made_by += [module.k_norm.weight] if "k_norm" in module else []
    return mx.float32 if any(w.dtype == mx.float32 for w in made_by) else mx.bfloat16
