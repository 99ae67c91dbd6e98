"""What lies between the matrix products of one token: its norm, the choice of experts, their sum.

Each is a few operations on one row. In NumPy such a row costs the calls and not the numbers.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import types

from .compiled import whole_function
from .linear import F32s

ROW = types.float32[:, ::1]


@lru_cache
def norm_function() -> Any:
    """The code of `norm`."""

    def norm(x: F32s, weight: F32s, epsilon: float) -> F32s:
        row = x[0]
        total = np.float32(0)
        for i in range(len(row)):
            total += row[i] * row[i]
        scale = np.float32(1 / np.sqrt(total / len(row) + epsilon))
        out = np.empty_like(x)
        for i in range(len(row)):
            out[0, i] = row[i] * (weight[i] * scale)
        return out

    return whole_function(norm, ROW(ROW, types.float32[::1], types.float32))


@lru_cache
def choose_function() -> Any:
    """The code of `choose`."""

    def choose(
        logits: F32s, k: int, sums_to_one: bool
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        weights = np.exp(logits[0] - logits[0].max())
        total = weights.sum()
        ids, picked = np.empty(k, np.int64), np.empty(k, np.float32)
        for i in range(k):
            best = -1
            for expert in range(len(weights)):
                # Of equals the first.
                if weights[expert] != -1 and (best < 0 or weights[expert] > weights[best]):
                    best = expert
            ids[i], picked[i] = best, weights[best]
            weights[best] = -1
        picked /= picked.sum() if sums_to_one else total
        return ids, picked

    result = types.Tuple((types.int64[::1], types.float32[::1]))
    return whole_function(choose, result(ROW, types.int64, types.boolean))


@lru_cache
def blend_function() -> Any:
    """The code of `blend`."""

    def blend(x: F32s, weights: F32s, rows: F32s) -> F32s:
        out = x.copy()
        for k in range(len(weights)):
            for i in range(rows.shape[1]):
                out[0, i] += weights[k] * rows[k, i]
        return out

    return whole_function(blend, ROW(ROW, types.float32[::1], ROW))


def norm(x: F32s, weight: F32s, epsilon: float) -> F32s:
    """The RMS norm of one row: x [1, width], weight [width]."""
    found: F32s = norm_function()(x, weight, epsilon)
    return found


def choose(
    logits: F32s, k: int, sums_to_one: bool
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """The likeliest `k` of a router's logits [1, experts], and their weights, both [k].

    Args:
        sums_to_one: whether the weights are the softmax over those chosen, not over all.
    """
    found: tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]] = choose_function()(
        logits, k, sums_to_one
    )
    return found


def blend(x: F32s, weights: F32s, rows: F32s) -> F32s:
    """`x` [1, width] with the sum of `weights` [k] × `rows` [k, width] added to it."""
    found: F32s = blend_function()(x, weights, rows)
    return found
