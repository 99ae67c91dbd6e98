"""The cache takes what a loaded process leaves of its limit: by arithmetic, and in a real group."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

import outlier_jupyter
from benchmarks.cgroups import limited
from outlier_jupyter.engine.memory import (
    ACTIVATION_NBYTES,
    GROWTH_NBYTES,
    MLX_CACHE_NBYTES,
    MOST_ACTIVATION_NBYTES,
    SPARE_NBYTES,
)
from outlier_jupyter.engine.memory_budget import MemoryBounds, Needs
from outlier_jupyter.errors import OptionError
from outlier_jupyter.system.memory_info import Machine, process_nbytes
from outlier_jupyter.testing import TINY_CONFIG, hollow_checkpoint
from tests.inspection import needs_of

MB, GB = 10**6, 10**9
WIDE = TINY_CONFIG | {
    "hidden_size": 1024, "moe_intermediate_size": 1024, "num_hidden_layers": 6,
    "num_experts": 128, "head_dim": 128, "num_attention_heads": 8, "num_key_value_heads": 2,
}  # fmt: skip
"""1.4 GB of experts, with no byte on disk."""
LOADED = """
import json, sys
import outlier_jupyter
with outlier_jupyter.load(sys.argv[1], cache_gb="auto", kept_kv_gb=0, quiet=True) as engine:
    run = engine.generate("x" * 300, raw=True, max_tokens=8)
    use = engine.memory()
    print(json.dumps([use.process, use.experts, len(run.trace.reads)]))
"""
SIZES = st.integers(0, 10**11)


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    return hollow_checkpoint(tmp_path_factory.mktemp("wide") / "model", WIDE, dense_seed=1)


def test_ranks_of_one_machine_share_both_bounds():
    """Its free memory, and `ram_gb`, are divided alike."""
    alone, shared = MemoryBounds.now(4.0), MemoryBounds.now(4.0, beside=2)
    assert (alone.ram_gb, shared.ram_gb) == (4.0, 2.0)
    assert shared.machine.total == alone.machine.total // 2
    assert shared.machine.available <= shared.machine.total


def test_the_spare_memory_is_150_mb():
    """It is what activations, MLX's freed memory, and a process's growth may take together."""
    assert SPARE_NBYTES == ACTIVATION_NBYTES + MLX_CACHE_NBYTES + GROWTH_NBYTES == 150 * MB


@given(SIZES, SIZES, SIZES, SIZES, st.integers(0, 10**10))
def test_a_loaded_process_counts_with_what_it_takes(total, free, before, rest, dense):
    """Slots, KV caches and the spare fill what its own size leaves, and no constant beside it."""
    needs = Needs(dense, 2, 3, working=7 * MB, tokens=8192).loaded(before)
    room = MemoryBounds(Machine(total, min(free, total)), rest)
    assert needs.working == SPARE_NBYTES
    assert room.beside(needs) == max(before, rest) + dense + 2 + 3 + SPARE_NBYTES
    assert room.for_experts(needs) + room.beside(needs) == room.most


@given(st.integers(0, 20_000), st.integers(0, 20_000), st.integers(0, 10**6))
def test_activations_take_what_a_run_leaves_of_the_kv_cache(tokens, more, kv_token):
    """At least their own share, never more with a longer run, and never over both shares."""
    needs = Needs(1, 8192 * kv_token + 9, 1, SPARE_NBYTES, 8192, kv_token)
    short, long = needs.activations(tokens), needs.activations(tokens + more)
    assert ACTIVATION_NBYTES <= long <= short <= MOST_ACTIVATION_NBYTES
    taken = min(tokens, needs.tokens) * kv_token + short
    assert taken <= needs.kv_run + ACTIVATION_NBYTES


def test_what_remains_of_a_bound_is_measured_once_all_else_is_loaded(wide):
    """`ram_gb` is filled to within a step of rounding and an expert, and not passed."""
    bound = process_nbytes() + 900 * MB
    with outlier_jupyter.load(wide, ram_gb=bound / GB, kept_kv_gb=0, quiet=True) as engine:
        use, needs = engine.memory(), needs_of(engine)
        assert 0 < engine.status().slots < engine.status().experts
        whole = use.process + needs.kv_run + needs.kv_kept + SPARE_NBYTES
        assert 0.9 * bound < whole <= bound + 20 * MB


def test_a_bound_that_leaves_nothing_is_refused(wide):
    """The error comes before weights are read, by what is expected of the process."""
    with pytest.raises(OptionError, match=r"ram_gb=0\.4 does not fit: .* give a larger ram_gb$"):
        outlier_jupyter.load(wide, ram_gb=0.4, kept_kv_gb=0, quiet=True)


def test_a_process_in_a_control_group_is_not_killed(wide):
    """`cache_gb="auto"` pages there, uses the group well, and stays below its limit."""
    nbytes = 1200 * MB
    with limited(nbytes) as prefix:
        if prefix is None:
            pytest.skip("no control group can be made here")
        command = [*prefix, sys.executable, "-c", LOADED, str(wide)]
        out = subprocess.run(command, capture_output=True, text=True, check=True)
    process, experts, reads = json.loads(out.stdout.splitlines()[-1])
    assert reads > 0 and nbytes / 10 < experts
    assert 0.6 * nbytes < process < nbytes
