"""Which (token, expert) pairs of a call can be computed, and from which slots."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from outlier_jupyter.paging.expert_pairs import pairs_in, slots_of_ids
from outlier_jupyter.residency import ExpertKey

EXPERTS = 6
IDS = st.lists(
    st.lists(st.integers(0, EXPERTS - 1), min_size=2, max_size=2), min_size=1, max_size=9
)


@given(rows=IDS, resident=st.sets(st.integers(0, EXPERTS - 1)))
def test_pairs_are_those_whose_experts_are_resident(rows, resident):
    """For one token and for a prompt the pairs are those of a plain loop over the ids."""
    slot_of = {ExpertKey(3, expert): 10 * expert for expert in resident}
    ids = np.array(rows, np.int64)
    pairs, slots = pairs_in(ids, slot_of, EXPERTS)
    flat = ids.ravel().tolist()
    assert pairs.tolist() == [pair for pair, expert in enumerate(flat) if expert in resident]
    assert slots.tolist() == [10 * flat[pair] for pair in pairs.tolist()]
    everywhere = {ExpertKey(3, expert): 10 * expert for expert in range(EXPERTS)}
    assert slots_of_ids(ids, everywhere, EXPERTS).tolist() == (10 * ids).tolist()
