"""Experts in RAM are computed while others are read, and nothing else changes."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future

import mlx.core as mx
import numpy as np
import pytest

import outlier_jupyter
from outlier_jupyter.cpu.modules import decoder_layer as layer
from outlier_jupyter.cpu.modules import switch
from outlier_jupyter.errors import ReadFailed
from outlier_jupyter.events import Evicted, PagedIn, Waited
from outlier_jupyter.paging.fetch import LARGE, Fetch, overlaps
from outlier_jupyter.paging.shared_expert import OverlappedSharedExpert
from outlier_jupyter.residency import ExpertKey
from outlier_jupyter.residency.policies import make_policy
from outlier_jupyter.residency.slot_table import SlotTable
from outlier_jupyter.runs.run import Interrupted
from outlier_jupyter.testing import EventLog, FakeClock, FaultyReader, PausedReader
from tests.inspection import fetch_under_way, inside, pager_of
from tests.models import checkpoint
from tests.paging.test_exact import logits, prompt

CACHES = (1, 2, 3, 8, 24)
"""Slots for 3 layers × 8 experts, top-2."""


@pytest.fixture
def engine(tiny):
    with outlier_jupyter.load(tiny, cache_experts=6, kernels="auto", overlap="on") as engine:
        yield engine


def a_layer(engine):
    """Layer 1's switch, activations of one token, and its pager."""
    x = mx.array(np.random.default_rng(0).normal(size=(1, 1, 64)).astype(np.float32))
    return engine.model.layers[1].mlp.switch_mlp, x, pager_of(engine)


def ids(*experts):
    return mx.array(np.array(experts, np.uint32)[None, None])


@pytest.mark.parametrize("slots", CACHES)
def test_no_bit_depends_on_the_overlap(slots, tiny):
    """Prompts and decode give the same bits with overlap and without, at every cache size."""
    found = []
    for overlap in ("on", "off"):
        with outlier_jupyter.load(
            tiny, cache_experts=slots, kernels="auto", overlap=overlap
        ) as engine:
            found.append([logits(engine.model, prompt(length)) for length in (1, 7, 300)])
    for on, off in zip(*found, strict=True):
        assert np.array_equal(on, off)


@pytest.mark.parametrize("slots", [24, 96])
def test_tokens_and_trace_are_the_same(slots):
    """The demo model's run is the same in tokens, hits, weights, reads and evictions."""
    runs = []
    for overlap in ("on", "off"):
        with outlier_jupyter.load(
            "demo", cache_experts=slots, kernels="auto", overlap=overlap
        ) as engine:
            runs.append(engine.generate("import os\n\ndef read_file", raw=True, max_tokens=30))
    on, off = (run.trace for run in runs)
    assert len(on.reads) > slots / 2
    for name in ("tokens", "experts", "weights", "hits", "evictions", "resident_at_start"):
        assert np.array_equal(getattr(on, name), getattr(off, name), equal_nan=name == "weights")
    for name in ("step", "layer", "expert", "nbytes"):
        assert np.array_equal(on.reads[name], off.reads[name]), name


def test_hits_are_computed_while_reads_are_under_way(engine, monkeypatch):
    """No read ends before the experts in RAM are computed, and the sum is the same."""
    paged, x, pager = a_layer(engine)
    pager.acquire([ExpertKey(1, 3), ExpertKey(1, 6), ExpertKey(1, 1), ExpertKey(1, 5)])
    wanted = np.array(paged(x, ids(3, 1, 6, 5)))
    pager.acquire([ExpertKey(0, expert) for expert in range(6)])  # evict them
    pager.acquire([ExpertKey(1, 3), ExpertKey(1, 6)])
    paused = pager.reader = PausedReader(pager.reader)
    computed = []

    def add(self, mine, slots, whole=switch.NativePartialExperts.add):
        whole(self, mine, slots)
        computed.append((mine.tolist(), paused.done))
        paused.release()

    monkeypatch.setattr(switch.NativePartialExperts, "add", add)
    assert np.array_equal(np.array(paged(x, ids(3, 1, 6, 5))), wanted)
    assert computed[0] == ([0, 2], 0)
    assert sorted(place for places, _ in computed[1:] for place in places) == [1, 3]


def test_what_has_landed_is_computed_while_the_rest_is_read(engine, monkeypatch):
    """A miss whose read is done does not wait for another read."""
    paged, x, pager = a_layer(engine)
    gate = threading.Event()
    slow = inside(engine).switches[1].parts[0].at(5)
    pager.reader = FaultyReader(pager.reader, lambda where: where == slow and not gate.wait(20))
    computed = []

    def add(self, mine, slots, whole=switch.NativePartialExperts.add):
        whole(self, mine, slots)
        computed.append(mine.tolist())
        gate.set()

    monkeypatch.setattr(switch.NativePartialExperts, "add", add)
    paged(x, ids(5, 2))
    assert computed == [[1], [0]]


def test_small_experts_are_read_first_by_default(tiny):
    """By default, overlap is for experts that are large enough to gain from it."""
    with outlier_jupyter.load(tiny, cache_experts=2, overlap="auto") as engine:
        assert not pager_of(engine).overlap
    assert [overlaps(each, LARGE) for each in ("auto", "on", "off")] == [True, True, False]
    assert [overlaps(each, LARGE - 1) for each in ("auto", "on", "off")] == [False, True, False]


def test_without_overlap_all_is_read_first(tiny):
    """Without overlap the same hits wait, so a reader that waits for them times out."""
    with outlier_jupyter.load(tiny, cache_experts=6, kernels="auto", overlap="off") as engine:
        paged, x, pager = a_layer(engine)
        pager.acquire([ExpertKey(1, 3)])
        pager.reader = PausedReader(pager.reader, patience_s=0.05)
        with pytest.raises(ReadFailed):
            paged(x, ids(3, 1))


@pytest.mark.parametrize("model_type", ["qwen2_moe", "glm4_moe", "qwen3_next"])
def test_the_shared_expert_is_computed_while_reads_are_under_way(model_type, tmp_path, monkeypatch):
    """The shared expert of a native layer needs no read and waits for none."""
    folder = checkpoint(model_type, tmp_path / "model")
    with outlier_jupyter.load(folder, cache_experts=4, kernels="auto", overlap="on") as engine:
        wanted = logits(engine.model, prompt(5))
        pager = pager_of(engine)
        pager.acquire([ExpertKey(0, expert) for expert in range(4)])
        pager.acquire([ExpertKey(1, expert) for expert in range(4)])
        made = []

        def shared(self, whole=layer.LayerPlan.run_shared):
            made.append(paused.done)
            paused.release()
            whole(self)

        monkeypatch.setattr(layer.LayerPlan, "run_shared", shared)
        paused = pager.reader = PausedReader(pager.reader)
        assert np.array_equal(logits(engine.model, prompt(1))[1:].shape, wanted[1:].shape)
        assert made[0] == 0
        assert np.array_equal(logits(engine.model, prompt(5)), wanted)


@pytest.mark.parametrize("model_type", ["dots1", "llama4", "ernie4_5_moe"])
def test_shared_experts_of_other_blocks_are_computed_early(model_type, tmp_path, monkeypatch):
    """A block of mlx-lm's code receives what was computed while experts were read.

    llama4's experts have another input than its shared one: no overlap, the same numbers.
    """
    folder = checkpoint(model_type, tmp_path / "model")
    made, taken, found = [], [], []

    def compute(self, x, whole=OverlappedSharedExpert.compute):
        whole(self, x)
        made.append(paused.done)
        paused.release()

    def take(self, x, whole=OverlappedSharedExpert.take):
        found = whole(self, x)
        taken.append(found is not None)
        return found

    monkeypatch.setattr(OverlappedSharedExpert, "compute", compute)
    monkeypatch.setattr(OverlappedSharedExpert, "take", take)
    for overlap in ("on", "off"):
        with outlier_jupyter.load(
            folder, cache_experts=3, kernels="auto", overlap=overlap
        ) as engine:
            pager = pager_of(engine)
            paused = pager.reader = PausedReader(pager.reader)
            if overlap == "off":
                paused.release()
            found.append([logits(engine.model, prompt(length)) for length in (1, 40)])
    assert made[0] == 0
    assert any(taken) == (model_type != "llama4")
    for on, off in zip(*found, strict=True):
        assert np.array_equal(on, off)


def test_a_read_that_fails_half_way_leaves_everything_whole(engine):
    """One miss fails after hits were computed: the others stay, and the next request succeeds."""
    paged, x, pager = a_layer(engine)
    pager.acquire([ExpertKey(1, 3)])
    reader = pager.reader
    bad = inside(engine).switches[1].parts[2].at(4)
    pager.reader = FaultyReader(reader, lambda where: where == bad)
    with pytest.raises(ReadFailed, match="made to fail"):
        paged(x, ids(3, 4, 6))
    pager.table.check()
    assert set(pager.table) == {(1, 3), (1, 6)}
    pager.reader = reader
    assert np.isfinite(np.array(paged(x, ids(3, 4, 6)))).all()


def test_an_interrupt_while_reads_are_under_way_leaves_nothing_dangling(engine, monkeypatch):
    """Ctrl-C between two experts waits for the reads and commits them; the engine continues."""
    paged, x, pager = a_layer(engine)
    pager.acquire([ExpertKey(1, 3)])
    paused = pager.reader = PausedReader(pager.reader)

    def add(self, mine, slots):
        threading.Timer(0.05, paused.release).start()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(switch.NativePartialExperts, "add", add)
        paged(x, ids(3, 1, 4))
    assert paused.waiting == 0 and not fetch_under_way(pager)
    pager.table.check()
    assert set(pager.table) == {(1, 3), (1, 1), (1, 4)}
    assert np.isfinite(np.array(paged(x, ids(3, 1, 4)))).all()


def test_stop_while_reads_are_under_way_ends_the_run(engine):
    """The layer finishes, the run ends before the next one, and it is kept."""
    pager = pager_of(engine)
    paused = pager.reader = PausedReader(pager.reader)

    def stop():
        while not paused.waiting:
            time.sleep(0.001)
        engine.stop()
        paused.release()

    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(Interrupted):
        engine.generate("stop me", max_tokens=50)
    thread.join()
    pager.table.check()
    assert engine.generate("and again", max_tokens=2).finish_reason == "length"


def test_reported_waits_were_waited_for():
    """A read that ends during other work adds no waiting; its own length is still recorded."""
    clock, log = FakeClock(), EventLog()
    table = SlotTable(2, make_policy("lru", (8, 8, 8)))
    keys = [ExpertKey(0, 0), ExpertKey(0, 1)]
    for placement in table.reserve(keys).placements:
        table.commit(placement)
    read: Future[tuple[int, int, int]] = Future()
    bank = type("Bank", (), {"commit": lambda self, slots: None})()
    requested = [keys[1], ExpertKey(0, 7)]
    fetch = Fetch(table.reserve(requested), bank, table, at_once=False, clock=clock, report=log)
    fetch.begin(lambda placements: [read])
    groups = []
    for group in fetch.arrivals():
        groups.append(list(group))
        clock.now += 500
        if not read.done():
            read.set_result((10, 3, 400))
    fetch.finish()
    assert groups == [[requested[0]], [requested[1]]]
    assert log.events == [
        Evicted(*keys[0], fetch.slots[requested[1]], 0, 7),
        PagedIn(0, 7, fetch.slots[requested[1]], 10, 3, 400),
        Waited(0, 0, 0),
    ]
