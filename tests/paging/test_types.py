"""Every model type of the installed mlx-lm that builds a switch is exact and its routing seen."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, field

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm import load as load_unpaged
from mlx_lm.models.cache import make_prompt_cache

import outlier_jupyter
from outlier_jupyter.trace import Trace
from tests.models import CANNOT, MODELS, checkpoint, model_types, tiny_config
from tests.paging.override_of_types import changes
from tests.paging.probing import decisions, switches_of

PREFILLS = (1, 7, 130)
DECODED = 20
PROMPT = "def f(x):\n    return g(x, 2) + 1\n\nprint(f(3))"
RUNNABLE = [name for name in model_types() if name not in CANNOT]


@dataclass
class Found:
    """The results of running one type, paged and unpaged."""

    paths: list[str]
    decided: list[list[tuple[np.ndarray, np.ndarray]]] = field(default_factory=list)
    differing: list[tuple[int, int]] = field(default_factory=list)  # (slots, tokens of prefill)
    traces: list[Trace] = field(default_factory=list)
    resident: list[bool] = field(default_factory=list)
    changed: list[tuple[str, ...]] = field(default_factory=list)  # the effective interventions


def logits(model, length: int) -> np.ndarray:
    """Logits of a prefill of `length` tokens and, after the longest, of decoded ones."""
    decoded = DECODED if length == max(PREFILLS) else 0
    tokens = np.random.default_rng(length).integers(0, 256, length + decoded).tolist()
    cache = make_prompt_cache(model)
    calls = [tokens[:length], *([token] for token in tokens[length:])]
    rows = [model(mx.array([call]), cache=cache)[0, -1].astype(mx.float32) for call in calls]
    return np.stack([np.array(row) for row in rows])


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Run a type once, at three cache sizes, for all tests of it.

    The longest prompt and the decode after it run at one size, which alternates between types:
    they take nearly all of the time, and how a size handles them does not depend on the type.
    """

    @functools.cache
    def run(model_type: str) -> Found:
        folder = checkpoint(model_type, tmp_path_factory.mktemp("type") / model_type)
        reference, _ = load_unpaged(str(folder))
        expected = {length: logits(reference, length) for length in PREFILLS}
        assert all(np.isfinite(rows).all() and rows.std() > 0 for rows in expected.values())
        seen = Found(switches_of(reference))
        below = 2 * len(seen.paths) - 1  # a token routes to two experts in each layer
        sizes = ({"cache_experts": below}, {"cache_experts": 2 * below}, {"resident": True})
        for number, size in enumerate(sizes):
            whole = number == RUNNABLE.index(model_type) % len(sizes)
            with outlier_jupyter.load(folder, **size) as engine:
                engine.tokenizer.eos_token_ids = set()
                seen.traces.append(engine.generate(PROMPT, raw=True, max_tokens=3).trace)
                if "resident" in size or size["cache_experts"] == 2 * below:
                    # Before the comparison of logits, which would show an intervention not undone.
                    seen.changed.append(changes(engine))
                for length, rows in expected.items():
                    if length == max(PREFILLS) and not whole:
                        continue
                    if not np.array_equal(logits(engine.model, length), rows):
                        seen.differing.append((engine.status().slots, length))
                seen.resident.append(engine.status().resident == engine.status().experts)
        calls = seen.traces[0].calls
        tokens = seen.traces[0].tokens.tolist()
        spans = [(int(row["first_step"]), int(row["steps"])) for row in calls]
        chunks = [tokens[first : first + steps] for first, steps in spans]
        seen.decided = decisions(reference, model_type, chunks)
        return seen

    return run


@pytest.mark.parametrize("model_type", RUNNABLE)
def test_a_type_is_exact(model_type, found):
    """Prefill of 1, 7 and 130 tokens and 20 decoded ones are bit-identical, over three sizes."""
    seen = found(model_type)
    assert seen.paths, f"tests/models.py: OVERRIDES[{model_type!r}] must ask for experts"
    assert seen.differing == []
    assert seen.resident == [False, False, True]


@pytest.mark.parametrize("model_type", RUNNABLE)
def test_a_types_routing_is_what_the_unpaged_model_decides(model_type, found, support):
    """Recorded ids and weights equal those measured in the unpaged model, with no NaN.

    The same interventions take effect whether experts are paged or resident.
    """
    seen = found(model_type)
    for trace in seen.traces:
        assert trace.tokens.tolist() == seen.traces[0].tokens.tolist()
        step = 0
        for layers in seen.decided:
            steps = len(layers[0][0])
            for layer, (ids, weights) in enumerate(layers):
                rows = slice(step, step + steps)
                k = ids.shape[1]
                assert np.array_equal(trace.experts[rows, layer, :k], ids)
                recorded = trace.weights[rows, layer, :k]
                assert not np.isnan(recorded).any(), "the weights were not seen"
                assert np.allclose(recorded, weights, rtol=1e-3, atol=2e-5)
            step += steps
        assert step == trace.steps
    where = sorted({re.sub(r"\.\d+\.", ".*.", path) for path in seen.paths})
    paged, resident = seen.changed
    assert paged == resident and paged
    row = (", ".join(where), "exact", "as applied", ", ".join(paged))
    support.record("model types", model_type, *row)


def test_every_module_of_mlx_lm_that_builds_a_switch_is_among_them():
    """The list comes from mlx-lm's source: types that build a switch, and types built on them."""
    names = set(model_types())
    building = {
        path.stem
        for path in MODELS.glob("*.py")
        if re.search(r"Switch(GLU|MLP)\(", path.read_text()) and path.stem != "switch_layers"
    }
    assert building and building <= names
    assert {"gemma4", "qwen3_vl_moe", "kimi_k25", "glm_moe_dsa", "mistral3"} <= names - building


def test_a_type_that_cannot_be_built_says_what_to_add(tmp_path):
    """If mlx-lm refuses a config, the error names the field and where to put its tiny value."""
    config = {k: v for k, v in tiny_config("olmoe").items() if k != "num_experts_per_tok"}
    config |= {"num_attention_heads": None}
    with pytest.raises(AssertionError, match=r"tiny value to TINY.*OVERRIDES\['olmoe'\]"):
        checkpoint("olmoe", tmp_path, config)


def test_few_types_cannot_be_run_here(support):
    """At most three types are skipped, each with its reason, and all of them still exist."""
    assert len(CANNOT) <= 3 and set(CANNOT) <= set(model_types())
    for model_type, reason in CANNOT.items():
        support.record("model types", model_type, "", f"not run: {reason}", "", "")


def test_the_table_of_types_is_what_was_found(support):
    """docs/models.md lists these tests' result for every type, and no other type."""
    support.check("model types")
