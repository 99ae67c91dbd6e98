"""The slot table as arrays, and the compiled functions that look up, reserve and evict in it.

The engine's table and the replay of a trace call the same functions, so a replay does what the
engine does. A key is a number here: layer × width + expert, where width is the most experts of a
layer. A slot is free, reserved (being read into) or resident.

An expert's value is its policy's score × its layer's weight. The lowest value is evicted first, and
of equals the lower key. Experts that a prompt no longer needs are demoted: they are evicted before
all others.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from . import Float64s, Int64s
from .numba_options import compiled

FREE, RESERVED = -1, -2
"""The states of slots without a resident expert in `Slots.key_of`."""
HIT = -2
"""Written to `evicted` by `reserve` for a key that is resident already."""

IN_USE, UNUSED, CAPACITY, PINNED = 0, 1, 2, 3
"""Positions in `Slots.counts`: resident experts, free slots, all cache slots, pinned experts."""


class Slots(NamedTuple):
    """Which expert is in which slot.

    Attributes:
        key_of: int64 [slots], the resident key, or FREE or RESERVED.
        slot_of: int64 [keys], the slot of a resident key, or -1.
        free: int64 [slots], a stack of free slots: counts[UNUSED] of them, the last is taken next.
        counts: int64 [4], at the positions above.
        rank: float64 [layers, width], below 0 for demoted experts: the lowest is evicted first.
        lowest: float64 [1], the lowest rank given so far.
        keep: int64 [keys], above 0 for experts that must not be evicted now.
        score: float64 [layers, width] and weight: float64 [layers], the policy's.
    """

    key_of: Int64s
    slot_of: Int64s
    free: Int64s
    counts: Int64s
    rank: Float64s
    lowest: Float64s
    keep: Int64s
    score: Float64s
    weight: Float64s


def new_slots(capacity: int, score: Float64s, weight: Float64s) -> Slots:
    """`capacity` free slots.

    Args:
        score, weight: float64 [layers, width] and [layers]; the policy writes them.
    """
    return Slots(
        np.full(capacity, FREE, np.int64),
        np.full(score.size, -1, np.int64),
        np.arange(capacity - 1, -1, -1),
        np.array([0, capacity, capacity, 0], np.int64),
        np.zeros(score.shape),
        np.zeros(1),
        np.zeros(score.size, np.int64),
        score,
        weight,
    )


@compiled
def least(score, weight, among, keep, out):  # type: ignore[no-untyped-def]
    """Write the keys with the lowest score × weight of their layer to `out`; return how many.

    Args:
        among: int64 keys; numbers below 0 are skipped.
        keep: int64 [keys], not 0 for keys to leave out.
        out: int64, written: the lowest first; of equals, the lower key.
    """
    width = score.shape[1]
    flat = score.ravel()
    values = np.empty(len(out))
    found = 0
    for key in among:
        if key < 0:
            continue
        value = flat[key] * weight[key // width]
        at = found
        if found == len(out):
            if found == 0 or value > values[found - 1]:
                continue
            if value == values[found - 1] and key > out[found - 1]:
                continue
            at = found - 1
        if keep[key]:
            continue
        while at > 0 and (
            values[at - 1] > value or (values[at - 1] == value and out[at - 1] > key)
        ):
            values[at], out[at] = values[at - 1], out[at - 1]
            at -= 1
        values[at], out[at] = value, key
        found = min(found + 1, len(out))
    return found


@compiled
def evicted_first(slots, among, out):  # type: ignore[no-untyped-def]
    """Write the first of `among` in eviction order (demoted first) to `out`; return how many."""
    demoted = np.empty(len(among), np.int64)
    count = 0
    if slots.lowest[0] < 0:
        for key in among:
            if key >= 0 and slots.rank.ravel()[key] < 0 and not slots.keep[key]:
                demoted[count] = key
                count += 1
    if not count:
        return least(slots.score, slots.weight, among, slots.keep, out)
    alike = np.ones(len(slots.weight))
    taken = least(slots.rank, alike, demoted[:count], slots.keep, out[: min(count, len(out))])
    for key in demoted[:count]:
        slots.keep[key] += 1
    taken += least(slots.score, slots.weight, among, slots.keep, out[taken:])
    for key in demoted[:count]:
        slots.keep[key] -= 1
    return taken


@compiled
def fits(slots, keys):  # type: ignore[no-untyped-def]
    """Whether distinct `keys` can be resident together, beside pinned and reserved slots."""
    missing = 0
    for key in keys:
        missing += slots.slot_of[key] < 0
    if missing <= slots.counts[UNUSED]:
        return True
    evictable = slots.counts[UNUSED]
    for key in slots.key_of:
        evictable += key >= 0 and not slots.keep[key]
    for key in keys:
        evictable -= slots.slot_of[key] >= 0 and not slots.keep[key]
    return missing <= evictable


@compiled
def reserve(slots, keys, where, evicted):  # type: ignore[no-untyped-def]
    """Look up distinct `keys` together, and take a slot for each that is not resident.

    They must fit (`fits`). A key that gets a slot is resident from `put` on.

    Args:
        where: int64 [keys], written: the slot of each key.
        evicted: int64 [keys], written: HIT, FREE, or the key that was evicted for it.

    Returns:
        the number of keys that were not resident.
    """
    missing = 0
    for key in keys:
        slots.keep[key] += 1
        missing += slots.slot_of[key] < 0
    victims = np.empty(max(0, missing - slots.counts[UNUSED]), np.int64)
    if len(victims):
        evicted_first(slots, slots.key_of, victims)
    for key in keys:
        slots.keep[key] -= 1
    next_victim = 0
    for i in range(len(keys)):
        key = keys[i]
        slots.rank.ravel()[key] = 0
        where[i], evicted[i] = slots.slot_of[key], HIT
        if where[i] >= 0:
            continue
        if slots.counts[UNUSED]:
            slots.counts[UNUSED] -= 1
            where[i], evicted[i] = slots.free[slots.counts[UNUSED]], FREE
        else:
            where[i], evicted[i] = _remove(slots, victims[next_victim]), victims[next_victim]
            next_victim += 1
        slots.key_of[where[i]] = RESERVED
    return missing


@compiled
def _remove(slots, key):  # type: ignore[no-untyped-def]
    """Make `key` no longer resident; return its slot."""
    slot = slots.slot_of[key]
    slots.slot_of[key] = -1
    slots.rank.ravel()[key] = 0
    slots.counts[IN_USE] -= 1
    return slot


@compiled
def evict(slots, count):  # type: ignore[no-untyped-def]
    """Evict the first `count` experts in eviction order, and free their slots; return how many."""
    victims = np.empty(count, np.int64)
    found = evicted_first(slots, slots.key_of, victims)
    for key in victims[:found]:
        free_slot(slots, _remove(slots, key))
    return found


@compiled
def put(slots, key, slot):  # type: ignore[no-untyped-def]
    """Make `key` resident in `slot`, which was reserved for it."""
    slots.key_of[slot] = key
    slots.slot_of[key] = slot
    slots.counts[IN_USE] += 1


@compiled
def free_slot(slots, slot):  # type: ignore[no-untyped-def]
    """Free `slot`; it is the next to be taken."""
    slots.key_of[slot] = FREE
    slots.free[slots.counts[UNUSED]] = slot
    slots.counts[UNUSED] += 1


@compiled
def streaming_slots(slots):  # type: ignore[no-untyped-def]
    """Slots that a prompt streams its experts through, where none are free or demoted."""
    return max(1, (slots.counts[CAPACITY] - slots.counts[PINNED]) // 4)


@compiled
def split(slots, keys, uses, prompt, order):  # type: ignore[no-untyped-def]
    """Split a lookup into parts that fit the slots, resident keys first, so that they still hit.

    One token's experts that fit keep their order: LRU must not depend on which are resident. Of a
    prompt, the most used come last, and a part takes only free, demoted and streaming slots.

    Args:
        uses: int64 [keys], how often each key is used; read only for a prompt.
        order: int64 [keys], written: the keys, part after part.

    Returns:
        the size of the first part, and of the others.
    """
    room = slots.counts[CAPACITY] - slots.counts[PINNED]
    count = len(keys)
    if not prompt and count <= room:
        order[:count] = keys
        return count, count
    resident, taken = 0, slots.counts[PINNED]
    for key in keys:
        if slots.slot_of[key] >= 0:
            order[resident] = key
            resident += 1
            taken += slots.keep[key] == 0
    done = resident
    use = np.empty(count, np.int64)
    for i in range(count):
        if slots.slot_of[keys[i]] < 0:
            at = done
            while prompt and at > resident and use[at - 1] > uses[i]:
                order[at], use[at] = order[at - 1], use[at - 1]
                at -= 1
            order[at], use[at] = keys[i], uses[i] if prompt else 0
            done += 1
    window = room
    if prompt:
        window = slots.counts[UNUSED]
        for key in slots.key_of:
            window += key >= 0 and slots.rank.ravel()[key] < 0
        for key in order[:resident]:
            window -= slots.rank.ravel()[key] < 0
        window = min(max(window, streaming_slots(slots)), room)
    return resident + max(0, min(window, slots.counts[CAPACITY] - taken)), window


@compiled
def most_used(slots, keys, uses, layer, layers):  # type: ignore[no-untyped-def]
    """The keys of `layer` to keep after a chunk of a prompt, int64.

    They are those that the chunk uses most, then earlier ones that would be evicted last, up to the
    layer's share of the slots that no prompt streams through.

    Args:
        keys, uses: int64, the layer's keys in the chunk, and how often it uses them.
        layers: how many layers share the slots.
    """
    room = slots.counts[CAPACITY] - slots.counts[PINNED]
    share = max(1, (room - streaming_slots(slots)) // layers)
    most, use = np.empty(len(keys), np.int64), np.empty(len(keys), np.int64)
    for i in range(len(keys)):
        at = i
        while at > 0 and use[at - 1] < uses[i]:
            most[at], use[at] = most[at - 1], use[at - 1]
            at -= 1
        most[at], use[at] = keys[i], uses[i]
    for key in keys:
        slots.keep[key] += 1
    before = _of_layer(slots, layer)
    for key in keys:
        slots.keep[key] -= 1
    out = np.empty(min(share, len(keys) + len(before)), np.int64)
    for i in range(len(out)):
        out[i] = most[i] if i < len(keys) else before[len(before) - 1 - (i - len(keys))]
    return out


@compiled
def demote_except(slots, stay, layer):  # type: ignore[no-untyped-def]
    """Demote the resident experts of `layer`, except `stay`: they are evicted first."""
    for key in stay:
        slots.keep[key] += 1
    victims = _of_layer(slots, layer)
    for key in stay:
        slots.keep[key] -= 1
    slots.lowest[0] -= len(victims)
    for i in range(len(victims)):
        slots.rank.ravel()[victims[i]] = slots.lowest[0] + i


@compiled
def _of_layer(slots, layer):  # type: ignore[no-untyped-def]
    """The resident keys of `layer` that may be evicted, in eviction order."""
    width = slots.score.shape[1]
    resident = np.empty(width, np.int64)
    count = 0
    for key in range(layer * width, (layer + 1) * width):
        if slots.slot_of[key] >= 0 and not slots.keep[key]:
            resident[count] = key
            count += 1
    out = np.empty(count, np.int64)
    evicted_first(slots, resident[:count], out)
    return out


def order(slots: Slots) -> Int64s:
    """The resident keys in eviction order; pinned ones, which are never evicted, come last."""
    return ranked(slots, np.flatnonzero(slots.slot_of >= 0))


def ranked(slots: Slots, keys: Int64s) -> Int64s:
    """`keys`, which ascend, in the order in which `slots` would evict them; pinned ones last."""
    values = slots.score.ravel()[keys] * slots.weight[keys // slots.score.shape[1]]
    rank = slots.rank.ravel()[keys]
    # 0 demoted, 1 the others, 2 pinned: each group has its own values.
    group = np.where(slots.keep[keys] > 0, 2, np.where(rank < 0, 0, 1)).astype(np.int16)
    if not slots.lowest[0] and not slots.counts[PINNED]:
        found: Int64s = keys[np.argsort(values, kind="stable")]
        return found
    values[group == 0] = rank[group == 0]
    found = keys[np.lexsort((values, group))]
    return found


def check(slots: Slots, reserved: npt.NDArray[np.bool_]) -> None:
    """Assert that every slot is in exactly one state; for tests."""
    resident = np.flatnonzero(slots.key_of >= 0)
    assert (slots.slot_of[slots.key_of[resident]] == resident).all(), "a key is in two slots"
    assert (slots.slot_of >= 0).sum() == len(resident) == slots.counts[IN_USE], "keys lost"
    free = slots.free[: slots.counts[UNUSED]]
    assert sorted(free) == np.flatnonzero(slots.key_of == FREE).tolist(), "free slots lost"
    assert slots.counts[CAPACITY] == len(slots.key_of), "slots lost"
    assert ((slots.key_of == RESERVED) == reserved).all(), "reserved slots lost"
    assert (slots.slot_of[np.flatnonzero(slots.rank.ravel() < 0)] >= 0).all(), (
        "demoted, not resident"
    )
