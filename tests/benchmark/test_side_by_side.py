"""Two engines' tokens, measured in turn."""

from __future__ import annotations

import pytest

from benchmarks.side_by_side import COUNTED, ROUNDS, SKIPPED, interleave
from outlier_jupyter.benchmark.limits import STEP, Memory


def test_engines_have_as_many_rounds_and_each_is_first_in_half_of_them():
    """The first of a pair meets other memory contents than the second."""
    order: list[str] = []

    def decode(name, tokens):
        order.append(name)
        return [0.5] * tokens

    subjects = {name: lambda tokens, name=name: decode(name, tokens) for name in "ab"}
    seen = interleave(subjects, Memory(STEP), active=1e6)
    firsts = order[::2]
    assert firsts.count("a") == firsts.count("b") == ROUNDS // 2
    assert {name: len(found) for name, found in seen.items()} == {"a": ROUNDS, "b": ROUNDS}


def test_the_first_tokens_of_a_round_do_not_count():
    """They wake threads and find the other engine's data in the caches."""
    took = [9.0] * SKIPPED + [0.25] * COUNTED
    seen = interleave({"a": lambda tokens: took[:tokens]}, Memory(STEP), active=1e6)
    assert {found["token_s"] for found in seen["a"]} == {0.25}


def test_a_round_is_compared_with_the_bandwidth_measured_after_it():
    """The limit and its multiple agree with the token's seconds and the bandwidth."""
    seen = interleave({"a": lambda tokens: [0.5] * tokens}, Memory(STEP), active=1e6)
    for found in seen["a"]:
        assert found["limit_s"] * found["times_limit"] == pytest.approx(0.5)
        assert found["limit_s"] * found["memory_gb_per_s"] * 1e9 == pytest.approx(1e6)
