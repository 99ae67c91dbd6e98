"""Where two runs first differ, against the plain arrays of their traces."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import outlier_jupyter
from outlier_jupyter import compare
from outlier_jupyter.runs.run import step_names
from outlier_jupyter.studies.first_difference import first_difference


@pytest.fixture(scope="module")
def runs():
    with outlier_jupyter.load("demo", cache_experts=24) as engine:
        names = {"a": "What is an expert?", "b": "What is a cache?", "again": "What is an expert?"}
        return {name: engine.generate(text, max_tokens=12) for name, text in names.items()}


def test_the_first_differences_are_those_of_the_arrays(runs):
    """The token whose id differs first, and the first step whose sets of experts differ."""
    one, other = runs["a"], runs["b"]
    found = first_difference(one, other)
    pairs = zip(one.tokens.tolist(), other.tokens.tolist(), strict=True)
    token = next(n for n, (a, b) in enumerate(pairs, 1) if a != b)
    assert found.token == token and found.texts == (one.text_of(token), other.text_of(token))
    first, second = ([[set(ids) for ids in step] for step in run.trace.experts.tolist()]
                     for run in (one, other))  # fmt: skip
    step = next(n for n, (a, b) in enumerate(zip(first, second, strict=False)) if a != b)
    assert found.step == step
    assert found.layers == tuple(
        n for n, (a, b) in enumerate(zip(first[step], second[step], strict=True)) if a != b
    )
    assert step_names(one)[step].startswith(found.at) and found.at.startswith("prompt token ")
    sentence = compare({"a": one, "b": other}, permutations=9).sentence
    assert sentence.startswith(f"The texts part at token {token}: “")
    assert f"are chosen at {found.at}, in " in sentence


def test_equal_runs_have_no_difference(runs):
    """The same prompt again: the same text, the same experts."""
    found = first_difference(runs["a"], runs["again"])
    assert (found.token, found.step, found.layers) == (None, None, ())
    assert found.sentence == "The texts are the same; no layer chose other experts."


def test_a_run_that_ends_sooner_parts_at_its_end(runs):
    """The shorter of two texts that are otherwise alike ends where they part."""
    with outlier_jupyter.load("demo", cache_experts=24) as engine:
        short = engine.generate("What is an expert?", max_tokens=5)
    found = first_difference(short, runs["a"])
    assert found.token == 6 and found.texts == ("", runs["a"].text_of(6))
    assert "at token 6: the end against" in found.sentence and found.step is None


def test_runs_that_do_not_lie_side_by_side_have_none(runs):
    """A prompt that was read only in part, or another model's trace, is not laid beside a whole."""
    part = replace(runs["b"], reused=np.array([1, 2], np.int32))
    assert first_difference(runs["a"], part) is None
    trace = runs["b"].trace
    fewer = replace(runs["b"], trace=replace(trace, experts=trace.experts[:, 1:]))
    assert first_difference(runs["a"], fewer) is None
