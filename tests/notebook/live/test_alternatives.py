"""What the model found likely in the place of each token, as a page and a report get it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from outlier_jupyter import Run
from outlier_jupyter.notebook.live import columns
from outlier_jupyter.notebook.live.alternatives import BLOCK, alternatives_around
from outlier_jupyter.notebook.live.page import run_page
from outlier_jupyter.notebook.live.widget import LiveView
from outlier_jupyter.trace.segments import KINDS, UNKNOWN

from .test_columns import received
from .test_page import data_of

N = 3
ROOT = Path(__file__).parents[3]


def predicted(trace, prompt: int = 10) -> Run:
    """A run whose token after each decode step is the third likeliest of that step's three."""
    steps = trace.steps
    decode = np.arange(steps) >= prompt - 1
    alternatives = np.where(decode[:, None], 100 * np.arange(steps)[:, None] + np.arange(N), -1)
    logprobs = np.where(decode[:, None], np.log([0.5, 0.25, 0.125]), np.nan).astype(np.float32)
    produced = np.where(decode, alternatives[:, -1], -1).astype(np.int32)
    trace = replace(
        trace,
        produced=produced,
        logprobs=logprobs[:, -1].copy(),
        ranks=np.where(decode, N, 0).astype(np.int32),
        entropies=np.where(decode, 1.5, np.nan).astype(np.float32),
        alternatives=alternatives.astype(np.int32),
        alternative_logprobs=logprobs,
    )
    return replace(Run.of(trace), spell=lambda token: f" {token}".encode())


@pytest.fixture
def run(make_trace) -> Run:
    return predicted(make_trace(steps=BLOCK + 20, prompt=10))


def test_a_page_gets_the_likeliest_tokens_of_a_step_and_of_those_around_it(run) -> None:
    """Id, text and log-probability of each, the token that came, and its rank."""
    view = LiveView.of(run)
    ((content, _),) = received(view, {"alternatives": 70})
    view.close()
    assert content["about"] == {"alternatives": BLOCK} and content["type"] == "told"
    assert len(content["likely"]) == 20
    found = content["likely"][70 - BLOCK]
    assert found["rank"] == 3 and found["chosen"] == [7002, " 7002", round(np.log(0.125), 4)]
    assert [token for token, _, _ in found["others"]] == [7000, 7001, 7002]
    np.testing.assert_allclose(
        np.exp([logprob for _, _, logprob in found["others"]]), [0.5, 0.25, 0.125], rtol=1e-3
    )


def test_of_the_prompt_nothing_is_known_unless_it_was_scored(run) -> None:
    """Its steps are None; nor is anything known outside the run, or before its end."""
    likely = alternatives_around(run, 0)["likely"]
    assert likely[:9] == [None] * 9 and likely[9] is not None
    assert alternatives_around(run, 9999)["likely"] == []
    assert alternatives_around(run, -3)["likely"] == []
    assert alternatives_around(None, 3)["likely"] == []


def test_a_scored_prompt_names_its_own_next_token(run) -> None:
    """What came after a step of the prompt is the prompt's next token."""
    trace = run.trace
    logprobs, others = trace.logprobs.copy(), trace.alternatives.copy()
    logprobs[2], others[2] = -1.0, [5, -1, -1]
    scored = replace(run, trace=replace(trace, logprobs=logprobs, alternatives=others))
    likely = alternatives_around(scored, 2)["likely"][2]
    assert likely["chosen"][0] == trace.tokens[3] and len(likely["others"]) == 1


def test_the_columns_of_probabilities_are_nats(run) -> None:
    """Surprise is the negative log-probability; entropy as recorded; what has none is NaN."""
    surprise = np.frombuffer(columns.answer(run, {"column": "surprise"})[0], "<f4")
    np.testing.assert_allclose(surprise[9:], np.log(8), rtol=1e-6)
    assert np.isnan(surprise[:9]).all() and len(surprise) == run.trace.steps
    entropy = np.frombuffer(columns.answer(run, {"column": "token_entropy"})[0], "<f4")
    np.testing.assert_array_equal(entropy[9:], np.float32(1.5))


def test_the_column_of_segments_has_the_kind_of_each_token_shown(run) -> None:
    """A step's text is the token read after it, and so is its kind; an unknown kind is NaN."""
    kinds = np.full(run.trace.steps + 1, KINDS.index("answer"), np.uint8)
    kinds[12], kinds[13] = KINDS.index("thinking"), UNKNOWN
    segmented = replace(run, trace=replace(run.trace, kinds=kinds))
    found = np.frombuffer(columns.answer(segmented, {"column": "segment"})[0], "<f4")
    assert len(found) == run.trace.steps and found[10] == KINDS.index("answer")
    assert found[11] == KINDS.index("thinking") and np.isnan(found[12])
    assert columns.recorded(segmented.trace)[2] == "segment"
    assert "segment" in columns.embedded_columns(segmented)


def test_the_kinds_are_those_of_the_page() -> None:
    """The page names a code as the trace does."""
    source = (ROOT / "js" / "src" / "live" / "columns.ts").read_text()
    assert f'"{",".join(KINDS)}"' in source


def test_the_page_knows_what_was_recorded(run, make_trace) -> None:
    """Only then it asks; a run without any has no such entry."""
    view, plain = LiveView.of(run), LiveView.of(Run.of(make_trace()))
    try:
        assert view.info["recorded"] == ["surprise", "token_entropy", "alternatives"]
        assert "recorded" not in plain.info
    finally:
        view.close()
        plain.close()


def test_a_report_carries_them_within_bounds(run, monkeypatch) -> None:
    """All tokens as a kernel tells them; of too many, those that surprised the model most."""
    state, _ = data_of(run_page(run, ""))
    likely = state["info"]["likely"]
    assert set(likely) == {str(step) for step in range(9, run.trace.steps)}
    assert likely["70"] == alternatives_around(run, 70)["likely"][70 - BLOCK]
    assert {"surprise", "token_entropy"} <= set(state["info"]["columns"])
    logprobs = run.trace.logprobs.copy()
    logprobs[[20, 40]] = -9
    surprised = replace(run, trace=replace(run.trace, logprobs=logprobs))
    monkeypatch.setattr("outlier_jupyter.notebook.live.page.ALTERNATIVES_BYTES", 300)
    state, _ = data_of(run_page(surprised, ""))
    assert set(state["info"]["likely"]) == {"20", "40"}


def test_without_alternatives_a_report_has_none(make_trace) -> None:
    """An old run's page has no bars, and says nothing of them."""
    state, _ = data_of(run_page(Run.of(make_trace()), ""))
    assert "likely" not in state["info"] and "surprise" not in state["info"]["columns"]
