"""`run.tokens()` is a row per token: its text, how likely the model found it, what it cost."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace

import numpy as np
import pytest

import outlier_jupyter
from outlier_jupyter import Run
from outlier_jupyter.trace.measures import hits_per_step
from outlier_jupyter.trace.predictions import FIELDS

PROMPT = "What is an expert?"


@pytest.fixture(scope="module")
def run(tiny):
    with outlier_jupyter.load(tiny, cache_experts=6) as engine:
        return engine.generate(PROMPT, raw=True, max_tokens=6, alternatives=3, score_prompt=True)


def test_each_generated_token_has_its_row(run):
    """Numbers from 1, texts that join to the whole, and the trace's numbers of its step."""
    frame, trace = run.tokens(), run.trace
    steps = np.flatnonzero(trace.produced >= 0)
    assert frame.token.tolist() == [1, 2, 3, 4, 5, 6] and set(frame.part) == {"generated"}
    assert frame.id.tolist() == run.tokens.tolist()
    assert "".join(frame.text) == "".join(run.pieces(run.tokens))
    assert set(frame.kind) == {"answer"}
    np.testing.assert_array_equal(frame.logprob, trace.logprobs[steps])
    np.testing.assert_allclose(frame.probability, np.exp(frame.logprob))
    assert frame["rank"].tolist() == trace.ranks[steps].tolist()
    np.testing.assert_array_equal(frame.entropy, trace.entropies[steps])
    hits, misses = hits_per_step(trace)
    assert frame.hits.tolist() == hits[steps].tolist()
    assert frame.misses.tolist() == misses[steps].tolist() and frame.misses.sum() > 0
    np.testing.assert_array_equal(frame.ms, trace.step_ns[steps] / 1e6)
    for row, step in zip(frame.itertuples(), steps, strict=True):
        assert row.alternatives == [run.piece(i) for i in trace.alternatives[step].tolist()]
        np.testing.assert_allclose(row.probabilities, np.exp(trace.alternative_logprobs[step]))
        assert len(row.probabilities) == 3 and row.alternatives[0] == run.piece(row.id)


def test_the_prompt_s_tokens_come_first_on_request(run):
    """Each has what was said of it before it was read; nothing was said of the first."""
    frame, trace = run.tokens(prompt=True), run.trace
    prompt = frame[frame.part == "prompt"]
    assert set(prompt.kind) == {"user"}
    assert "".join(prompt.text) == PROMPT and prompt.token.tolist()[::16] == [1, 17]
    assert np.isnan(prompt.logprob[0]) and prompt["rank"][0] == 0 and prompt.alternatives[0] == []
    np.testing.assert_array_equal(prompt.logprob[1:], trace.logprobs[: len(prompt) - 1])
    assert prompt.ms.sum() == pytest.approx(trace.step_ns[: len(prompt)].sum() / 1e6)
    assert frame[frame.part == "generated"].reset_index(drop=True).equals(run.tokens())


def test_a_saved_run_has_the_same_table(run, tmp_path):
    """The texts of all alternatives are in the file."""
    loaded = Run.load(run.save(tmp_path / "run.safetensors"))
    assert loaded.tokens(prompt=True).equals(run.tokens(prompt=True))


def test_what_was_not_recorded_has_no_column(run):
    """An older trace has neither probabilities nor alternatives, and its table opens."""
    empty = {name: getattr(run.trace, name)[:0] for name in FIELDS}
    old = replace(run, trace=replace(run.trace, kinds=run.trace.kinds[:0], **empty))
    assert list(old.tokens()) == ["part", "token", "id", "text", "hits", "misses", "ms"]
    assert len(Run.of(run.trace).tokens()) == 6


def test_the_ids_stay_an_array(run):
    """They are compared, sliced, copied and pickled as numbers; only the run's own are a table."""
    ids = run.tokens
    assert (
        ids.dtype == np.int32 and repr(ids).startswith("array(") and ids[:2].sum() == sum(ids[:2])
    )
    assert type(replace(run, text="").__dict__["tokens"]) is np.ndarray
    for other in (copy.deepcopy(ids), pickle.loads(pickle.dumps(ids))):
        np.testing.assert_array_equal(other, ids)
    with pytest.raises(TypeError, match=r"call run\.tokens\(\) itself"):
        ids[1:]()
