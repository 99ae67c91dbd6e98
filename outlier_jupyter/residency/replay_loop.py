"""The compiled replay of a whole trace: its lookups in turn, by the functions of `slots`."""

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
    """Serve a trace's lookups from `slots`, which are free.

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
    clock = np.zeros(1)
    keys, uses = np.empty(width, np.int64), np.empty(width, np.int64)
    order, seen = np.empty(width, np.int64), np.zeros(width, np.bool_)
    times = np.zeros(width, np.int64)
    if policy == LRU:
        touch(slots.score, clock, at_start)
    for i in range(len(at_start)):
        _serve(slots, at_start[i : i + 1])
    for call in range(len(starts) - 1):
        first, end = starts[call], starts[call + 1]
        for layer in range(layers):
            wanted = distinct(experts, first, end, layer, keys, seen) if mine[layer] else 0
            if not wanted:
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
            for i in range(wanted):
                uses[i] = times[keys[i]]
                times[keys[i]] = 0
                keys[i] += layer * width
            if policy == BELADY and (end - first > 1 or wanted > capacity):
                reads[call, layer] += _read_apart(slots, keys[:wanted], order)
                continue
            prompt = end - first > 1 and policy != BELADY
            stay = np.empty(0, np.int64)
            if prompt:
                stay = most_used(slots, keys[:wanted], uses[:wanted], layer, mine.sum())
            size, window = split(slots, keys[:wanted], uses, prompt, order)
            begin = 0
            while begin < wanted:
                part = order[begin : min(begin + size, wanted)]
                if policy == LRU:
                    touch(slots.score, clock, part)
                reads[call, layer] += _serve(slots, part)
                if prompt:
                    demote_except(slots, stay, layer)
                begin, size = begin + size, window


@compiled
def _serve(slots, keys):  # type: ignore[no-untyped-def]
    """Look up `keys` together and have them all resident: how many were not."""
    where, evicted = np.empty(len(keys), np.int64), np.empty(len(keys), np.int64)
    missing = reserve(slots, keys, where, evicted)
    for i in range(len(keys)):
        if slots.slot_of[keys[i]] < 0:
            put(slots, keys[i], where[i])
    return missing


@compiled
def _read_apart(slots, keys, order):  # type: ignore[no-untyped-def]
    """Belady's, where `keys` need not be resident together: how many were not.

    One that is used again later than all that is resident takes no slot. `order` is scratch.
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
        _serve(slots, missing[i : i + 1])
    return count
