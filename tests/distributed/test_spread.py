"""A model whose experts are spread over ranks gives what one process gives, token for token."""

from __future__ import annotations

import numpy as np
import pytest

import outlier_jupyter
from tests.inspection import ranks_of
from tests.models import SPREAD, checkpoint

TOKENS = 6
FAMILIES = ("demo", *SPREAD)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Name → what `load` takes, and how many experts it has."""
    folder = tmp_path_factory.mktemp("models")
    found = {name: checkpoint(name, folder / name) for name in SPREAD}
    return {name: (str(path), 24) for name, path in found.items()} | {"demo": ("demo", 192)}


def generate(engine: outlier_jupyter.Engine) -> list[outlier_jupyter.Run]:
    """A greedy run, and two that sample, one of them with changed routing."""
    engine.tokenizer.eos_token_ids = set()
    options = [{}, {"temperature": 1.0, "seed": 7},
               {"temperature": 1.0, "seed": 7, "mask": "0:0-2", "top_k": 1}]  # fmt: skip
    return [engine.generate("What is it?", raw=True, max_tokens=TOKENS, **each) for each in options]


def test_ranks_begin_with_what_earlier_runs_used(models, tmp_path, monkeypatch):
    """`warm="auto"`: each rank reads its own part of what the model's last runs used."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("OUTLIER_HISTORY", raising=False)
    model, experts = models["qwen3_moe"]
    with outlier_jupyter.load(model, cache_experts=experts) as engine:
        used = generate(engine)[0].trace.experts
    with outlier_jupyter.load(model, hosts=2, cache_experts=experts) as engine:
        status, resident = engine.status(), set(map(tuple, engine.resident().tolist()))
    assert status.tokens_before > 0 and status.ranks[0].resident > 0
    assert {(0, int(expert)) for expert in np.unique(used[:, 0])} <= resident


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("name", FAMILIES)
def test_ranks_give_the_tokens_of_one_process(name, ranks, models):
    """Bit for bit, with its share of the cache on each: the sum adds zeros to each output.

    The trace has the routing, weights and log-probabilities of one process, a hit or a read for
    each choice, and each rank has read its own experts alone.
    """
    model, experts = models[name]
    with outlier_jupyter.load(model, cache_experts=experts // 2) as engine:
        expected = generate(engine)
    with outlier_jupyter.load(model, hosts=ranks, cache_experts=experts // 2 // ranks) as engine:
        found = generate(engine)
        status, resident, memory = engine.status(), engine.resident(), engine.memory()
        rank_of = ranks_of(engine).placement
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.tokens.tolist() == theirs.tokens.tolist()
        for array in ("tokens", "experts", "weights", "logprobs"):
            assert np.array_equal(
                getattr(mine.trace, array), getattr(theirs.trace, array), equal_nan=True
            ), array
        read = mine.trace.reads
        assert read["nbytes"].sum() > 0
    assert status.slots == experts // 2 // ranks * ranks >= status.resident == len(resident) > 0
    assert sum(rank.experts for rank in status.ranks) == experts
    reads = np.concatenate([run.trace.reads for run in found])
    ranks_read = [rank_of[layer][expert] for layer, expert in reads[["layer", "expert"]].tolist()]
    assert np.bincount(ranks_read, minlength=ranks).tolist() == [r.reads for r in status.ranks]
    assert reads["rank"].tolist() == ranks_read
    owned = np.bincount([rank_of[layer][e] for layer, e in resident], minlength=ranks).tolist()
    assert [rank.resident for rank in status.ranks] == owned
    assert [slots for _, slots, _ in memory.ranks] == [r.bank_nbytes for r in status.ranks]
    trace = found[0].trace
    ran = trace.experts.max(axis=(0, 2)) >= 0  # gpt_oss's tiny config leaves its last layer out
    assert np.array_equal(trace.owners[ran], np.array(rank_of)[ran])
    assert trace.info.hosts == ("localhost",) * ranks
    assert trace.rank_us.shape == (len(trace.calls), trace.layers, ranks)
    assert "was waited for" in str(trace.explain(-1))
