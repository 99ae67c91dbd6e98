"""What the model found likely equals mlx-lm's own log-probabilities, bit for bit."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm import load as load_unpaged
from mlx_lm import stream_generate
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.sample_utils import make_sampler

import outlier_jupyter
from outlier_jupyter import Run, Trace
from outlier_jupyter.engine.predictor import GROUP, Predictor
from outlier_jupyter.errors import OptionError
from outlier_jupyter.events import Predicted, StepDone
from outlier_jupyter.testing import EventLog

PROMPT = "What is an expert?"


def floats(x: mx.array) -> np.ndarray:
    return np.array(x.astype(mx.float32))


def compare(trace: Trace, expected: list[np.ndarray], n: int) -> None:
    """The steps that sampled, against whole rows of log-probabilities."""
    steps = np.flatnonzero(trace.produced >= 0)
    assert len(steps) == len(expected)
    for step, row in zip(steps, expected, strict=True):
        token = trace.produced[step]
        order = np.argsort(-row, kind="stable")
        assert trace.logprobs[step] == row[token]
        assert trace.ranks[step] == 1 + np.flatnonzero(order == token)[0]
        p = np.exp(row.astype(np.float64))
        np.testing.assert_allclose(trace.entropies[step], -(p * row).sum(), rtol=1e-5)
        assert trace.alternatives[step].tolist() == order[:n].tolist()
        np.testing.assert_array_equal(trace.alternative_logprobs[step], row[order[:n]])


@pytest.mark.parametrize("temperature", [0.0, 1.5])
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.float16])
def test_they_are_mlx_lm_s_own(checkpoint_of, dtype, temperature):
    """Greedy and sampled, in every type, with a cache of a few experts: the same bits."""
    folder = checkpoint_of(dtype=dtype)
    model, tokenizer = load_unpaged(str(folder))
    with outlier_jupyter.load(folder, cache_experts=5) as engine:
        options = {"raw": True, "max_tokens": 9, "seed": 4, "temperature": temperature}
        run = engine.generate(PROMPT, alternatives=4, **options)
        prompt = run.trace.tokens[run.trace.phase == 0].tolist()
    mx.random.seed(4)
    sampler = make_sampler(temperature)
    answers = list(stream_generate(model, tokenizer, prompt, max_tokens=9, sampler=sampler))
    assert [each.token for each in answers][: run.generated] == run.tokens.tolist()
    compare(run.trace, [floats(each.logprobs) for each in answers][: run.generated], 4)


def test_they_are_the_model_s_before_any_penalty(tiny):
    """A penalty changes which token is taken, and no log-probability of the distribution."""
    model, _ = load_unpaged(str(tiny))
    with outlier_jupyter.load(tiny, cache_experts=24) as engine:
        plain = engine.generate(PROMPT, raw=True, max_tokens=12)
        run = engine.generate(PROMPT, raw=True, max_tokens=12, repetition_penalty=5.0)
    assert run.tokens.tolist() != plain.tokens.tolist() and (run.trace.ranks > 1).any()
    cache, expected, step = make_prompt_cache(model), [], 0
    for row in run.trace.calls:
        tokens = run.trace.tokens[step : step + row["steps"]].tolist()
        step += len(tokens)
        logits = model(mx.array([tokens]), cache=cache)[:, -1, :]
        expected.append(floats(logits - mx.logsumexp(logits, keepdims=True))[0])
    compare(run.trace, expected[1:], 5)


@pytest.mark.parametrize("chunk", [None, 4])
def test_a_scored_prompt_has_each_of_its_tokens(tiny, chunk):
    """Each step of the prompt has the next token's log-probability, by the unpaged model; without
    the option none has.
    """
    model, _ = load_unpaged(str(tiny))
    options = {"raw": True, "max_tokens": 3, "prefill_chunk": chunk}
    with outlier_jupyter.load(tiny, cache_experts=5) as engine:
        engine.generate(PROMPT, reuse_kv=True, **options)
        run = engine.generate(PROMPT, reuse_kv=True, score_prompt=True, **options)
        bare = engine.generate(PROMPT, **options)
    trace = run.trace
    prompt = int((trace.phase == 0).sum())
    assert prompt == len(PROMPT) and run.tokens.tolist() == bare.tokens.tolist()
    assert np.isnan(bare.trace.logprobs[: prompt - 1]).all()
    np.testing.assert_array_equal(bare.trace.logprobs[prompt - 1 :], trace.logprobs[prompt - 1 :])
    cache, step = make_prompt_cache(model), 0
    for row in trace.calls[trace.calls["phase"] == 0][:-1]:
        size = int(row["steps"])
        after = trace.tokens[step + 1 : step + size + 1]
        logits = model(mx.array(trace.tokens[step : step + size][None]), cache=cache)[0]
        expected = floats(logits - mx.logsumexp(logits, axis=-1, keepdims=True))
        found = trace.logprobs[step : step + size]
        np.testing.assert_array_equal(found, expected[np.arange(size), after])
        assert trace.alternatives[step : step + size, 0].tolist() == expected.argmax(1).tolist()
        step += size
    assert step == prompt - 1


def test_a_step_has_them_and_so_has_its_event(tiny):
    """`Step`, `Predicted` and the trace agree; the event comes before the call's end."""
    log = EventLog()
    with outlier_jupyter.load(tiny, cache_experts=5) as engine:
        engine.subscribe(log, Predicted, StepDone)
        steps = list(engine.stream(PROMPT, raw=True, max_tokens=4, alternatives=2))
        trace = engine.last_run.trace
    sampled = trace.produced >= 0
    assert [step.logprob for step in steps] == trace.logprobs[sampled].tolist()
    assert [step.rank for step in steps] == trace.ranks[sampled].tolist() == [1] * 4
    assert [step.entropy for step in steps] == trace.entropies[sampled].tolist()
    for step, ids, numbers in zip(
        steps, trace.alternatives[sampled], trace.alternative_logprobs[sampled], strict=True
    ):
        assert step.alternatives == tuple(zip(ids.tolist(), numbers.tolist(), strict=True))
        assert step.alternatives[0] == (step.token, step.logprob)
    kinds = [type(event) for event in log.events]
    assert kinds == [StepDone, *[Predicted, StepDone] * 4]
    assert [len(e.rows) for e in log.events if isinstance(e, Predicted)] == [1] * 4


def test_fewer_and_more_alternatives(tiny):
    """0 records only the three numbers; more than the vocabulary has are refused by the bound."""
    with outlier_jupyter.load(tiny, cache_experts=5) as engine:
        run = engine.generate(PROMPT, max_tokens=2, alternatives=0)
        assert run.trace.alternatives.size == 0 and np.isfinite(run.trace.logprobs[-1])
        assert next(engine.stream(PROMPT, max_tokens=1, alternatives=0)).alternatives == ()
        assert engine.generate(PROMPT, max_tokens=2, alternatives=100).trace.alternatives.size
        with pytest.raises(OptionError, match="alternatives=101 is too large"):
            engine.generate(PROMPT, alternatives=101)


def test_a_saved_run_has_them_and_the_texts_of_its_alternatives(tiny, tmp_path):
    """Without the tokenizer, an alternative that was never taken still has its text."""
    with outlier_jupyter.load(tiny, cache_experts=5) as engine:
        run = engine.generate(PROMPT, max_tokens=4)
        loaded = Run.load(run.save(tmp_path / "run.safetensors"))
        np.testing.assert_array_equal(loaded.trace.logprobs, run.trace.logprobs)
        for token in run.trace.alternatives[-1].tolist():
            assert loaded.piece(token) == run.piece(token) != ""


@pytest.mark.parametrize("n", [0, 1, 5, 40])
@pytest.mark.parametrize("width", [3, GROUP, 10 * GROUP + 7, 200 * GROUP])
def test_a_gpu_s_way_gives_the_same(n, width):
    """Lazy operations in place of the compiled pass, for several rows and impossible tokens."""
    rng = np.random.default_rng(width)
    logits = rng.standard_normal((3, width)).astype(np.float32) * 4
    logits[:, 1] = -np.inf
    x = mx.array(logits)
    x = x - mx.logsumexp(x, axis=-1, keepdims=True)
    tokens = mx.array([0, width - 1, int(logits[2].argmax())], mx.uint32)
    rows = []
    for compiled in (True, False):
        predictor = Predictor(n, compiled)
        evaluated = predictor.lazy(x, tokens)
        mx.eval(evaluated)
        rows.append(Predicted(predictor.rows(evaluated)).rows)
    ours, lazy = rows
    for name in ("logprob", "rank", "alternatives", "alternative_logprobs"):
        np.testing.assert_array_equal(lazy[name], ours[name], name)
    np.testing.assert_allclose(lazy["entropy"], ours["entropy"], rtol=1e-4)
