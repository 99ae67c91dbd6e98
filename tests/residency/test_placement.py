"""Every expert has one rank; the shares are even, in number or in use."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outlier_jupyter.errors import OptionError
from outlier_jupyter.residency.placement import even, learned
from outlier_jupyter.residency.replay import simulate
from outlier_jupyter.residency.resample import RECORDED, recorded
from tests.residency.routings import routing_of

SIZES = st.lists(st.integers(1, 20), min_size=1, max_size=6)


@given(SIZES, st.integers(2, 8))
def test_an_even_placement_gives_each_rank_as_many(sizes, ranks):
    """The ranks' shares of a layer differ by one expert at most."""
    for rank_of, size in zip(even(sizes, ranks), sizes, strict=True):
        counts = np.bincount(rank_of, minlength=ranks)
        assert counts.sum() == size and counts.max() - counts.min() <= 1


@given(SIZES, st.integers(2, 8), st.randoms(use_true_random=False))
def test_a_learned_placement_gives_no_rank_more_than_an_even_share(sizes, ranks, random):
    """Rounded up, whatever the trace has used."""
    steps = [[[random.randrange(size)] for size in sizes] for _ in range(30)]
    for rank_of, size in zip(learned(sizes, ranks, np.array(steps)), sizes, strict=True):
        counts = np.bincount(rank_of, minlength=ranks)
        assert counts.sum() == size and counts.max() <= -(-size // ranks)


def test_a_learned_placement_spreads_what_is_used_most():
    """The four experts that a run has used are two on each of two ranks; evenly all were on one."""
    experts = np.array([[[0, 2]], [[4, 6]]] * 10)
    uses = np.bincount(experts.ravel(), minlength=8)
    [evenly], [balanced] = even([8], 2), learned([8], 2, experts)
    assert [uses[evenly == rank].sum() for rank in (0, 1)] == [40, 0]
    assert [uses[balanced == rank].sum() for rank in (0, 1)] == [20, 20]


def test_a_trace_of_another_model_is_refused():
    """With more layers, or with experts that the model lacks."""
    for experts in (np.zeros((4, 2, 1), int), np.full((4, 1, 1), 8)):
        with pytest.raises(OptionError, match="a trace of this model"):
            learned([8], 2, experts)


@pytest.mark.parametrize("kind", ["even", "learned"])
@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("working_sets", [2, 4])
@pytest.mark.parametrize("name", RECORDED)
def test_each_rank_reads_and_keeps_its_share_of_real_traces(kind, ranks, working_sets, name):
    """Reads are within 10 % of what one process reads divided by the ranks, and caches are full.

    The rule of the even placement was chosen by these two; a learned one has seen the run.
    """
    routing = routing_of(recorded(name), RECORDED[name])
    _, layers, k = routing.experts.shape
    slots, sizes = working_sets * layers * k, routing.experts_per_layer
    whole = int(simulate(routing, "default", slots).reads.sum())
    placement = even(sizes, ranks) if kind == "even" else learned(sizes, ranks, routing.experts)
    layer = np.arange(layers)[:, None]
    rank_of = np.stack(placement)[layer, routing.experts]
    for rank in range(ranks):
        mine = replace(routing, experts=np.where(rank_of == rank, routing.experts, -1))
        reads = int(simulate(mine, "default", slots // ranks).reads.sum())
        assert abs(reads * ranks / whole - 1) < 0.1
        used = np.unique((routing.experts + 1000 * layer)[rank_of == rank])
        assert len(used) >= slots // ranks  # so that the rank's share of the slots is filled
