"""The (token, expert) pairs of a call against the slots of its layer's experts. Pure arithmetic.

A pair's number is its place in ids [..., k], flattened. The few ids of one token are looked up one
by one; those of a prompt through an array of all the layer's experts.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from ..residency import ExpertKey

Ids = npt.NDArray[np.int64]


def pairs_in(ids: Ids, slot_of: Mapping[ExpertKey, int], experts: int) -> tuple[Ids, Ids]:
    """The numbers of the pairs whose experts are in `slot_of`, and their slots; both [pairs].

    Args:
        slot_of: of experts of one layer, which has so many `experts`.
    """
    if ids.size < experts:
        slot_of_id = {key.expert: slot for key, slot in slot_of.items()}
        flat = enumerate(ids.ravel().tolist())
        found = [(pair, slot_of_id[each]) for pair, each in flat if each in slot_of_id]
        pairs, slots = np.array(found, np.int64).reshape(-1, 2).T
        return pairs, slots
    slots = _slot_array(slot_of, experts)[ids.ravel()]
    pairs = np.flatnonzero(slots >= 0)
    return pairs, slots[pairs]


def slots_of_ids(ids: Ids, slot_of: Mapping[ExpertKey, int], experts: int) -> Ids:
    """The slots of ids [..., k], all of which are in `slot_of`."""
    if ids.size < experts:
        slot_of_id = {key.expert: slot for key, slot in slot_of.items()}
        few = [slot_of_id[each] for each in ids.ravel().tolist()]
        return np.array(few, np.int64).reshape(ids.shape)
    return _slot_array(slot_of, experts)[ids]


def _slot_array(slot_of: Mapping[ExpertKey, int], experts: int) -> Ids:
    """Expert id → slot, int64 [experts]; -1 where an expert is not in `slot_of`."""
    slots = np.full(experts, -1, np.int64)
    slots[[key.expert for key in slot_of]] = list(slot_of.values())
    return slots
