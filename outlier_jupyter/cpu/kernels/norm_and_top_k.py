"""The small kernels between one token's matrix products: norm, top-k choice.

Each is a few operations on one row, where NumPy's calls would cost more than the computation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import types
from numba.extending import register_jitable

from .arguments import float_at, int_at, put_float, put_int
from .compiled import task
from .kernel_chain import Link, link
from .linear import F32s
from .reductions import exponentials, largest
from .vectors import rms_norm

TAKEN = -3.2e38
"""Replaces the rank of a chosen expert; below what `largest` returns for none."""

X, ADDED, WEIGHT, NORMED, WIDTH, PARAMETERS = range(6)
(LOGITS, IDS, WEIGHTS, EXPERTS, K, SUMS_TO_ONE, SIGMOID, BIAS, GROUPS, TOP_GROUPS, SCALE,
 RANKS) = range(12)  # fmt: skip


@lru_cache
def norm_task() -> int:
    """The kernel of `norm_link`, with one task."""

    def kernel(arguments: int, _: int) -> None:
        rms_norm(
            int_at(arguments, X), int_at(arguments, ADDED), int_at(arguments, WEIGHT),
            int_at(arguments, NORMED), int_at(arguments, WIDTH),
            float_at(int_at(arguments, PARAMETERS), 0),
        )  # fmt: skip

    return task(kernel)


def norm_link(x: F32s, weight: F32s, epsilon: float, out: F32s, added: F32s | None = None) -> Link:
    """Add `added`, if any, to `x`, and write the RMS norm of that × `weight` to `out`.

    Args:
        x, weight, out, added: float32 of one length, contiguous; `out` may be `x`.
    """
    parameters = np.array([epsilon], np.float32)
    return link(norm_task(), 1, x, added, weight, out, x.size, parameters)


@lru_cache
def layer_norm_task() -> int:
    """The kernel of `layer_norm_link`, with one task."""

    def kernel(arguments: int, _: int) -> None:
        x, bias, weight = int_at(arguments, X), int_at(arguments, ADDED), int_at(arguments, WEIGHT)
        out, width = int_at(arguments, NORMED), int_at(arguments, WIDTH)
        total = types.float32(0.0)
        for i in range(width):
            total += float_at(x, i)
        mean = types.float32(total / width)
        total = types.float32(0.0)
        for i in range(width):
            away = float_at(x, i) - mean
            total += away * away
        epsilon = float_at(int_at(arguments, PARAMETERS), 0)
        scale = types.float32(1 / math.sqrt(total / width + epsilon))
        for i in range(width):
            value = (float_at(x, i) - mean) * scale
            put_float(out, i, value * float_at(weight, i) + float_at(bias, i))

    return task(kernel)


def layer_norm_link(x: F32s, weight: F32s, bias: F32s, epsilon: float, out: F32s) -> Link:
    """Write the layer norm of `x` × `weight` + `bias` to `out`, which may be `x`."""
    parameters = np.array([epsilon], np.float32)
    return link(layer_norm_task(), 1, x, bias, weight, out, x.size, parameters)


@dataclass(frozen=True)
class Scoring:
    """How a router's logits become a choice of experts and their weights.

    Attributes:
        sums_to_one: whether the weights of a token's experts are made to sum to 1.
        sigmoid: whether a score is the logit's sigmoid, not its share of a softmax.
        bias: [experts] or None, added to the scores for the choice, not to the weights.
        groups, top_groups: experts are chosen from the groups whose best two have the largest sum;
            the scores of all others count as 0.
        scale: factor of the weights.
    """

    sums_to_one: bool
    sigmoid: bool = False
    bias: F32s | None = None
    groups: int = 1
    top_groups: int = 1
    scale: float = 1.0


@lru_cache
def choose_task() -> int:
    """The kernel of `choose_link`, with one task."""

    def kernel(arguments: int, _: int) -> None:
        scores, ids, weights = (
            int_at(arguments, LOGITS), int_at(arguments, IDS), int_at(arguments, WEIGHTS)
        )  # fmt: skip
        experts, k = int_at(arguments, EXPERTS), int_at(arguments, K)
        whole_weight = _score(arguments, scores, experts)
        ranks = _ranks(arguments, scores, experts)
        chosen = types.float32(0.0)
        for place in range(k):
            best = _best(ranks, experts)
            put_int(ids, place, best)
            put_float(weights, place, float_at(scores, best))
            chosen += float_at(scores, best)
            put_float(ranks, best, types.float32(TAKEN))
        if int_at(arguments, SUMS_TO_ONE) != 0:
            whole_weight = chosen
        scale = float_at(int_at(arguments, SCALE), 0)
        for place in range(k):
            put_float(weights, place, float_at(weights, place) / whole_weight * scale)

    return task(kernel, finite=False)


@register_jitable
def _score(arguments: int, scores: int, experts: int) -> Any:
    """Replace logits by scores; returns the weight of all of them."""
    if int_at(arguments, SIGMOID) != 0:
        for expert in range(experts):
            power = types.float32(math.exp(-float_at(scores, expert)))
            put_float(scores, expert, types.float32(1.0) / (types.float32(1.0) + power))
        return types.float32(1.0)
    total = exponentials(scores, experts, largest(scores, experts))
    if int_at(arguments, BIAS) == 0:
        return total
    for expert in range(experts):
        put_float(scores, expert, float_at(scores, expert) / total)
    return types.float32(1.0)


@register_jitable
def _ranks(arguments: int, scores: int, experts: int) -> Any:
    """Write what experts are chosen by, and return its address."""
    ranks, bias = int_at(arguments, RANKS), int_at(arguments, BIAS)
    for expert in range(experts):
        more = float_at(bias, expert) if bias != 0 else types.float32(0.0)
        put_float(ranks, expert, float_at(scores, expert) + more)
    groups = int_at(arguments, GROUPS)
    if groups > 1:
        size, sums = experts // groups, ranks + 4 * experts
        for group in range(groups):
            first = second = types.float32(TAKEN)
            for expert in range(group * size, (group + 1) * size):
                value = float_at(ranks, expert)
                if value > first:
                    first, second = value, first
                elif value > second:
                    second = value
            put_float(sums, group, first + second)
        for _ in range(int_at(arguments, TOP_GROUPS)):
            put_float(sums, _best(sums, groups), types.float32(TAKEN))
        for expert in range(experts):
            if float_at(sums, expert // size) != types.float32(TAKEN):
                put_float(ranks, expert, types.float32(0.0))
    return ranks


@register_jitable
def _best(values: int, count: int) -> int:
    """The first of the largest values that are not taken; else the first that is not."""
    top = largest(values, count)
    for place in range(count):
        if float_at(values, place) == top:
            return place
    for place in range(count):  # no numbers, or the least there are
        if float_at(values, place) != types.float32(TAKEN):
            return place
    return 0


def choose_link(logits: F32s, ids: npt.NDArray[np.int64], weights: F32s, how: Scoring) -> Link:
    """Write the top k of `logits` [experts] to `ids` [k], and their weights to `weights` [k].

    Args:
        logits: overwritten.
    """
    ranks = np.empty(logits.size + how.groups, np.float32)
    return link(
        choose_task(), 1, logits, ids, weights, logits.size, ids.size, int(how.sums_to_one),
        int(how.sigmoid), how.bias, how.groups, how.top_groups,
        np.array([how.scale], np.float32), ranks,
    )  # fmt: skip
