"""Exact LRU stack distances, compiled: the hits of every number of slots in one pass.

Keys are numbers as in `slots`.
"""

from __future__ import annotations

import numpy as np

from .numba_options import compiled

BLOCK = 64
"""Places that are counted together."""


@compiled
def distinct(experts, first, end, layer, keys, seen):  # type: ignore[no-untyped-def]
    """Write the distinct, ascending experts[first:end, layer] to `keys`; return how many.

    `seen`, bool [width], is scratch: all False before and after.
    """
    width, count = len(seen), 0
    if end - first == 1:
        for expert in experts[first, layer]:
            if expert < 0 or seen[expert]:
                continue
            seen[expert] = True
            at = count
            while at > 0 and keys[at - 1] > expert:
                keys[at] = keys[at - 1]
                at -= 1
            keys[at] = expert
            count += 1
        for i in range(count):
            seen[keys[i]] = False
        return count
    for step in range(first, end):
        for expert in experts[step, layer]:
            if expert >= 0:
                seen[expert] = True
    for expert in range(width):
        if seen[expert]:
            keys[count] = expert
            count += 1
            seen[expert] = False
    return count


@compiled
def stack_distances(experts, starts, phase, mine, nbytes, width, at_start):  # type: ignore[no-untyped-def]
    """The hits of LRU with any number of slots, from one pass over a trace (Mattson, 1970).

    An expert's distance is the number of experts, itself included, used since its last use: it hits
    with at least so many slots. The keys are kept in the order of their last use and counted by
    blocks. The order is renumbered when its end is reached, so that it stays in the processor's
    cache.

    Args:
        phase: uint8 [calls], 0 or 1, counted separately in the result.
        nbytes: int64 [layers], bytes of one expert; the others as for `replay`.

    Returns:
        int64 [2, keys + 2, 4]: per phase and distance, the choices made, the distinct experts
        looked up, their bytes, and the lookups whose furthest expert has that distance. The last
        column is for experts never used before. Then the most experts of any lookup.
    """
    layers = experts.shape[1]
    total = layers * width
    size = BLOCK * (2 * total // BLOCK + 2)
    key_at, place = np.full(size, -1, np.int32), np.full(total, -1, np.int32)
    blocks = np.zeros(size // BLOCK, np.int32)
    ends = np.zeros(1, np.int64)  # the next free place
    # The numbers of one distance are adjacent, in one cache line.
    out, widest = np.zeros((2, total + 2, 4), np.int64), 0
    keys, times = np.empty(width, np.int64), np.zeros(width, np.int64)
    seen = np.zeros(width, np.bool_)
    for key in at_start:
        _renew(key_at, place, blocks, ends, key)
    for call in range(len(starts) - 1):
        first, end, part = starts[call], starts[call + 1], phase[call]
        for layer in range(layers):
            count = distinct(experts, first, end, layer, keys, seen) if mine[layer] else 0
            if not count:
                continue
            widest, furthest = max(widest, count), 0
            for step in range(first, end):
                for expert in experts[step, layer]:
                    if expert >= 0:
                        times[expert] += 1
            for expert in keys[:count]:
                at = place[layer * width + expert]
                distance = total + 1 if at < 0 else _distance(key_at, blocks, ends, at)
                furthest = max(furthest, distance)
                out[part, distance, 0] += times[expert]
                out[part, distance, 1] += 1
                out[part, distance, 2] += nbytes[layer]
                times[expert] = 0
            out[part, furthest, 3] += 1
            for expert in keys[:count]:
                _renew(key_at, place, blocks, ends, layer * width + expert)
    return out, widest


@compiled
def _renew(key_at, place, blocks, ends, key):  # type: ignore[no-untyped-def]
    """Make `key` the most recently used."""
    if ends[0] == len(key_at):
        _renumber(key_at, place, blocks, ends)
    if place[key] >= 0:
        key_at[place[key]] = -1
        blocks[place[key] // BLOCK] -= 1
    key_at[ends[0]], place[key] = key, ends[0]
    blocks[ends[0] // BLOCK] += 1
    ends[0] += 1


@compiled
def _distance(key_at, blocks, ends, at):  # type: ignore[no-untyped-def]
    """The number of keys in places from `at` on."""
    # Whole slices by their own length: such loops have no checks, and become vectors.
    block = at // BLOCK
    total = 0
    part = key_at[at : (block + 1) * BLOCK]
    for i in range(len(part)):
        total += part[i] >= 0
    rest = blocks[block + 1 : (ends[0] + BLOCK - 1) // BLOCK]
    for i in range(len(rest)):
        total += rest[i]
    return total


@compiled
def _renumber(key_at, place, blocks, ends):  # type: ignore[no-untyped-def]
    """Close the gaps."""
    live = 0
    blocks[:] = 0
    for at in range(ends[0]):
        key = key_at[at]
        if key >= 0:
            key_at[at] = -1
            key_at[live], place[key] = key, live
            blocks[live // BLOCK] += 1
            live += 1
    ends[0] = live
