"""What lies between the matrix products of one token: its norm, the choice of experts, their sum.

Each is a few operations on one row. In NumPy such a row costs the calls and not the numbers.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import types

from .chain import Link, link
from .compiled import task, whole_function
from .linear import F32s
from .memory import put, put_whole, real, whole
from .reductions import exponentials, largest

ROW = types.float32[:, ::1]
TAKEN = -1.0
"""In place of the weight of an expert that was chosen; all others are positive."""

X, ADDED, WEIGHT, NORMED, WIDTH, PARAMETERS = range(6)
LOGITS, IDS, WEIGHTS, EXPERTS, K, SUMS_TO_ONE = range(6)


@lru_cache
def norm_task() -> int:
    """The kernel of `norm_link`; there is one task."""

    def kernel(arguments: int, _: int) -> None:
        x, added, weight = whole(arguments, X), whole(arguments, ADDED), whole(arguments, WEIGHT)
        out, width = whole(arguments, NORMED), whole(arguments, WIDTH)
        epsilon = real(whole(arguments, PARAMETERS), 0)
        if added != 0:
            for i in range(width):
                put(x, i, real(x, i) + real(added, i))
        total = types.float32(0.0)
        for i in range(width):
            total += real(x, i) * real(x, i)
        scale = types.float32(1 / math.sqrt(total / width + epsilon))
        for i in range(width):
            put(out, i, real(x, i) * (real(weight, i) * scale))

    return task(kernel)


def norm_link(x: F32s, weight: F32s, epsilon: float, out: F32s, added: F32s | None = None) -> Link:
    """`added` onto `x`, where it is given, and the RMS norm of that × `weight` to `out`.

    Args:
        x, weight, out, added: float32 of one length, contiguous; `out` may be `x`.
    """
    parameters = np.array([epsilon], np.float32)
    return link(norm_task(), 1, x, added, weight, out, x.size, parameters)


@lru_cache
def choose_task() -> int:
    """The kernel of `choose_link`; there is one task."""

    def kernel(arguments: int, _: int) -> None:
        logits, ids, weights = (
            whole(arguments, LOGITS), whole(arguments, IDS), whole(arguments, WEIGHTS)
        )  # fmt: skip
        experts, k = whole(arguments, EXPERTS), whole(arguments, K)
        total = exponentials(logits, experts, largest(logits, experts))
        chosen = types.float32(0.0)
        for place in range(k):
            best = -1
            for expert in range(experts):
                value = real(logits, expert)
                # Of equals the first.
                if value != types.float32(TAKEN) and (best < 0 or value > real(logits, best)):
                    best = expert
            put_whole(ids, place, best)
            put(weights, place, real(logits, best))
            chosen += real(logits, best)
            put(logits, best, types.float32(TAKEN))
        whole_weight = chosen if whole(arguments, SUMS_TO_ONE) != 0 else total
        for place in range(k):
            put(weights, place, real(weights, place) / whole_weight)

    return task(kernel, finite=False)


def choose_link(logits: F32s, ids: npt.NDArray[np.int64], weights: F32s, sums_to_one: bool) -> Link:
    """The likeliest of `logits` [experts] to `ids` [k], and their weights to `weights` [k].

    Args:
        logits: used up.
        sums_to_one: whether the weights are the softmax over those chosen, not over all.
    """
    return link(choose_task(), 1, logits, ids, weights, logits.size, ids.size, int(sums_to_one))


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


def blend(x: F32s, weights: F32s, rows: F32s) -> F32s:
    """`x` [1, width] with the sum of `weights` [k] × `rows` [k, width] added to it."""
    found: F32s = blend_function()(x, weights, rows)
    return found
