"""An intervention changes the routing as described, where specified, and nowhere else."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm import load as load_unpaged

import outlier_jupyter
from outlier_jupyter.errors import OptionError
from outlier_jupyter.options import GenerateOptions, make
from outlier_jupyter.paging.interventions import Intervention, parse_experts
from outlier_jupyter.residency import ExpertKey
from tests.models import checkpoint

PROMPT = "def f(x):\n    return g(x, 2) + 1"
LAYERS = (8, 8, 4)


def traced(engine, **routing):
    return engine.generate(PROMPT, raw=True, max_tokens=4, **routing).trace


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["0:3"], [(0, 3)]),
        (["0:1-3,7"], [(0, 1), (0, 2), (0, 3), (0, 7)]),
        (["0-1:5", "2:0"], [(0, 5), (1, 5), (2, 0)]),
        (["2:*"], [(2, 0), (2, 1), (2, 2), (2, 3)]),
        (["0:3;1:4 0:3"], [(0, 3), (1, 4)]),
    ],
)
def test_experts_are_named_by_numbers_ranges_and_stars(words, found):
    """LAYERS:EXPERTS, several per word, each expert once."""
    assert parse_experts("mask", words, LAYERS) == [ExpertKey(*pair) for pair in found]


@pytest.mark.parametrize("word", ["3", "0:", "a:1", "0:1-", "3:0", "2:4", "-1:0", "0:1:2"])
def test_what_names_no_expert_is_refused(word):
    """The error quotes the text and gives the valid form."""
    with pytest.raises(OptionError, match=rf"mask='{word}'.*(LAYER:EXPERT|the last one is 2:3)"):
        parse_experts("mask", [word], LAYERS)


def test_pairs_and_mappings_are_spelled_out():
    """The API takes (layer, expert) and {expert: number}; both become the words of the flags."""
    options = make(GenerateOptions, {"mask": [(0, 3), "1:4-5"], "boost": {(2, 1): 2.0, "0:7": -1}})
    assert options.mask == ("0:3", "1:4-5") and options.boost == ("2:1=2.0", "0:7=-1")
    found = Intervention.of(options, LAYERS, 2)
    assert found.boost == {(2, 1): 2.0, (0, 7): -1.0}
    assert found.phrases(2) == [
        "experts 0:3, 1:4, 1:5 masked",
        "experts 0:7, 2:1 boosted by -1 to +2",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask": "0:0-6"}, "fewer are left than the 2 a token needs"),
        ({"mask": "0:1", "force": "0:1"}, "expert 0:1 cannot be both masked and forced"),
        ({"force": "0:1-3"}, "cannot all be chosen when a token takes 2"),
        ({"top_k": 9}, "more than the 8 experts"),
        ({"boost": "0:1"}, "give LAYER:EXPERT=NUMBER"),
        ({"boost": "0:1=inf"}, "give LAYER:EXPERT=NUMBER"),
        ({"router_temperature": 0}, "give more than 0"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_run(engine, options, message):
    """One sentence refuses it, and the previous run is still the last one."""
    before = engine.last_run
    with pytest.raises(OptionError, match=message):
        engine.generate(PROMPT, **options)
    assert engine.last_run is before


def test_a_mask_a_boost_and_a_force_do_what_the_routers_arithmetic_says(engine, tiny):
    """The unpaged model's gates give the same softmax of changed logits and the same top two."""
    model, _ = load_unpaged(str(tiny))
    changed = {"mask": [(0, 3), (0, 5)], "boost": {(0, 1): 1.5}, "router_temperature": 2.0}
    trace = traced(engine, **changed)
    x = model.model.embed_tokens(mx.array(trace.tokens.tolist())[None])
    layer = model.model.layers[0]
    x = x + layer.self_attn(layer.input_layernorm(x), "causal")
    logits = np.array(layer.mlp.gate(layer.post_attention_layernorm(x))[0].astype(mx.float32))
    logits = logits / 2
    logits[:, 1] += 1.5
    logits[:, [3, 5]] = -np.inf
    weights = np.exp(logits - logits.max(1, keepdims=True))
    best = np.sort(np.argsort(-logits, axis=1)[:, :2], axis=1)
    np.testing.assert_array_equal(np.sort(trace.experts[:, 0], axis=1), best)
    wanted = np.take_along_axis(weights, trace.experts[:, 0].astype(int), axis=1)
    wanted /= wanted.sum(1, keepdims=True)
    np.testing.assert_allclose(trace.weights[:, 0], wanted, atol=0.02)  # gates are in bfloat16
    forced = traced(engine, force="0:3")
    assert (forced.experts[:, 0] == 3).any(axis=1).all()
    share = np.where(forced.experts[:, 0] == 3, forced.weights[:, 0], 0).sum(axis=1)
    assert (share >= 0.499).all()  # its weight is that of the likeliest, of two


def test_nothing_is_touched_without_an_intervention(engine):
    """After a change, and within an empty one, the gates are mlx-lm's and the run is exact."""
    plain = traced(engine)
    traced(engine, mask="0:0-5", top_k=1)
    gates = [layer.mlp.gate for layer in engine.model.model.layers]
    kinds = [type(gate) for gate in gates]
    with engine.routing():
        same = traced(engine)
        assert [type(gate) for gate in gates] == kinds
    with engine.routing(boost={(0, 1): 0.0}):
        assert [type(gate) for gate in gates] != kinds
        zero = traced(engine)
    assert not any(getattr(kind, "overridden", False) for kind in kinds)
    for trace in (same, zero, traced(engine)):
        np.testing.assert_array_equal(trace.weights, plain.weights)
        np.testing.assert_array_equal(trace.experts, plain.experts)
    assert same.info.changed_output == ""


def test_a_block_holds_for_its_runs_and_for_the_model_itself(engine):
    """Blocks combine; a run's own options take precedence; after the block all is as before."""
    tokens = mx.array([[5, 6, 7, 8]])
    plain = np.array(engine.model(tokens).astype(mx.float32))
    with engine.routing(mask=["0:2"]):
        with engine.routing(top_k=3):
            inner = traced(engine)
            own = traced(engine, top_k=1, mask=())
        outer = traced(engine)
        other = np.array(engine.model(tokens).astype(mx.float32))
    assert not (inner.experts[:, 0] == 2).any() and inner.experts.shape[2] == 3
    assert own.experts.shape[2] == 1
    assert outer.experts.shape[2] == 2 and not (outer.experts[:, 0] == 2).any()
    assert outer.info.changed_output == "expert 0:2 masked"
    assert outer.info.options["mask"] == ("0:2",)
    assert not np.array_equal(other, plain)
    np.testing.assert_array_equal(np.array(engine.model(tokens).astype(mx.float32)), plain)
    with pytest.raises(OptionError, match="routing\\(\\) has no temperature"):
        engine.routing(temperature=1).__enter__()


def test_resident_layers_and_an_interrupted_run_are_steered_and_set_back(tiny):
    """Interventions apply to ids looked up on the device; a run closed early undoes its change."""
    with outlier_jupyter.load(tiny, resident=True) as engine:
        engine.tokenizer.eos_token_ids = set()
        plain = traced(engine)
        masked = traced(engine, mask="0-2:1")
        chosen = masked.experts[masked.experts >= 0]
        assert (plain.experts == 1).any() and len(chosen) and not (chosen == 1).any()
        steps = engine.stream(PROMPT, raw=True, mask="0-2:1")
        next(steps)
        steps.close()
        np.testing.assert_array_equal(traced(engine).experts, plain.experts)


def test_a_kv_cache_made_under_another_routing_is_not_reused(engine):
    """A KV cache computed with masked experts is not reused by an exact run."""
    engine.generate(PROMPT, raw=True, max_tokens=2, reuse_kv=True, mask="0:1")
    exact = engine.generate(PROMPT, raw=True, max_tokens=2, reuse_kv=True).trace
    assert exact.steps == traced(engine).steps - 2


def test_top_k_of_a_run_is_that_of_loading(engine, tiny):
    """A run's top_k equals load(top_k=…); the model's own top_k is no change of the output."""
    with outlier_jupyter.load(tiny, cache_experts=8, top_k=3) as wide:
        wide.tokenizer.eos_token_ids = set()
        loaded, back = traced(wide), traced(wide, top_k=2)
    requested = traced(engine, top_k=3)
    np.testing.assert_array_equal(requested.experts, loaded.experts)
    np.testing.assert_array_equal(requested.weights, loaded.weights)
    assert requested.info.changed_output == loaded.info.changed_output
    assert requested.info.changed_output == "top-k 3 in place of the model's 2"
    np.testing.assert_array_equal(back.experts, traced(engine).experts)
    assert back.info.changed_output == "" and back.info.options["top_k"] == 2


def test_what_would_end_the_process_is_refused(tmp_path):
    """MLX crashes in this type with one expert per token; one sentence refuses it instead."""
    with outlier_jupyter.load(checkpoint("bailing_moe", tmp_path / "model")) as engine:
        with pytest.raises(OptionError, match="top_k=1 cannot be used: with it MLX ends"):
            traced(engine, top_k=1)
        assert traced(engine, top_k=3).experts.shape[2] == 3
