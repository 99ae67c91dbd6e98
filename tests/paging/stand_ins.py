"""Replaces the two products that MLX computes on a GPU only, in paged and unpaged models alike.

MLX's CPU backend multiplies no unquantised experts in half precision and no nvfp4 with a global
scale. To test all around the product (which rows, which order, which passes), both models use
the same simple product: each token's matrix is selected and multiplied in the tokens' own type,
one token at a time, so that no result depends on the other tokens of the call.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import pytest


def put_in(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Replace both products for a test; return how often each has been called since."""
    calls = {"gather_mm": 0, "gather_qmm": 0}

    def gather_mm(
        x: mx.array, w: mx.array, *, rhs_indices: mx.array, sorted_indices: bool
    ) -> mx.array:
        calls["gather_mm"] += 1
        return x @ w[rhs_indices]

    def gather_qmm(
        x: mx.array,
        w: mx.array,
        scales: mx.array,
        biases: None,
        *,
        rhs_indices: mx.array,
        transpose: bool,
        global_scale: mx.array,
        sorted_indices: bool,
        **form: Any,
    ) -> mx.array:
        calls["gather_qmm"] += 1
        rows = [mx.dequantize(*row, global_scale=g, **form) for *row, g in zip(
            w, scales, global_scale, strict=True)]  # fmt: skip
        return x @ mx.stack(rows).astype(x.dtype).swapaxes(-1, -2)[rhs_indices]

    monkeypatch.setattr(mx, "gather_mm", gather_mm)
    monkeypatch.setattr(mx, "gather_qmm", gather_qmm)
    return calls
