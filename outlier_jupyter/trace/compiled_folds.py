"""Compiled counting loops over routing: one pass through the steps of each layer.

`routing_measures` and `divergence` make measures of the counts. An expert is always a pair
(layer, expert): no loop sums one index over layers. Numba compiles each on its first call and
caches it on disk.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..residency.numba_options import compiled

SOON, PRESENT = 2**40, 2**56
"""Weights in an expert's score: one future use outweighs any step of its last use, and being chosen
by the present token outweighs both."""


@compiled
def count_in_bins(experts, bin_of, counts):  # type: ignore[no-untyped-def]
    """Add each choice to `counts` int64 [bins, layers, width]; `bin_of` is int64 [steps]."""
    steps, layers, k = experts.shape
    for step in range(steps):
        here = counts[bin_of[step]]
        for layer in range(layers):
            for i in range(k):
                expert = experts[step, layer, i]
                if expert >= 0:
                    here[layer, expert] += 1


@compiled
def tokens_routed(experts, counted, tokens, most):  # type: ignore[no-untyped-def]
    """How many counted steps chose any expert, and the most experts that a step chose.

    Args:
        tokens, most: int64 [layers], outputs.
    """
    steps, layers, k = experts.shape
    for step in range(steps):
        for layer in range(layers):
            chosen = 0
            for i in range(k):
                chosen += experts[step, layer, i] >= 0
            most[layer] = max(most[layer], chosen)
            tokens[layer] += counted[step] and chosen > 0


@compiled
def reuse(experts, counted, distances, gaps, overlap):  # type: ignore[no-untyped-def]
    """How soon experts are chosen again.

    Args:
        experts: int16 [layers, steps, k], contiguous, so that a layer is read in order.
        counted: bool [steps], the steps whose choices are counted; the others only set last uses.
        distances: int64 [layers, width + 1], output: choices by reuse distance, the number of
            other experts chosen since the last use; the last column counts first uses.
        gaps: int64 [layers, longest + 1], output: choices by tokens since the last use, at most
            `longest`.
        overlap: float32 [layers, steps], output: share of the token's experts that the token
            before also chose; NaN where one of the two chose none.
    """
    layers, steps, k = experts.shape
    width, longest = distances.shape[1] - 1, gaps.shape[1] - 1
    for layer in range(layers):
        last = np.full(width, -1, np.int32)
        before = 0
        for step in range(steps):
            chosen, shared = 0, 0
            for i in range(k):
                expert = experts[layer, step, i]
                if expert < 0:
                    continue
                chosen += 1
                then = last[expert]
                shared += then >= 0 and then == step - 1
                if not counted[step]:
                    continue
                if then < 0:
                    distances[layer, width] += 1
                    continue
                distance = np.int32(0)
                for other in range(width if then < step - 1 else 0):
                    # In 32 bits, eight of these are one instruction.
                    distance = np.int32(distance + np.int32(last[other] > then))
                distances[layer, distance] += 1
                gaps[layer, min(step - then, longest)] += 1
            for i in range(k):
                expert = experts[layer, step, i]
                if expert >= 0:
                    last[expert] = step
            if chosen and before:
                overlap[layer, step] = shared / chosen
            before = chosen


@compiled
def shared_at_lags(experts, shared, compared):  # type: ignore[no-untyped-def]
    """How many of a token's experts the token `lag` steps before also chose, over all layers.

    Args:
        experts: int16 [layers, steps, k].
        shared, compared: int64 [lags], outputs: common choices, and all; the first is lag 1.
    """
    layers, steps, k = experts.shape
    for layer in range(layers):
        for step in range(steps):
            for lag in range(1, min(len(shared), step) + 1):
                for i in range(k):
                    expert = experts[layer, step, i]
                    if expert < 0:
                        continue
                    compared[lag - 1] += 1
                    for j in range(k):
                        shared[lag - 1] += experts[layer, step - lag, j] == expert


@compiled
def _is_first(row, i):  # type: ignore[no-untyped-def]
    """Whether a token's i-th choice differs from those before it: some routers repeat one."""
    same = 0
    for j in range(i):
        same += row[j] == row[i]
    return same == 0


@compiled
def segment_histogram(experts, spans, length, width):  # type: ignore[no-untyped-def]
    """Count (expert, segment) pairs by f, the number of the segment's tokens that chose the expert.

    Args:
        spans: int64 [n, 2], spans of steps (first, one past the last); segments lie within one.
        length: tokens per segment; a segment begins at every position.

    Returns:
        int64 [layers, length + 1], by f; every layer counts as `width` experts.
    """
    layers, _, k = experts.shape
    out = np.zeros((layers, length + 1), np.int64)
    for layer in range(layers):
        for first, end in spans:
            if end - first < length:
                continue
            active, since = np.zeros(width, np.int64), np.zeros(width, np.int64)
            for step in range(first, end):
                at = step - first - length + 1  # the position of the segment that ends here
                for i in range(k):
                    # Remove the oldest token before adding the new one: counts stay ≤ `length`.
                    expert = experts[layer, step - length, i] if at > 0 else -1
                    if expert >= 0 and _is_first(experts[layer, step - length], i):
                        out[layer, active[expert]] += at - since[expert]
                        active[expert] -= 1
                        since[expert] = at
                for i in range(k):
                    expert = experts[layer, step, i]
                    if expert >= 0 and _is_first(experts[layer, step], i):
                        if at > 0:
                            out[layer, active[expert]] += at - since[expert]
                            since[expert] = at
                        active[expert] += 1
            for expert in range(width):
                out[layer, active[expert]] += end - first - length + 1 - since[expert]
    return out


@compiled
def segment_cache(experts, spans, length, slots, width):  # type: ignore[no-untyped-def]
    """Hits of a cache that knows the next `length` tokens.

    For a missing expert it evicts one that the present token did not choose and that the next
    `length` tokens choose least often; among equals the least recently used. Each span begins with
    an empty cache.

    Args:
        slots: int64 [layers], at least one token's experts.

    Returns:
        int64 [2, layers]: hits, and choices.
    """
    layers, _, k = experts.shape
    out = np.zeros((2, layers), np.int64)
    for layer in range(layers):
        for first, end in spans:
            in_slot, filled = np.zeros(slots[layer], np.int64), 0
            is_resident = np.zeros(width, np.bool_)
            score = np.zeros(width, np.int64)  # SOON for each future use, plus the last use
            for step in range(first, min(first + length, end)):
                for i in range(k):
                    if experts[layer, step, i] >= 0:
                        score[experts[layer, step, i]] += SOON
            for step in range(first, end):
                for i in range(k):
                    expert = experts[layer, step, i]
                    if expert >= 0:
                        score[expert] += PRESENT - SOON - score[expert] % SOON + step
                        out[0, layer] += is_resident[expert]
                        out[1, layer] += 1
                    if step + length < end and experts[layer, step + length, i] >= 0:
                        score[experts[layer, step + length, i]] += SOON
                for i in range(k):
                    expert = experts[layer, step, i]
                    if expert < 0 or is_resident[expert]:
                        continue
                    slot = filled
                    if filled < slots[layer]:
                        filled += 1
                    else:
                        slot = _lowest_score(in_slot, score)
                        is_resident[in_slot[slot]] = False
                    in_slot[slot] = expert
                    is_resident[expert] = True
                for i in range(k):
                    if experts[layer, step, i] >= 0:
                        score[experts[layer, step, i]] -= PRESENT
    return out


@compiled
def _lowest_score(in_slot, score):  # type: ignore[no-untyped-def]
    best, least = 0, score[in_slot[0]]
    for slot in range(1, len(in_slot)):
        if score[in_slot[slot]] < least:
            best, least = slot, score[in_slot[slot]]
    return best


@compiled
def largest_share(weights, out):  # type: ignore[no-untyped-def]
    """The largest weight over the sum of the known weights, into float32 [steps, layers]."""
    steps, layers, k = weights.shape
    for step in range(steps):
        for layer in range(layers):
            top, total = 0.0, 0.0
            for i in range(k):
                weight = weights[step, layer, i]
                if weight == weight:  # NaN: not recorded
                    total += weight
                    top = max(top, weight)
            if total > 0:
                out[step, layer] = top / total


Spans = npt.NDArray[np.int64]
"""int64 [n, 2]: spans of steps, (first, one past the last)."""
