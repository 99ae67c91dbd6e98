"""A replay from equal caches has the reads of a naive LRU and of the engine."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outlier_jupyter import load
from outlier_jupyter.errors import OptionError
from outlier_jupyter.testing import tiny_checkpoint
from outlier_jupyter.trace import Trace
from outlier_jupyter.trace.equal_caches import replay_lru
from outlier_jupyter.trace.measures import summarise
from tests.trace.test_routing_measures import routed, routings


@given(routings(), st.integers(7, 20), st.booleans())
def test_token_by_token_it_is_a_naive_lru(trace: Trace, slots: int, warm: bool) -> None:
    """Hits and reads are those of an ordered dictionary that evicts the least recently used.

    The experts of one lookup count as used in the order of their numbers, resident or not.
    """
    start = [(0, e) for e in range(trace.info.experts_per_layer[0])] if warm else []
    resident = OrderedDict.fromkeys(start)
    hits = reads = 0
    for step in range(trace.steps):
        for layer in range(trace.layers):
            lookups = sorted({(layer, int(e)) for e in trace.experts[step, layer] if e >= 0})
            there = [key for key in lookups if key in resident]
            hits += len(there)
            for key in lookups:
                if key not in resident and len(resident) >= slots:
                    del resident[next(other for other in resident if other not in lookups)]
                reads += key not in resident
                resident[key] = None
                resident.move_to_end(key)
    found = replay_lru(trace, slots, start)
    assert (found.hits, found.reads) == (hits, reads)
    assert found.lookups == int((trace.experts >= 0).sum())


def test_it_is_what_the_engine_did(tmp_path: Path) -> None:
    """From an empty cache of its size, a run's replay has the run's own hits, reads and bytes."""
    with load(str(tiny_checkpoint(tmp_path)), cache_experts=9, policy="lru") as engine:
        run = engine.generate("a prompt that is read in one chunk", max_tokens=20)
    seen, found = summarise(run.trace), replay_lru(run.trace, run.trace.info.slots)
    assert (found.hits, found.lookups) == (seen.hits, seen.lookups)
    assert (found.reads, found.nbytes) == (seen.reads, seen.bytes_read)
    assert 0 < found.hits < found.lookups


def test_a_cache_without_slots_is_refused() -> None:
    """One sentence refuses a cache without slots."""
    with pytest.raises(OptionError, match="holds no expert"):
        replay_lru(routed(np.zeros((2, 1, 1)), (2,)), 0)
