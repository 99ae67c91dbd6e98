"""Whole traces replayed, compiled: the table, the switch and the pager in one loop over arrays.

It does what they do, look-up by look-up: a single token's experts at once; a chunk of a prompt in
the parts that `SlotTable.split` makes, leaving what `favourites` and `spare_all_but` leave. The
tests hold it against a real table, choice by choice. Keys are numbers as in `loops`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .loops import BELADY, HABIT, LRU, compiled, distinct, least, nearness, observe


class Cache(NamedTuple):
    """Who is held, and who leaves first.

    Attributes:
        held: int64 [slots + 1], keys, in no order; the last entry says how many.
        place: int64 [keys], where a key stands in `held`, or -1.
        rank: float64 [layers, width], below 0 for what is spare: the least leaves first.
        lowest: float64 [1], the least rank given.
        keep: bool [keys], all False between two look-ups.
        factor: float64 [layers], see `least`.
    """

    held: npt.NDArray[np.int64]
    place: npt.NDArray[np.int64]
    rank: npt.NDArray[np.float64]
    lowest: npt.NDArray[np.float64]
    keep: npt.NDArray[np.bool_]
    factor: npt.NDArray[np.float64]


def new_cache(slots: int, layers: int, width: int) -> Cache:
    """Nothing held."""
    held = np.zeros(slots + 1, np.int64)
    place = np.full(layers * width, -1, np.int64)
    keep = np.zeros(layers * width, np.bool_)
    return Cache(held, place, np.zeros((layers, width)), np.zeros(1), keep, np.ones(layers))


@compiled
def replay(kind, state, cache, future, experts, starts, mine, at_start, hits, reads):  # type: ignore[no-untyped-def]
    """Serve a trace's look-ups from the slots of `cache`, which is empty.

    Args:
        kind: LRU, HABIT or BELADY; `future` is `next_uses` for the last, else of any size.
        experts: int16 [steps, layers, k]; starts: int64 [calls + 1], first step of each call.
        mine: bool [layers], those whose experts share these slots.
        at_start: int64, the keys held before, the first to leave first.
        hits, reads: bool [steps, layers, k] and int32 [calls, layers], written for layers `mine`.
    """
    layers, width = state.value.shape
    slots = len(cache.held) - 1
    clock = np.zeros(1)
    for key in at_start:
        _put(cache, key)
        if kind == LRU:
            clock[0] += 1
            state.value.ravel()[key] = clock[0]
    keys, uses = np.empty(width, np.int64), np.zeros(width, np.int64)
    order, seen = np.empty(width, np.int64), np.zeros(width, np.bool_)
    for call in range(len(starts) - 1):
        first, end = starts[call], starts[call + 1]
        for layer in range(layers):
            wanted = distinct(experts, first, end, layer, keys, seen) if mine[layer] else 0
            if not wanted:
                continue
            if kind == HABIT:
                observe(state, layer, experts[first:end, layer])
                nearness(layers, layer, cache.factor)
            uses[:] = 0
            for step in range(first, end):
                for i in range(experts.shape[2]):
                    if experts[step, layer, i] >= 0:
                        uses[experts[step, layer, i]] += 1
                        key = layer * width + experts[step, layer, i]
                        hits[step, layer, i] = cache.place[key] >= 0
                        if kind == BELADY:
                            state.value.ravel()[key] = -np.float64(future[step, layer, i])
            prompt = end - first > 1 and kind != BELADY
            keys[:wanted] += layer * width
            stay = np.empty(0, np.int64)
            if prompt:
                stay = _favourites(state.value, cache, keys[:wanted], uses, layer, mine.sum())
            if kind == BELADY and (end - first > 1 or wanted > slots):
                reads[call, layer] += _read_unbound(state.value, cache, keys[:wanted], order)
                continue
            size, window = _in_parts(cache, keys[:wanted], uses, prompt, slots, order)
            begin = 0
            while begin < wanted:
                part = order[begin : min(begin + size, wanted)]
                if kind == LRU:
                    for key in part:
                        clock[0] += 1
                        state.value.ravel()[key] = clock[0]
                reads[call, layer] += _serve(state.value, cache, part)
                if prompt:
                    _spare_all_but(state.value, cache, stay, layer)
                begin, size = begin + size, window


@compiled
def _read_unbound(value, cache, keys, order):  # type: ignore[no-untyped-def]
    """Belady's, where `keys` need not be resident together: how many were not.

    One that is used again later than all that is resident takes no slot. `order` is scratch.
    """
    slots = len(cache.held) - 1
    count = 0
    for key in keys:
        if cache.place[key] < 0:
            order[count] = key
            count += 1
    missing = np.empty(count, np.int64)
    least(value, cache.factor, order[:count].copy(), count, cache.keep, missing)
    furthest, pair = np.empty(1, np.int64), np.empty(2, np.int64)
    for i in range(count):
        if cache.held[slots] == slots:
            least(value, cache.factor, cache.held[:slots], slots, cache.keep, furthest)
            pair[0], pair[1] = furthest[0], missing[i]
            least(value, cache.factor, pair, 2, cache.keep, furthest)
            if furthest[0] == missing[i]:
                continue
        _serve(value, cache, missing[i : i + 1])
    return count


@compiled
def _in_parts(cache, keys, uses, prompt, slots, order):  # type: ignore[no-untyped-def]
    """As `SlotTable.split`: write the keys in order; the size of the first part, of the others."""
    wanted, width = len(keys), len(uses)
    if not prompt and wanted <= slots:
        order[:wanted] = keys
        return wanted, wanted
    held = 0
    for key in keys:
        if cache.place[key] >= 0:
            order[held] = key
            held += 1
    done = held
    for key in keys:
        if cache.place[key] < 0:
            at = done
            while prompt and at > held and uses[order[at - 1] % width] > uses[key % width]:
                order[at] = order[at - 1]
                at -= 1
            order[at] = key
            done += 1
    window = slots
    if prompt:
        window = slots - cache.held[slots]
        for key in cache.held[: cache.held[slots]]:
            window += cache.rank.ravel()[key] < 0
        for key in order[:held]:
            window -= cache.rank.ravel()[key] < 0
        window = min(max(window, slots // 4, 1), slots)
    return held + min(window, slots - held), window


@compiled
def _favourites(value, cache, keys, uses, layer, layers):  # type: ignore[no-untyped-def]
    """As `SlotTable.favourites`: the keys of `layer` that stay when a prompt's chunk was read."""
    width = value.shape[1]
    slots = len(cache.held) - 1
    share = max(1, (slots - max(1, slots // 4)) // layers)
    by_use = np.empty(len(keys), np.int64)
    for i in range(len(keys)):
        at = i
        while at > 0 and uses[by_use[at - 1] % width] < uses[keys[i] % width]:
            by_use[at] = by_use[at - 1]
            at -= 1
        by_use[at] = keys[i]
    for key in keys:
        cache.keep[key] = True
    before = _of_layer(value, cache, layer)
    for key in keys:
        cache.keep[key] = False
    out = np.empty(min(share, len(keys) + len(before)), np.int64)
    for i in range(len(out)):
        out[i] = by_use[i] if i < len(keys) else before[len(before) - 1 - (i - len(keys))]
    return out


@compiled
def _spare_all_but(value, cache, stay, layer):  # type: ignore[no-untyped-def]
    """As `SlotTable.spare_all_but`."""
    for key in stay:
        cache.keep[key] = True
    going = _of_layer(value, cache, layer)
    for key in stay:
        cache.keep[key] = False
    cache.lowest[0] -= len(going)
    for i in range(len(going)):
        cache.rank.ravel()[going[i]] = cache.lowest[0] + i


@compiled
def _of_layer(value, cache, layer):  # type: ignore[no-untyped-def]
    """The held keys of `layer`, none of `keep`, the first to leave first."""
    width = value.shape[1]
    mine = np.empty(width, np.int64)
    count = 0
    for key in range(layer * width, (layer + 1) * width):
        if cache.place[key] >= 0 and not cache.keep[key]:
            mine[count] = key
            count += 1
    out = np.empty(count, np.int64)
    _leaving(value, cache, mine[:count], out)
    return out


@compiled
def _leaving(value, cache, among, out):  # type: ignore[no-untyped-def]
    """Write those of `among` that leave first, none of `keep`: the spare ones, then by worth."""
    spare = np.empty(len(among), np.int64)
    count = 0
    if cache.lowest[0] < 0:
        for key in among:
            if cache.rank.ravel()[key] < 0 and not cache.keep[key]:
                spare[count] = key
                count += 1
    if not count:
        least(value, cache.factor, among, len(among), cache.keep, out)
        return
    taken = min(count, len(out))
    least(cache.rank, np.ones(len(cache.factor)), spare, count, cache.keep, out[:taken])
    for key in spare[:count]:
        cache.keep[key] = True
    least(value, cache.factor, among, len(among), cache.keep, out[taken:])
    for key in spare[:count]:
        cache.keep[key] = False


@compiled
def _serve(value, cache, part):  # type: ignore[no-untyped-def]
    """As `SlotTable.reserve`: make room for `part` and put it in; how many were not held."""
    slots = len(cache.held) - 1
    missing = 0
    for key in part:
        cache.keep[key] = True
        missing += cache.place[key] < 0
    if missing:
        out = np.empty(max(0, missing - (slots - cache.held[slots])), np.int64)
        _leaving(value, cache, cache.held[: cache.held[slots]], out)
        for gone in out:
            cache.held[slots] -= 1
            last = cache.held[cache.held[slots]]
            cache.held[cache.place[gone]] = last
            cache.place[last] = cache.place[gone]
            cache.place[gone] = -1
            cache.rank.ravel()[gone] = 0
    for key in part:
        cache.keep[key] = False
        cache.rank.ravel()[key] = 0
        if cache.place[key] < 0:
            _put(cache, key)
    return missing


@compiled
def _put(cache, key):  # type: ignore[no-untyped-def]
    """One more key is held."""
    slots = len(cache.held) - 1
    cache.held[cache.held[slots]] = key
    cache.place[key] = cache.held[slots]
    cache.held[slots] += 1
