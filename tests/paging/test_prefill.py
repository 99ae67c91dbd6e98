"""A chunk of a prompt reads each expert once, and keeps those that decode needs next."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

import outlier_jupyter
from outlier_jupyter.events import StepDone
from outlier_jupyter.residency import ExpertKey
from outlier_jupyter.residency.policies import make_policy
from outlier_jupyter.residency.slot_table import SlotTable
from tests.inspection import pager_of

CACHES = (1, 2, 5, 8, 12, 20, 24)
"""Slots for 3 layers × 8 experts."""
TEXT = "a prompt that routes to many experts, in each of its layers, once and again"


@pytest.mark.parametrize("slots", CACHES)
@pytest.mark.parametrize("chunk", [9, 64])
def test_each_needed_expert_is_read_once_a_chunk(slots, chunk, tiny):
    """At every cache size, each call reads its experts that are not resident exactly once."""
    with outlier_jupyter.load(tiny, cache_experts=slots) as engine:
        for text in (TEXT, TEXT[::-1]):
            trace = engine.generate(text, raw=True, max_tokens=3, prefill_chunk=chunk).trace
            reads = Counter(
                (int(trace.call[r["step"]]), int(r["layer"]), int(r["expert"])) for r in trace.reads
            )
            assert set(reads.values()) <= {1}
            missed = {
                (int(trace.call[step]), layer, int(trace.experts[step, layer, rank]))
                for step, layer, rank in np.argwhere(~trace.hits)
            }
            assert set(reads) == missed and missed
            pager_of(engine).table.check()


@pytest.mark.parametrize("slots", [6, 12, 20])
def test_what_a_chunk_used_most_stays_in_every_layer(slots, tiny):
    """After the chunk each layer's most used experts are resident, as many as its share."""
    with outlier_jupyter.load(tiny, cache_experts=slots) as engine:
        after = []

        def look(event):
            if isinstance(event, StepDone):
                after.append({tuple(pair) for pair in engine.resident().tolist()})

        engine.subscribe(look)
        trace = engine.generate(TEXT, raw=True, max_tokens=1, prefill_chunk=len(TEXT)).trace
    share = max(1, (slots - slots // 4) // 3)
    for layer in range(3):
        uses = Counter(trace.experts[trace.call == 0, layer].ravel().tolist())
        kept = sorted((uses[e] for e in uses if (layer, e) in after[0]), reverse=True)
        assert len(uses) > share and kept[:share] == sorted(uses.values(), reverse=True)[:share]


def first_decode_hits(folder, slots: int) -> int:
    """Hits in the first generated token's call, over some prompts."""
    hits = 0
    for text in (TEXT, TEXT[::-1], TEXT.upper(), "abc" * 20):
        with outlier_jupyter.load(folder, cache_experts=slots, policy="lru") as engine:
            hits += int(engine.generate(text, raw=True, max_tokens=2).trace.hits[-2:].sum())
    return hits


def test_decode_starts_warmer_than_after_plain_lru(tiny, monkeypatch):
    """The first tokens hit more often than if prefill kept the experts it used last."""
    warm = [first_decode_hits(tiny, slots) for slots in (8, 12, 16)]
    split = SlotTable.split
    monkeypatch.setattr(SlotTable, "split", lambda self, keys, uses=None: split(self, keys))
    monkeypatch.setattr(SlotTable, "demote_except", lambda *_: None)
    plain = [first_decode_hits(tiny, slots) for slots in (8, 12, 16)]
    assert sum(warm) > sum(plain)


def keys(layer: int, *experts: int) -> list[ExpertKey]:
    return [ExpertKey(layer, expert) for expert in experts]


def fill(table: SlotTable, part) -> None:
    for placement in table.reserve(part).placements:
        table.commit(placement)


def test_parts_pass_through_the_slots_that_can_be_spared():
    """Resident experts come first, then the others by rising use, in parts of the demoted slots."""
    table = SlotTable(8, make_policy("lru", (8, 8, 8)))
    fill(table, keys(0, 0, 1, 2, 3))
    fill(table, keys(1, 0, 1, 2, 3))
    table.demote_except(0, frozenset(keys(0, 0, 1)))
    uses = dict(zip(keys(2, 0, 1, 2, 3, 4), (5, 1, 4, 2, 3), strict=True))
    parts = table.split([*uses], uses)
    assert parts == [tuple(keys(2, 1, 3)), tuple(keys(2, 4, 2)), tuple(keys(2, 0))]
    keep = table.most_used(2, uses, layers=3)
    assert keep == set(keys(2, 0, 2))
    for part in parts:
        fill(table, part)
        table.demote_except(2, keep)
        table.check()
    assert set(table) >= {*keys(0, 0, 1), *keys(2, 0, 2)}
    assert len(table.split([*uses])) == 1  # a single token's experts at once, as long as they fit


def test_a_share_is_filled_up_with_the_last_used():
    """A short prompt that uses few experts does not evict what decode used before it."""
    table = SlotTable(8, make_policy("lru", (8, 8, 8)))
    fill(table, keys(0, 0, 1, 2, 3))
    fill(table, keys(0, 1))  # requested again: the latest
    assert table.most_used(0, {ExpertKey(0, 7): 3}, layers=2) == set(keys(0, 7, 1, 3))
