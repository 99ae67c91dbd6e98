"""What lies between the matrix products of one token: its norm, the choice of experts, their sum.

Each is a few operations on one row. In NumPy such a row costs the calls and not the numbers.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from numba import types

from .arguments import put, put_whole, real, whole
from .compiled import task
from .kernel_chain import Link, link
from .linear import F32s
from .reductions import exponentials, largest

TAKEN = -1.0
"""In place of the weight of an expert that was chosen; all others are positive."""

X, ADDED, WEIGHT, NORMED, WIDTH, PARAMETERS = range(6)
ROWS, COUNT = ADDED, NORMED
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
def blend_task() -> int:
    """The kernel of `blend_link`; there is one task."""

    def kernel(arguments: int, _: int) -> None:
        x, rows, width = whole(arguments, X), whole(arguments, ROWS), whole(arguments, WIDTH)
        for row in range(whole(arguments, COUNT)):
            weight = real(whole(arguments, WEIGHT), row)
            for i in range(width):
                put(x, i, real(x, i) + weight * real(rows, row * width + i))

    return task(kernel)


def blend_link(x: F32s, weights: F32s, rows: F32s) -> Link:
    """The sum of `weights` [k] × `rows` [k, width] onto `x` [width]."""
    return link(blend_task(), 1, x, rows, weights, len(weights), x.size)
