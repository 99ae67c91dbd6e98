"""Memory use: where it is, that its parts add up, and that it stays within its bound."""

from __future__ import annotations

import gc
import json
import subprocess
import sys

import mlx.core as mx
import pytest

import outlier_jupyter
from outlier_jupyter.engine import load as loading
from outlier_jupyter.engine.memory import (
    ACTIVATION_NBYTES,
    MLX_CACHE_NBYTES,
    SPARE_NBYTES,
    MemoryUse,
)
from outlier_jupyter.engine.prefill_chunk import (
    LEAST,
    MOST,
    RESIDENT,
    Costs,
    choose_chunk,
)
from outlier_jupyter.errors import EngineClosed
from outlier_jupyter.formatting import size_words
from outlier_jupyter.testing import TINY_CONFIG, hollow_checkpoint
from tests.inspection import costs_of, inside

CACHE_GB = 0.06
WORK = """
import json, resource, sys
from pathlib import Path
import mlx.core as mx
import outlier_jupyter, outlier_jupyter.engine.load, outlier_jupyter.system.memory_info
from outlier_jupyter.residency import slot_table
from tests.inspection import inside

def peak():
    try:  # Linux's ru_maxrss begins with that of the process this one was forked from
        told = Path("/proc/self/status").read_text().split()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return 1024 * int(told[told.index("VmHWM:") + 1])

slot_table.precompile()  # what is compiled once, as a library is
before = outlier_jupyter.system.memory_info.process_nbytes()
engine = outlier_jupyter.load(sys.argv[1], cache_gb=float(sys.argv[2]), reader="direct",
                              kernels="mlx")
prompt = "".join(chr(33 + 37 * i % 90) for i in range(70))
run = engine.generate(prompt, raw=True, max_tokens=3, reuse_kv=True)
print(json.dumps([before, peak(), len(run.trace.reads), engine.memory().to_dict()]))
"""
"""Load and run; the output begins with the resident set before and its peak."""


@pytest.fixture(scope="module")
def worked(tmp_path_factory):
    """Results of a separate process that ran a model with 283 MB of experts in a cache of 60 MB."""
    config = TINY_CONFIG | {
        "hidden_size": 256, "moe_intermediate_size": 512, "num_experts": 128,
        "num_hidden_layers": 10, "num_attention_heads": 8,
    }  # fmt: skip
    folder = tmp_path_factory.mktemp("memory") / "model"
    hollow_checkpoint(folder, config, dtype=mx.float32, dense_seed=1)
    command = [sys.executable, "-c", WORK, str(folder), str(CACHE_GB)]
    out = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(out.stdout.splitlines()[-1])


def test_a_process_takes_the_requested_memory_and_no_more(worked):
    """Its peak grows by dense weights, cache, KV cache and little else, not by all experts."""
    before, peak, reads, use = worked
    assert reads > 300  # it did page: 239 kB each, more than the cache has room for
    grown = peak - before
    promised = use["dense"] + CACHE_GB * 1e9 + use["kv_kept"]
    # The promise also includes a constant; the bound is tight here because a chunk is small.
    assert 0.9 * use["experts"] < grown < promised + 60_000_000 < promised + SPARE_NBYTES
    assert grown < 0.5 * 283_000_000


def test_the_parts_add_up_to_what_the_system_reports(worked):
    """Each part is measured by itself; their sum is within 5% of the resident set."""
    use = worked[3]
    assert abs(use["unaccounted"]) <= 0.05 * use["process"]
    assert use["accounted"] + use["unaccounted"] == use["process"]
    assert use["experts"] == pytest.approx(CACHE_GB * 1e9, rel=0.01)
    assert use["dense"] > 0 and use["kv_kept"] > 0 and use["readers"] > 0 and use["trace"] > 0
    assert use["mlx_cache"] <= MLX_CACHE_NBYTES


def test_parts_of_memory_move_with_what_is_in_use(tiny):
    """The run's KV cache counts during the run, kept ones after it, and the user's arrays apart."""
    with outlier_jupyter.load(tiny, cache_experts=5, reader="direct") as engine:
        before = engine.memory()
        assert (before.kv_run, before.kv_kept, before.trace) == (0, 0, 0)
        assert before.dense == engine.status().dense_nbytes
        assert before.experts == engine.status().bank_nbytes
        steps = engine.stream("abc", raw=True, max_tokens=2, reuse_kv=True)
        seen = [engine.memory().kv_run for _ in steps]
        after = engine.memory()
        layer = 2 * 256 * 32 * 4  # keys and values of 256 tokens, one head of 32, float32
        assert seen == [3 * layer] * 2 and after.kv_run == 0 and after.kv_kept == 3 * layer
        assert after.readers > 0 and after.trace == engine.last_run.trace.nbytes
        mine = mx.zeros(1_000_000)
        mx.eval(mine)
        assert engine.memory().mlx_other - after.mlx_other >= 4_000_000


def test_memory_mapped_experts_are_seen(tiny):
    """Pages of the checkpoint that a memory map has in RAM are counted."""
    with outlier_jupyter.load(tiny, cache_experts=5, reader="mmap") as engine:
        engine.generate("abc", raw=True, max_tokens=2)
        # Whole pages are counted, and the system may read some more than were touched.
        most = (tiny / "model.safetensors").stat().st_size + 16 * 4096
        assert 0 < engine.memory().readers <= most


def test_the_table_has_a_row_for_each_part():
    """Each row has a size with its unit and a share of the process; one row is the difference."""
    use = MemoryUse(1, 2, 3, 4, 5, 6, 7, 8, python=500_000, process=1_000_000)
    rows = str(use).splitlines()
    shares = {row[:22].strip(): float(row.split()[-2]) / 100 for row in rows}
    assert shares["trace of the last run"] == 8e-6 and shares["dense weights"] == 1e-6
    assert len(rows) == 11 and rows[-1].split() == ["process", "1", "MB", "100", "%"]
    assert rows[-3].split() == ["Python", "at", "load", "500", "kB", "50", "%"]
    assert use.accounted + use.unaccounted == 1_000_000


def test_mlx_s_cache_is_capped_while_an_engine_is_open(tiny):
    """The first engine sets the cap, the last one removes it, and it never raises a limit."""
    normal = mx.set_cache_limit(1 << 40)
    try:
        first = outlier_jupyter.load(tiny, cache_experts=2)
        second = outlier_jupyter.load(tiny, cache_experts=2)
        assert limit() == MLX_CACHE_NBYTES
        first.close()
        first.close()
        assert limit() == MLX_CACHE_NBYTES
        second.close()
        assert limit() == 1 << 40
        mx.set_cache_limit(1000)
        with outlier_jupyter.load(tiny, cache_experts=2):
            assert limit() == 1000
    finally:
        mx.set_cache_limit(normal)


@pytest.mark.parametrize("options", [
    {"kernels": "auto"}, {"kernels": "mlx"}, {"reader": "direct"}, {"resident": True},
    {"overlap": "on"},
])  # fmt: skip
def test_a_closed_engine_holds_no_weights(options, checkpoint_of, monkeypatch):
    """After `close` the arrays are gone, even if engine, model, layer or router is kept."""
    monkeypatch.setattr(loading, "native_wanted", lambda kernels: kernels == "auto")
    folder = checkpoint_of(hidden_size=256, moe_intermediate_size=256, num_experts=32)
    before = mx.get_active_memory()
    engine = outlier_jupyter.load(folder, **{"cache_experts": 30} | options)
    model, installed = engine.model, inside(engine)
    layers, routing = list(model.layers), engine.routing(boost={(0, 1): 1.0})
    active = mx.get_active_memory() - before
    with routing:
        run = engine.generate("x" * 100, raw=True, max_tokens=3, reuse_kv=True)
        engine.close()
    assert active > 4_000_000 and mx.get_active_memory() - before < 400_000
    use = engine.memory()
    assert (use.dense, use.experts, use.kv_run, use.kv_kept, use.readers) == (0, 0, 0, 0, 0)
    assert "closed" in repr(engine) and "its memory was freed" in " ".join(
        str(engine.status()).split()
    )
    assert engine.last_run is run and engine.info.model and not len(engine.resident())
    assert installed.bank_nbytes == 0
    for module in (model, layers[1]):
        with pytest.raises(EngineClosed):
            module(mx.array([[1]]))
    with pytest.raises(EngineClosed):
        engine.resize(cache_experts=5)


def test_closing_one_engine_leaves_another_of_the_same_model(tiny):
    """Objects that mlx-lm's models share, such as an activation, stay usable."""
    with outlier_jupyter.load(tiny, cache_experts=6) as other:
        with outlier_jupyter.load(tiny, cache_experts=6) as engine:
            expected = engine.generate("abc", raw=True, max_tokens=4).tokens.tolist()
        assert other.generate("abc", raw=True, max_tokens=4).tokens.tolist() == expected


@pytest.mark.parametrize("kernels", ["auto", "mlx"])
def test_what_a_run_computed_goes_when_it_ends(kernels, tiny, monkeypatch, no_collection):
    """No kernel argument or cycle keeps its KV cache or weights; a kept cache exists once."""
    monkeypatch.setattr(loading, "native_wanted", lambda kernels: kernels == "auto")
    with outlier_jupyter.load(tiny, cache_experts=24, kernels=kernels) as engine:
        engine.generate("abc", raw=True, max_tokens=2)
        engine.tokenizer.eos_token_ids = set()
        before = engine.memory()
        engine.generate("x" * 2000, raw=True, max_tokens=20)
        after = engine.memory()
        assert after.kv_run == after.kv_kept == 0
        assert after.mlx_other - before.mlx_other < 1000
        engine.generate("x" * 2000, raw=True, max_tokens=20, reuse_kv=True)
        kept = engine.memory()
        assert kept.kv_kept == 3 * 2 * 2048 * 32 * 4
        assert kept.mlx_other - before.mlx_other < 1000


def test_kept_kv_caches_have_a_bound(tiny):
    """The least recently used is evicted; one that is too large is not kept, with a warning."""
    one = 3 * 2 * 256 * 32 * 4
    with outlier_jupyter.load(tiny, cache_experts=24, kept_kv_gb=2.5 * one / 1e9) as engine:
        assert engine.memory().kv_bound == int(2.5 * one)
        for prompt in ("abc", "def", "ghi", "jkl"):
            engine.generate(prompt, raw=True, max_tokens=2, reuse_kv=True)
            assert engine.memory().kv_kept <= engine.memory().kv_bound
        assert engine.memory().kv_kept == 2 * one
        assert f"of at most {size_words(int(2.5 * one))}" in str(engine.memory())
        again = engine.generate("jklm", raw=True, max_tokens=1, reuse_kv=True)
        assert len(again.trace.tokens) == 1  # of four tokens, the cache had three
        with pytest.warns(UserWarning, match=r"is not kept for the next run: it takes .* allows"):
            engine.generate("x" * 1000, raw=True, max_tokens=2, reuse_kv=True)
        assert engine.memory().kv_kept <= 2 * one
    with outlier_jupyter.load(tiny, cache_experts=24, kept_kv_gb=0) as engine:
        with pytest.warns(UserWarning, match="is not kept"):
            engine.generate("abc", raw=True, max_tokens=2, reuse_kv=True)
        assert engine.memory().kv_kept == 0


@pytest.fixture
def no_collection():
    """Disable garbage collection, so that reference cycles stay."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def limit() -> int:
    """MLX's limit now; the only way to read it is to set it."""
    now = mx.set_cache_limit(0)
    mx.set_cache_limit(now)
    return now


def test_the_chunk_follows_from_the_budget():
    """It is longer with more budget, shorter with more experts or context; mlx-lm's if all fits."""
    costs = Costs.of(top_k=8, hidden=2048, width=768, heads=32, fused=False)
    assert costs == Costs(routed=8 * 3 * (2048 + 768) * 4, attended=256)
    sizes = [choose_chunk(1000, costs, False, budget) for budget in (1, 10**8, 10**9, 10**12)]
    assert sizes == [LEAST, 128, 1024, MOST]
    assert choose_chunk(1000, costs, True, 10**12) == RESIDENT
    wide = Costs.of(top_k=64, hidden=2048, width=768, heads=32, fused=False)
    assert choose_chunk(1000, wide, False, 10**9) < choose_chunk(1000, costs, False, 10**9)
    assert choose_chunk(30_000, costs, False, 10**9) < choose_chunk(1000, costs, False, 10**9)
    fused = Costs.of(top_k=8, hidden=2048, width=768, heads=32, fused=True)
    assert choose_chunk(10**6, fused, False, 10**9) == choose_chunk(1, fused, False, 10**9)


def test_a_chunk_of_compiled_attention_does_not_shrink_with_the_context():
    """It has no score matrix, except where mlx-lm's own attention reads the KV cache."""
    costs = Costs.of(top_k=8, hidden=2048, width=768, heads=32, fused=False, bounded=True)
    assert costs.bounded
    short, long = (choose_chunk(context, costs, False, 256_000_000) for context in (512, 10**5))
    assert short == long == 512
    assert choose_chunk(10**5, costs, False, 256_000_000, plain=False) == LEAST


@pytest.mark.parametrize(("kernels", "bounded"), [("auto", True), ("mlx", False)])
def test_attention_is_bounded_where_all_of_it_is_compiled(kernels, bounded, tiny, monkeypatch):
    """The tiny model's attention is; with MLX's kernels none is."""
    monkeypatch.setattr(loading, "native_wanted", lambda kernels: kernels == "auto")
    with outlier_jupyter.load(tiny, cache_experts=6, kernels=kernels) as engine:
        assert costs_of(engine).bounded == bounded


def test_a_chunk_stays_within_its_budget(checkpoint_of):
    """MLX's own peak during prefill is within the estimate that chose the chunk."""
    folder = checkpoint_of(hidden_size=128, moe_intermediate_size=128, num_experts_per_tok=4)
    for slots in (5, 24):
        with outlier_jupyter.load(folder, cache_experts=slots) as engine:
            active = mx.get_active_memory()
            mx.reset_peak_memory()
            engine.generate("abcdefgh" * 128, raw=True, max_tokens=1, prefill_chunk=1023)
            peak = mx.get_peak_memory() - active
            costs = costs_of(engine)
            kv = 3 * 2 * 1024 * 32 * 4
            assert peak <= 1023 * (costs.routed + 1024 * costs.attended) + kv < ACTIVATION_NBYTES
