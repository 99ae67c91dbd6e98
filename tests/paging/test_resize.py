"""A resize between two runs keeps the logits, and the last used experts stay resident."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from mlx_lm import load as load_unpaged

import outlier_jupyter
from outlier_jupyter.errors import EngineBusy, EngineClosed, OptionError
from outlier_jupyter.events import Resized
from outlier_jupyter.paging import slot_bank
from outlier_jupyter.paging.slot_bank import SlotBank, StagedSlotBank
from outlier_jupyter.residency import ExpertKey
from outlier_jupyter.system.memory_info import Machine
from outlier_jupyter.testing import EventLog
from tests.inspection import inside, pager_of
from tests.paging.test_exact import logits, prompt

TWO_WIDTHS = {
    "model_type": "hunyuan", "moe_topk": 2, "moe_intermediate_size": [64, 128, 64],
    "num_shared_expert": 1, "attention_bias": False, "use_mixed_mlp_moe": True,
    "use_qk_norm": True, "use_cla": False, "cla_share_factor": 2,
    "rope_scaling": {"type": "dynamic", "factor": 1.0, "alpha": 1000.0},
}  # fmt: skip
"""A model whose layers differ in width, and so need two banks."""

MEMORY = "outlier_jupyter.paging.resize_banks.machine_memory"


@pytest.fixture
def engine(tiny):
    with outlier_jupyter.load(tiny, cache_experts=6, policy="lru") as engine:
        yield engine


def check(engine) -> None:
    """Tables are valid, banks have their rows, and every resident expert equals its file."""
    installed = inside(engine)
    for pager in installed.pagers:
        pager.table.check()
        assert pager.bank.slots == pager.table.capacity
        for key in pager.table:
            slot = pager.table.reserve([key]).hits[key]
            for part in installed.switches[key.layer].parts:
                file, offset, nbytes = part.at(key.expert)
                row = np.array(pager.bank.arrays[part.name][slot])
                assert row.tobytes() == file.read_bytes()[offset:][:nbytes]


@pytest.mark.parametrize("bank", [SlotBank, StagedSlotBank])
def test_logits_stay_exact_through_growing_and_shrinking(bank, tiny, monkeypatch):
    """After every size, down to one slot and up to all experts, logits are the unpaged model's."""
    monkeypatch.setattr(slot_bank, "SlotBank", bank)
    reference, _ = load_unpaged(str(tiny))
    with outlier_jupyter.load(tiny, cache_experts=6) as engine:
        for slots in (20, 3, 24, 1, 7, 7, 40):
            engine.resize(cache_experts=slots)
            assert type(pager_of(engine).bank) is bank
            for length in (1, 33):
                expected = logits(reference, prompt(length))
                assert np.array_equal(logits(engine.model, prompt(length)), expected)
            check(engine)
            assert engine.status().slots == engine.info.slots == min(slots, 24)


def test_every_bank_gets_its_share(checkpoint_of):
    """With layers of different shapes, each bank grows and shrinks, and stays exact."""
    folder = checkpoint_of(**TWO_WIDTHS)
    reference, _ = load_unpaged(str(folder))
    expected = logits(reference, prompt(33))
    with outlier_jupyter.load(folder, cache_experts=6) as engine:
        assert [pager.bank.slots for pager in inside(engine).pagers] == [4, 2]
        for slots, shares in ((18, [12, 6]), (3, [2, 1]), (24, [16, 8])):
            engine.resize(cache_experts=slots)
            assert [pager.bank.slots for pager in inside(engine).pagers] == shares
            assert np.array_equal(logits(engine.model, prompt(33)), expected)
            check(engine)


def test_what_was_used_last_stays_and_hits(engine):
    """Growing keeps all resident experts, shrinking the last used ones; neither reads."""
    pager = pager_of(engine)
    keys = [ExpertKey(0, expert) for expert in range(6)]
    pager.acquire(keys)
    pager.acquire(keys[:2])  # touched: now they are the newest
    pager.sink = log = EventLog()
    engine.resize(cache_experts=12)
    assert set(pager.table) == set(keys)
    engine.resize(cache_experts=3)
    assert set(pager.table) == {keys[0], keys[1], keys[5]}
    pager.acquire([keys[0], keys[1], keys[5]])
    assert log.kinds() == []
    check(engine)


def test_status_and_traces_have_the_new_size(engine):
    """In bytes or in experts; a trace has its own run's size, and subscribers get an event."""
    before = engine.generate("Hello", max_tokens=2)
    engine.subscribe(log := EventLog())
    nbytes = inside(engine).switches[0].expert_nbytes
    status = engine.resize(cache_gb=10.5 * nbytes / 1e9)
    assert (status.slots, status.bank_nbytes) == (10, 10 * nbytes)
    assert log.events == [Resized(10)]
    after = engine.generate("Hello", max_tokens=2)
    assert (before.trace.info.slots, after.trace.info.slots) == (6, 10)
    assert after.trace.info.options["cache_experts"] is None
    assert len(after.trace.resident_at_start) == 6 and len(engine.resident()) == 10
    assert engine.resize(cache_experts=4).slots == 4
    assert engine.options.cache_experts == 4


@pytest.mark.parametrize(
    ("size", "sentence"),
    [
        ({}, "give the cache's new size in one way"),
        ({"cache_gb": 1, "cache_experts": 3}, "give the cache's new size in one way"),
        ({"cache_gb": -1}, "cache_gb=-1 cannot be used: give more than 0"),
        ({"cache_experts": 0}, "cache_experts=0 is too small"),
        ({"cache_gb": "1"}, "cache_gb='1' cannot be used"),
        ({"cache_gb": 1e-9}, "too small for even one expert"),
    ],
)
def test_a_size_that_cannot_be_is_one_sentence_and_changes_nothing(engine, size, sentence):
    """The cache keeps its size and its experts."""
    engine.generate("Hello", max_tokens=2)
    residents = set(map(tuple, engine.resident().tolist()))
    with pytest.raises(OptionError, match=sentence) as refused:
        engine.resize(**size)
    assert "\n" not in str(refused.value)
    assert engine.status().slots == 6 and set(map(tuple, engine.resident().tolist())) == residents
    check(engine)


def test_memory_that_is_not_there_is_not_allocated(engine, monkeypatch):
    """The error gives the bytes needed and free; the old bank stays."""
    row = max(pager_of(engine).bank.row_nbytes.values())
    monkeypatch.setattr(
        "outlier_jupyter.paging.resize_banks.machine_memory", lambda: Machine(0, 24 * row)
    )
    with pytest.raises(OptionError, match=r"does not fit: the resize needs .* are free"):
        engine.resize(cache_experts=24)
    assert engine.status().slots == 6
    check(engine)
    # Shrinking needs free memory for only one part of the smaller bank.
    monkeypatch.setattr(MEMORY, lambda: Machine(0, 2 * row))
    assert engine.resize(cache_experts=2).slots == 2


@pytest.mark.parametrize("slots", [3, 20])
def test_an_allocation_that_fails_half_way_leaves_an_exact_engine(engine, tiny, slots, monkeypatch):
    """If the third of nine parts fails, growing keeps the old size, and shrinking the new one."""
    rows, parts = slot_bank.allocate_rows, []

    def fail(part, count):
        parts.append(part)
        if len(parts) == 3:
            raise RuntimeError("no room")
        return rows(part, count)

    engine.generate("Hello", max_tokens=4)
    monkeypatch.setattr(slot_bank, "allocate_rows", fail)
    with pytest.raises(OptionError, match=r"no memory for \d+ experts \(no room\)"):
        engine.resize(cache_experts=slots)
    assert engine.status().slots == min(slots, 6)
    reference, _ = load_unpaged(str(tiny))
    assert np.array_equal(logits(engine.model, prompt(33)), logits(reference, prompt(33)))
    engine.resize(cache_experts=slots)
    assert np.array_equal(logits(engine.model, prompt(33)), logits(reference, prompt(33)))
    check(engine)


def test_only_between_runs(engine):
    """During a run, also one of another thread, one sentence refuses it; afterwards it works."""
    steps = engine.stream("Hello", max_tokens=3)
    next(steps)
    refused = []

    def ask():
        try:
            engine.resize(cache_experts=9)
        except EngineBusy as error:
            refused.append(str(error))

    other = threading.Thread(target=ask)
    other.start()
    other.join()
    assert refused and "another run is under way" in refused[0]
    list(steps)
    assert engine.resize(cache_experts=9).slots == 9
    engine.close()
    with pytest.raises(EngineClosed):
        engine.resize(cache_experts=5)


def test_a_dense_model_has_no_cache(checkpoint_of):
    """Resizing a dense model raises an error that says so."""
    folder = checkpoint_of(num_experts=0, model_type="qwen3", mlp_only_layers=[0, 1, 2])
    with (
        outlier_jupyter.load(folder) as engine,
        pytest.raises(OptionError, match="this model is dense"),
    ):
        engine.resize(cache_gb=1)
