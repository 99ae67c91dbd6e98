"""The small kernels between one token's matrix products: norm, top-k choice.

Each is a few operations on one row, where NumPy's calls would cost more than the computation.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from numba import types

from .arguments import float_at, int_at, put_float, put_int
from .compiled import task
from .kernel_chain import Link, link
from .linear import F32s
from .reductions import exponentials, largest

TAKEN = -1.0
"""Replaces the weight of a chosen expert; all other weights are positive."""

X, ADDED, WEIGHT, NORMED, WIDTH, PARAMETERS = range(6)
LOGITS, IDS, WEIGHTS, EXPERTS, K, SUMS_TO_ONE = range(6)


@lru_cache
def norm_task() -> int:
    """The kernel of `norm_link`, with one task."""

    def kernel(arguments: int, _: int) -> None:
        x, added, weight = int_at(arguments, X), int_at(arguments, ADDED), int_at(arguments, WEIGHT)
        out, width = int_at(arguments, NORMED), int_at(arguments, WIDTH)
        epsilon = float_at(int_at(arguments, PARAMETERS), 0)
        if added != 0:
            for i in range(width):
                put_float(x, i, float_at(x, i) + float_at(added, i))
        total = types.float32(0.0)
        for i in range(width):
            total += float_at(x, i) * float_at(x, i)
        scale = types.float32(1 / math.sqrt(total / width + epsilon))
        for i in range(width):
            put_float(out, i, float_at(x, i) * (float_at(weight, i) * scale))

    return task(kernel)


def norm_link(x: F32s, weight: F32s, epsilon: float, out: F32s, added: F32s | None = None) -> Link:
    """Add `added`, if any, to `x`, and write the RMS norm of that × `weight` to `out`.

    Args:
        x, weight, out, added: float32 of one length, contiguous; `out` may be `x`.
    """
    parameters = np.array([epsilon], np.float32)
    return link(norm_task(), 1, x, added, weight, out, x.size, parameters)


@lru_cache
def choose_task() -> int:
    """The kernel of `choose_link`, with one task."""

    def kernel(arguments: int, _: int) -> None:
        logits, ids, weights = (
            int_at(arguments, LOGITS), int_at(arguments, IDS), int_at(arguments, WEIGHTS)
        )  # fmt: skip
        experts, k = int_at(arguments, EXPERTS), int_at(arguments, K)
        total = exponentials(logits, experts, largest(logits, experts))
        chosen = types.float32(0.0)
        for place in range(k):
            best = -1
            for expert in range(experts):
                value = float_at(logits, expert)
                # Of equal weights the first is chosen.
                if value != types.float32(TAKEN) and (best < 0 or value > float_at(logits, best)):
                    best = expert
            put_int(ids, place, best)
            put_float(weights, place, float_at(logits, best))
            chosen += float_at(logits, best)
            put_float(logits, best, types.float32(TAKEN))
        whole_weight = chosen if int_at(arguments, SUMS_TO_ONE) != 0 else total
        for place in range(k):
            put_float(weights, place, float_at(weights, place) / whole_weight)

    return task(kernel, finite=False)


def choose_link(logits: F32s, ids: npt.NDArray[np.int64], weights: F32s, sums_to_one: bool) -> Link:
    """Write the top k of `logits` [experts] to `ids` [k], and their weights to `weights` [k].

    Args:
        logits: overwritten.
        sums_to_one: whether the weights are the softmax over the chosen experts, not over all.
    """
    return link(choose_task(), 1, logits, ids, weights, logits.size, ids.size, int(sums_to_one))
