"""The compiled replay of a whole trace: its lookups in order, with the functions of `slots`."""

from __future__ import annotations

import numpy as np

from .numba_options import compiled
from .policies.lru import touch
from .policies.predictive import nearness, observe
from .policies.registry import BELADY, LRU, PREDICTIVE
from .slots import CAPACITY, UNUSED, demote_except, least, most_used, put, reserve, split
from .stack_distance import distinct


@compiled
def replay(policy, state, slots, future, experts, starts, mine, at_start, hits, reads):  # type: ignore[no-untyped-def]
    """Look up a trace's experts in `slots`; a replay of later calls goes on where one ended.

    Args:
        policy: LRU, PREDICTIVE or BELADY; `future` is `next_uses` for the last, else of any size.
        state: what the predictive policy learns; its score is that of `slots` for all of them.
        experts: int16 [steps, layers, k]; starts: int64 [calls + 1], first step of each call.
        mine: bool [layers], those whose experts share these slots.
        at_start: int64, the keys resident before, what is evicted first coming first.
        hits, reads: bool [steps, layers, k] and int32 [calls, layers], written for layers `mine`.
    """
    layers, width = slots.score.shape
    capacity = slots.counts[CAPACITY]
    clock = np.full(1, slots.score.max() if policy == LRU else 0.0)
    keys, uses = np.empty(width, np.int64), np.empty(width, np.int64)
    order, seen = np.empty(width, np.int64), np.zeros(width, np.bool_)
    times = np.zeros(width, np.int64)
    if policy == LRU:
        touch(slots.score, clock, at_start)
    for i in range(len(at_start)):
        _look_up(slots, at_start[i : i + 1])
    for call in range(len(starts) - 1):
        first, end = starts[call], starts[call + 1]
        for layer in range(layers):
            count = distinct(experts, first, end, layer, keys, seen) if mine[layer] else 0
            if not count:
                continue
            if policy == PREDICTIVE:
                observe(state, layer, experts[first:end, layer])
                nearness(layer, slots.weight)
            for step in range(first, end):
                for i in range(experts.shape[2]):
                    expert = experts[step, layer, i]
                    if expert >= 0:
                        times[expert] += 1
                        key = layer * width + expert
                        hits[step, layer, i] = slots.slot_of[key] >= 0
                        if policy == BELADY:
                            slots.score.ravel()[key] = -np.float64(future[step, layer, i])
            for i in range(count):
                uses[i] = times[keys[i]]
                times[keys[i]] = 0
                keys[i] += layer * width
            if policy == BELADY and (end - first > 1 or count > capacity):
                reads[call, layer] += _read_apart(slots, keys[:count], order)
                continue
            prompt = end - first > 1 and policy != BELADY
            stay = np.empty(0, np.int64)
            if prompt:
                stay = most_used(slots, keys[:count], uses[:count], layer, mine.sum())
            size, window = split(slots, keys[:count], uses, prompt, order)
            begin = 0
            while begin < count:
                part = order[begin : min(begin + size, count)]
                if policy == LRU:
                    touch(slots.score, clock, part)
                reads[call, layer] += _look_up(slots, part)
                if prompt:
                    demote_except(slots, stay, layer)
                begin, size = begin + size, window


@compiled
def _look_up(slots, keys):  # type: ignore[no-untyped-def]
    """Look up `keys` together and make them resident; return how many were not."""
    where, evicted = np.empty(len(keys), np.int64), np.empty(len(keys), np.int64)
    missing = reserve(slots, keys, where, evicted)
    for i in range(len(keys)):
        if slots.slot_of[keys[i]] < 0:
            put(slots, keys[i], where[i])
    return missing


@compiled
def _read_apart(slots, keys, order):  # type: ignore[no-untyped-def]
    """Belady's lookup of `keys` that need not be resident together; return how many were not.

    A key that is used again later than all resident ones takes no slot. `order` is scratch.
    """
    count = 0
    for key in keys:
        if slots.slot_of[key] < 0:
            order[count] = key
            count += 1
    missing = np.empty(count, np.int64)
    least(slots.score, slots.weight, order[:count].copy(), slots.keep, missing)
    furthest, pair = np.empty(1, np.int64), np.empty(2, np.int64)
    for i in range(count):
        if slots.counts[UNUSED] == 0:
            least(slots.score, slots.weight, slots.key_of, slots.keep, furthest)
            pair[0], pair[1] = furthest[0], missing[i]
            least(slots.score, slots.weight, pair, slots.keep, furthest)
            if furthest[0] == missing[i]:
                continue
        _look_up(slots, missing[i : i + 1])
    return count
