"""From an expert to its tokens, and back, against the plain arrays of the traces."""

from __future__ import annotations

import numpy as np
import pytest

import outlier_jupyter
from outlier_jupyter import Run, experts_of, tokens_of
from outlier_jupyter.errors import OptionError
from outlier_jupyter.runs.run import step_names


@pytest.fixture(scope="module")
def runs(tiny):
    with outlier_jupyter.load(tiny, cache_experts=10) as engine:
        prompts = ("first of two", "the other")
        return {p: engine.generate(p, max_tokens=9, raw=True) for p in prompts}


def most_used(run):
    """The expert of layer 1 that the run chose most."""
    return int(np.bincount(run.trace.experts[:, 1].ravel()).argmax())


def test_an_expert_s_tokens_are_those_that_chose_it(runs):
    """Over all runs: steps, weights, hits and texts, each taken from the arrays by hand."""
    expert = most_used(runs["the other"])
    found = tokens_of(runs, 1, expert)
    wanted = 0
    for name, run in runs.items():
        for step, (ids, weights, hits) in enumerate(
            zip(*(a[:, 1].tolist() for a in (run.trace.experts, run.trace.weights, run.trace.hits)),
                strict=True)
        ):  # fmt: skip
            if expert not in ids:
                continue
            place = ids.index(expert)
            rank = sum(weight > weights[place] for weight in weights)
            (row,) = found.frame[
                (found.frame.run == name) & (found.frame.step == step)
            ].itertuples()
            assert (row.rank, row.hit, row.name) == (rank, hits[place], step_names(run)[step])
            assert row.weight == pytest.approx(weights[place])
            assert row.token == run.piece(int(run.trace.tokens[step]))
            assert f"[{row.token}]".replace("\n", "↵") in row.context
            wanted += 1
    assert len(found.frame) == wanted > 0
    assert f"chosen by {wanted} of " in str(found)
    assert found._repr_html_().count("<mark") == wanted
    assert sum(len(part.x) for part in found.figure().data) == wanted


def test_a_span_s_experts_are_those_it_chose(runs):
    """A span has the live view's numbers and includes its end; the test counts by hand."""
    run = runs["first of two"]
    found = run.experts_of(slice(2, 5))
    steps = np.flatnonzero(run.trace.produced >= 0)[1:5]
    assert found.steps.tolist() == steps.tolist()
    counted = {}
    for step in steps.tolist():
        for layer in range(run.trace.layers):
            for expert in run.trace.experts[step, layer].tolist():
                counted[layer, expert] = counted.get((layer, expert), 0) + 1
    times_of = {(row.layer, row.expert): row.times for row in found.frame.itertuples()}
    assert times_of == counted
    assert np.allclose(found.frame.groupby("layer").share.sum(), 1)
    assert experts_of(run, steps=steps.tolist()).frame.equals(found.frame)
    assert experts_of(run.trace, slice(2, 5)).frame.equals(found.frame)
    (first,) = experts_of(run, steps=[0]).steps  # a token of the prompt, which was not generated
    assert first == 0 and run.trace.produced[0] < 0
    assert "layer 0" in str(found) and "<table" in found._repr_html_()
    assert found.figure().data[0].z.sum() == len(steps) * run.trace.layers * 2


def test_one_token_is_named_as_one(runs):
    """A span of one token is "1 token", in the sentence and above the figure."""
    found = runs["first of two"].experts_of(4)
    assert str(found).startswith("1 token ")
    assert found.figure().layout.title.text.startswith("<b>Experts chosen by 1 token<")


def test_back_and_forth_agree(runs):
    """A token's experts have that token among their tokens."""
    run = runs["the other"]
    for row in run.experts_of(4).frame.itertuples():
        assert run.step_of(4) in run.tokens_of(row.layer, row.expert).frame.step.tolist()


def test_a_loaded_run_knows_its_texts_and_a_bare_trace_its_steps(runs, tmp_path):
    """Without the model the rows are the same; a bare trace has no texts."""
    run = runs["the other"]
    expert = most_used(run)
    again = Run.load(run.save(tmp_path / "run.safetensors"))
    assert (
        again.tokens_of(1, expert)
        .frame.drop(columns="weight")
        .equals(run.tokens_of(1, expert).frame.drop(columns="weight"))
    )
    bare = tokens_of(run.trace, 1, expert)
    assert (bare.frame.token == "").all() and len(bare.frame)
    assert bare._repr_html_().count("<mark") == len(bare.frame)


def test_what_is_not_there_says_so(runs):
    """One sentence refuses an expert, token, span or run that does not exist."""
    run = runs["the other"]
    with pytest.raises(OptionError, match="no expert 1:8: it has 3 MoE layers, layer 1 has 8"):
        tokens_of(run, 1, 8)
    with pytest.raises(OptionError, match="no runs were given"):
        tokens_of([], 0, 0)
    with pytest.raises(OptionError, match="no token 10"):
        run.experts_of(10)
    with pytest.raises(OptionError, match="no span of tokens"):
        run.experts_of(slice(5, 2))
    with pytest.raises(OptionError, match="no such steps"):
        experts_of(run.trace, steps=[run.trace.steps])
    with pytest.raises(OptionError, match="either tokens, from 1, or steps"):
        experts_of(run)
