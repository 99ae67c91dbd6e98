"""Resident layers evaluate nothing during a call, and report all routing."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm import load as load_unpaged

import outlier_jupyter
from outlier_jupyter.engine import choose_reader as reads
from outlier_jupyter.errors import ReadFailed
from outlier_jupyter.events import Routed
from outlier_jupyter.paging import slot_bank
from outlier_jupyter.paging import switch as switch_module
from outlier_jupyter.paging import switch_inputs as inputs_module
from outlier_jupyter.residency import ExpertKey
from outlier_jupyter.testing import EventLog, FaultyReader
from tests.inspection import inside, pager_of
from tests.models import checkpoint, tiny_config
from tests.paging.test_exact import logits, prompt

EVERYTHING = 24
"""Experts of the tiny model: 3 layers × 8."""


class Counting:
    """NumPy, with a count of the arrays copied to the host."""

    def __init__(self) -> None:
        self.arrays = 0

    def __getattr__(self, name):
        return getattr(np, name)

    def array(self, *args, **kwargs):
        self.arrays += isinstance(args[0], mx.array)
        return np.array(*args, **kwargs)


@pytest.fixture
def syncs(monkeypatch):
    """Counts what a switch evaluates (`settle`) and what it copies to the host."""
    counts = Counting()
    for module in (switch_module, inputs_module):
        monkeypatch.setattr(module, "np", counts)
    settle = slot_bank.SlotBank.settle

    def counted(self, *others):
        counts.arrays += len(others)
        settle(self, *others)

    monkeypatch.setattr(slot_bank.SlotBank, "settle", counted)
    return counts


def test_resident_layers_synchronise_nothing(tiny, syncs):
    """With everything in RAM no layer evaluates or copies its ids; paged, each does both."""
    with outlier_jupyter.load(tiny, resident=True) as engine:
        engine.generate("abcdef", raw=True, max_tokens=5)
        assert syncs.arrays == 0
    with outlier_jupyter.load(tiny, cache_experts=EVERYTHING - 1) as engine:
        run = engine.generate("abcdef", raw=True, max_tokens=5)
        assert syncs.arrays == 2 * 3 * len(run.trace.calls)


def test_loading_resident_reads_each_expert_once_and_in_order(tiny):
    """Expert i of the model is in slot i; a run then reads nothing, only hits, and is exact."""
    reference, _ = load_unpaged(str(tiny))
    with outlier_jupyter.load(tiny, resident=True) as engine:
        assert engine.resident().tolist() == [[i // 8, i % 8] for i in range(EVERYTHING)]
        for layer, pager in enumerate(inside(engine).pagers * 3):
            slots = pager.slot_map(layer).host
            assert slots.tolist() == list(range(8 * layer, 8 * layer + 8))
        before = engine.resident().tolist()
        trace = engine.generate("abc", raw=True, max_tokens=4).trace
        assert len(trace.reads) == 0 and trace.hits.all()
        assert (trace.experts >= 0).all() and not np.isnan(trace.weights).any()
        assert (trace.calls["route_ns"] == 0).all()
        assert engine.resident().tolist() == before, "the host's table was asked"
        for length in (1, 40, 130):
            expected = logits(reference, prompt(length))
            assert np.array_equal(logits(engine.model, prompt(length)), expected)


def test_resident_and_paged_report_the_same_routing(tiny):
    """The ids and weights of a run do not depend on which experts are in RAM."""
    traces = []
    for options in ({"resident": True}, {"cache_experts": 5}):
        with outlier_jupyter.load(tiny, **options) as engine:
            traces.append(engine.generate("tell me", max_tokens=8).trace)
    assert np.array_equal(traces[0].experts, traces[1].experts)
    assert np.array_equal(traces[0].weights, traces[1].weights)


def test_a_layer_becomes_resident_when_its_last_expert_is_read(tiny, syncs):
    """From then on it no longer synchronises, whatever other layers do; logits stay exact."""
    reference, _ = load_unpaged(str(tiny))
    with outlier_jupyter.load(tiny, cache_experts=EVERYTHING) as engine:
        pager = pager_of(engine)
        pager.acquire([ExpertKey(1, expert) for expert in (5, 2, 7, 0, 1, 3, 4)])
        assert [pager.slot_map(layer) is None for layer in range(3)] == [True] * 3
        pager.acquire([ExpertKey(1, 6)])
        assert [pager.slot_map(layer) is None for layer in range(3)] == [True, False, True]
        log = EventLog()
        engine.subscribe(log)
        before = syncs.arrays
        engine.generate("q", raw=True, max_tokens=1)
        assert syncs.arrays - before == 2 * 2  # evaluated and copied, in two layers
        order = [e.layer for e in log.events if isinstance(e, Routed)]
        assert order == [0, 2, 1]
        assert np.array_equal(logits(engine.model, prompt(9)), logits(reference, prompt(9)))


def test_a_resident_model_can_be_made_smaller_and_larger_again(tiny):
    """With fewer slots than experts no layer is permanently resident, and logits stay exact."""
    reference, _ = load_unpaged(str(tiny))
    with outlier_jupyter.load(tiny, resident=True) as engine:
        for slots in (9, EVERYTHING, 5):
            engine.resize(cache_experts=slots)
            assert not engine.options.resident
            assert all(pager_of(engine).slot_map(layer) is None for layer in range(3))
            for length in (7, 130):
                expected = logits(reference, prompt(length))
                assert np.array_equal(logits(engine.model, prompt(length)), expected)


def test_a_cache_that_could_evict_never_makes_a_layer_resident(tiny):
    """With fewer slots than experts, a fully resident layer is not permanently resident."""
    with outlier_jupyter.load(tiny, cache_experts=EVERYTHING - 1) as engine:
        pager = pager_of(engine)
        pager.acquire([ExpertKey(1, expert) for expert in range(8)])
        assert pager.slot_map(1) is None


def test_a_read_that_fails_while_all_is_loaded_is_raised_and_closes_the_files(tiny, monkeypatch):
    """`load(resident=True)` fails with the read's error, and no thread or file stays open."""
    closed = []

    def broken(*args):
        reader = FaultyReader(open_reader(*args), lambda where: True)
        reader.close = lambda: closed.append(True)
        return reader

    open_reader = reads.open_reader
    monkeypatch.setattr(reads, "open_reader", broken)
    with pytest.raises(ReadFailed, match="made to fail"):
        outlier_jupyter.load(tiny, resident=True)
    assert closed == [True]


def test_a_model_whose_experts_are_no_switch_is_loaded_whole_with_a_warning(tmp_path):
    """dbrx has a list of MLPs: a warning names it, and it generates as mlx-lm does."""
    config = {
        "model_type": "dbrx", "d_model": 64, "n_layers": 2, "n_heads": 2, "vocab_size": 260,
        "ffn_config": {"ffn_hidden_size": 64, "moe_num_experts": 4, "moe_top_k": 2},
        "attn_config": {"kv_n_heads": 1, "clip_qkv": 8, "rope_theta": 1e4},
    }  # fmt: skip
    folder = checkpoint("dbrx", tmp_path / "dbrx", config)
    reference, _ = load_unpaged(str(folder))
    with pytest.warns(UserWarning, match=r"moe_num_experts=4.*loaded into RAM"):
        engine = outlier_jupyter.load(folder)
    with engine:
        assert engine.status().layers == 0
        assert engine.generate("abc", raw=True, max_tokens=3).generated == 3
        assert np.array_equal(logits(engine.model, prompt(7)), logits(reference, prompt(7)))


def test_a_dense_model_is_loaded_without_a_word(tmp_path, recwarn):
    """A dense model has no experts, no switch and no warning, whatever the cache options."""
    folder = checkpoint("llama", tmp_path / "llama", tiny_config("llama"))
    for options in ({}, {"resident": True}, {"cache_experts": 3}):
        with outlier_jupyter.load(folder, **options) as engine:
            assert engine.generate("abc", raw=True, max_tokens=2).generated == 2
    assert not [w for w in recwarn if issubclass(w.category, UserWarning)]


def test_what_hangs_on_a_switch_beside_its_experts_stays_part_of_the_model(tmp_path):
    """muse_spark puts a norm on its switch: it is not an expert tensor, and stays reachable."""
    folder = checkpoint("muse_spark", tmp_path / "muse")
    with outlier_jupyter.load(folder, cache_experts=4) as engine:
        names = [part.name for part in inside(engine).switches[0].parts]
        assert names and not any("norm" in name for name in names)
        paths = [path for path, _ in engine.model.named_modules()]
        assert sum(path.endswith("experts.post_expert_norm") for path in paths) == 3
