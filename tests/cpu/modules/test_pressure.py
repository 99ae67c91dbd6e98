"""Compiled code goes on with a cache that memory pressure made smaller, and with it grown back."""

from __future__ import annotations

import pytest

import outlier_jupyter
from outlier_jupyter.engine.pressure import CALM_S, LOOK_S, MemoryRelief
from outlier_jupyter.system.memory_info import Machine
from tests.inspection import inside, pager_of, relieve_with
from tests.models import checkpoint

PROMPT, MOST = "a fox in a box", 24


@pytest.mark.parametrize("repacked", [True, False])
@pytest.mark.parametrize("how", [{"cache_experts": 16}, {"resident": True}])
def test_tokens_stay_the_same_while_the_cache_changes(tmp_path, repacked, how):
    """Shrunk twice within a run, also one whose experts were all resident; then grown."""
    folder = checkpoint("qwen3_moe", tmp_path / "model")
    if repacked:
        outlier_jupyter.repack(folder, quiet=True)
    options = {"cache_experts": 20, **how} if "resident" not in how else how
    free, now = 10**9, 0.0
    with outlier_jupyter.load(folder, quiet=True, **options) as engine:
        engine.tokenizer.eos_token_ids = set()
        relief = MemoryRelief(engine, lambda: Machine(10**9, free), lambda: now)
        relieve_with(engine, relief)
        wanted = engine.generate(PROMPT, max_tokens=MOST).tokens.tolist()
        full, found, sizes = inside(engine).slots, [], []
        for step in engine.stream(PROMPT, max_tokens=MOST):
            found.append(step.token)
            if len(found) in (3, 6):
                free = 10**8 - 5 * pager_of(engine).bank.expert_nbytes
                relief.report()
            if len(found) > 8:
                free, now = 10**9, now + (CALM_S if len(found) == 9 else LOOK_S)
            sizes.append(inside(engine).slots)
        assert found == wanted
        assert min(sizes) == full - 10 and sizes[-1] == full
        pager_of(engine).table.check()
        assert engine.generate(PROMPT, max_tokens=MOST).tokens.tolist() == wanted
