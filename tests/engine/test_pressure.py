"""Memory pressure: the cache shrinks before a call, reports it, grows back; tokens are the same."""

from __future__ import annotations

import pytest

import outlier_jupyter
from outlier_jupyter.engine import pressure as pressure_module
from outlier_jupyter.engine.pressure import CALM_S, LOOK_S, MemoryRelief
from outlier_jupyter.events import Evicted, Resized
from outlier_jupyter.system.memory_info import Machine
from outlier_jupyter.testing import EventLog
from outlier_jupyter.trace import Trace
from tests.inspection import inside, pager_of, relieve_with, stepwise

PROMPT, MOST = "a fox in a box, a bird on a wire", 24
TOTAL = 10**9


class Memory:
    """A machine whose free memory a test sets, and a clock."""

    def __init__(self) -> None:
        self.available, self.now = TOTAL, 0.0

    def __call__(self) -> Machine:
        return Machine(TOTAL, self.available)

    def clock(self) -> float:
        return self.now


@pytest.fixture
def memory():
    return Memory()


@pytest.fixture
def engine(tiny, memory):
    """16 of 24 experts fit; nothing but the test reports pressure."""
    with outlier_jupyter.load(tiny, cache_experts=16, quiet=True) as engine:
        engine.tokenizer.eos_token_ids = set()
        relieve_with(engine, MemoryRelief(engine, memory, memory.clock))
        yield engine


def pressed(engine, memory, missing):
    """Report that so many bytes are missing."""
    memory.available = int(pressure_module.SPARED * TOTAL) - missing
    relief(engine).report()
    memory.available = TOTAL


def relief(engine):
    return relieve_with(engine, None)


def run(engine, do=None):
    return stepwise(engine, PROMPT, MOST, do)


@pytest.mark.parametrize("in_place", [True, False])
def test_a_run_goes_on_with_a_smaller_cache_and_the_same_tokens(
    engine, memory, monkeypatch, in_place
):
    """Within a run it shrinks before the next call; trace, events and status say so."""
    if not in_place:
        monkeypatch.setattr(type(pager_of(engine).bank), "give_back", lambda self, first: False)
    wanted = run(engine)
    log = EventLog()
    engine.subscribe(log, Evicted, Resized)
    nbytes = pager_of(engine).bank.expert_nbytes
    before = engine.memory().experts

    def press():
        memory.available = int(pressure_module.SPARED * TOTAL) - 6 * nbytes
        relief(engine).report()  # a run has the lock: it is noted

    assert run(engine, press) == wanted
    pager_of(engine).table.check()
    status = engine.status()
    assert status.slots == 10 and status.bank_nbytes == 10 * nbytes == engine.memory().experts
    assert before == 16 * nbytes
    assert "memory was short: the cache has 10 of 16 experts' room now" in status.memory_note
    assert status.memory_note in str(status)
    sizes = [event.slots for event in log.events if isinstance(event, Resized)]
    own = [e for e in log.events if isinstance(e, Evicted) and e[:2] == e[3:]]
    assert sizes == [10] and len(own) == 6
    trace = engine.last_run.trace
    assert status.memory_note in trace.info.reader_note
    recorded = trace.evictions
    mine = recorded[
        (recorded["layer"] == recorded["by_layer"]) & (recorded["expert"] == recorded["by_expert"])
    ]
    assert len(mine) == 6
    residents = {tuple(pair) for pair in trace.resident_at_start.tolist()}
    assert {(e.layer, e.expert) for e in own} <= residents | {
        (read["layer"], read["expert"]) for read in trace.reads
    }
    assert run(engine) == wanted


def test_what_it_evicted_is_explained(engine, memory, tmp_path):
    """A trace with such evictions is saved, read and explained: memory was short."""
    run(engine)
    run(engine, lambda: pressed_in_a_run(engine, memory))
    trace = Trace.load(engine.last_run.trace.save(tmp_path / "trace.safetensors"))
    texts = [str(trace.explain(step)) for step in range(trace.steps)]
    assert any("because memory was short" in text for text in texts)


def pressed_in_a_run(engine, memory):
    memory.available = 0
    relief(engine).report()


def test_an_idle_engine_shrinks_at_once_and_grows_back(engine, memory):
    """Not below what a token needs; after calm, step by step, to its full size, and no note."""
    wanted = run(engine)
    nbytes = pager_of(engine).bank.expert_nbytes
    pressed(engine, memory, 3 * nbytes)
    assert inside(engine).slots == 13
    pressed(engine, memory, TOTAL)
    assert inside(engine).slots == 2  # top-2
    assert run(engine) == wanted
    memory.now += CALM_S + LOOK_S
    memory.available = int(pressure_module.SPARED * TOTAL) + nbytes  # too little to grow
    assert run(engine) == wanted and inside(engine).slots == 2
    memory.available = TOTAL
    sizes = []
    for _ in range(4):
        memory.now += LOOK_S
        assert run(engine) == wanted
        sizes.append(inside(engine).slots)
    assert sizes == [6, 10, 14, 16]
    assert engine.status().memory_note == ""
    pager_of(engine).table.check()


def test_pressure_elsewhere_changes_nothing(engine, memory):
    """Where memory is free, others wait for it in a group of their own."""
    relief(engine).report()
    assert inside(engine).slots == 16 and engine.status().memory_note == ""


def test_a_resize_sets_a_new_full_size(engine, memory):
    """What the user says is what it grows back to."""
    wanted = run(engine)
    pressed(engine, memory, TOTAL)
    assert engine.resize(cache_experts=12).slots == 12
    assert engine.status().memory_note == "" and run(engine) == wanted
    pager_of(engine).table.check()


def test_memory_is_returned_to_the_system(tiny):
    """Rows that are given back take no memory, and can be filled again."""
    with outlier_jupyter.load(tiny, cache_experts=24, quiet=True) as engine:
        run(engine)
        bank = pager_of(engine).bank
        if not bank.give_back(20):
            pytest.skip("only Linux takes memory back in place")
        for name in bank.row_nbytes:
            row = bank.row(name, 23)
            inner = bytes(row)[-16:]
            row[-16:] = b"x" * 16
            assert bytes(row[-16:]) == b"x" * 16 and len(inner) == 16
