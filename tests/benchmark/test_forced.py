"""What-if on the routing of real models: an engine with that routing has the predicted hits.

`extracts/` has 48 tokens of 4 layers of two recorded traces, with only the numbers of the experts
chosen: OLMoE-1B-7B's from github.com/sqliteai/waste, Qwen3-30B-A3B's from
github.com/Helldez/BigMoeOnEdge, both Apache-2.0. The files' metadata says which tokens and layers.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import outlier_jupyter
from outlier_jupyter.benchmark.geometry import config_of
from outlier_jupyter.benchmark.models import make
from outlier_jupyter.benchmark.routing import read_source
from outlier_jupyter.benchmark.subjects import BenchmarkText, run_engine
from outlier_jupyter.residency.policies import policy_names

EXTRACTS = sorted((Path(__file__).parent / "extracts").glob("*.safetensors"))
SMALL = {
    "hidden_size": 128, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 64,
    "moe_intermediate_size": 64, "vocab_size": 192,
}  # fmt: skip


@pytest.fixture(scope="module", params=EXTRACTS, ids=lambda path: path.stem)
def forced(request, tmp_path_factory):
    """A tiny model that routes as a real one did, the length of its text, and a run."""
    source = read_source(request.param)
    tokens, layers, k = source.picks.shape
    geometry = {"num_experts": source.experts, "num_experts_per_tok": k}
    model = make("30b", tmp_path_factory.mktemp("forced"), source, repacked=False,
                 config=config_of("30b", layers) | SMALL | geometry)  # fmt: skip
    return model, tokens, run(model, tokens, 3 * k, "lru")


def run(model, tokens: int, slots: int, policy: str):
    """The trace of a fresh engine: eight tokens as a prompt, then all but the last decoded."""
    with outlier_jupyter.load(
        str(model.folder), cache_experts=slots, policy=policy, kernels="mlx", quiet=True
    ) as engine:
        run_engine(engine, model.routes, BenchmarkText(0, 8, tokens - 8))  # refuses another routing
        return engine.last_run.trace


@pytest.mark.parametrize("worth", [0.8, 2], ids=lambda worth: f"{worth} working sets")
def test_what_if_is_the_engine_hit_for_hit_on_real_routing(forced, worth):
    """For each policy of an engine, computed from a run that had another cache."""
    model, tokens, seen = forced
    slots = round(worth * seen.experts[0].size)
    hits = {}
    for policy in policy_names():
        real = run(model, tokens, slots, policy)
        hits[policy] = int(real.hits.sum())
        np.testing.assert_array_equal(np.sort(real.experts, axis=2), np.sort(seen.experts, axis=2))
        for traced in (seen, real):
            row = traced.what_if([slots], [policy]).iloc[0]
            assert (row.hits, row.reads) == (hits[policy], len(real.reads))
            assert row.decode_hits == real.hits[real.phase == 1].sum()
    bound = seen.what_if([slots], ["belady"]).iloc[0]
    assert bound.hits > max(hits.values()) > 0


def test_the_extracts_are_of_real_models():
    """Their sizes differ; a token shares more experts with the one before than by chance."""
    assert len(EXTRACTS) == 2
    for path in EXTRACTS:
        picks, experts = read_source(path).picks, read_source(path).experts
        shared = np.mean([
            len(set(after) & set(before)) / len(after)
            for layer in range(picks.shape[1])
            for before, after in zip(picks[:-1, layer].tolist(), picks[1:, layer].tolist(),
                                     strict=True)
        ])  # fmt: skip
        assert shared > 3 * picks.shape[2] / experts
