"""The rule for coherent text, at its limits and on the kinds of text that it classifies."""

from __future__ import annotations

import math

import numpy as np
import pytest

from outlier_jupyter.studies.coherence import distinct_share, repeated_share, verdict

WORDS = list(range(200))


def test_shares_are_counted():
    """The share of repeated 4-grams, and the smallest share of distinct tokens in any 64."""
    assert repeated_share([1, 2, 3, 4, 1, 2, 3, 4]) == pytest.approx(1 / 5)
    assert repeated_share(WORDS) == 0 and repeated_share([7] * 24) == pytest.approx(20 / 21)
    assert math.isnan(repeated_share([1, 2, 3, 4]))
    assert distinct_share([1, 1, 2, 3]) == 0.75 and math.isnan(distinct_share([]))
    assert distinct_share(WORDS + [5] * 64) == 1 / 64
    assert distinct_share(WORDS + [5] * 32) == 33 / 64


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (WORDS, "coherent"),
        ([*range(12)] * 10, "repeats itself"),  # a loop of a sentence
        ([*range(30), *range(30)], "coherent"),  # repeated once: 27 of 57 4-grams
        ([7] * 31, "coherent"),  # too short for repetition
        ([7] * 32, "repeats itself"),
        (np.random.default_rng(0).integers(0, 12, 120).tolist(), "made of few tokens"),
    ],
)
def test_repetition_and_poverty_are_seen(tokens, message):
    """Loops, few distinct tokens, and neither, with a normal likelihood of the text."""
    assert verdict(tokens, -1.0, -1.0) == message


def test_what_the_model_itself_finds_unlikely_is_incoherent():
    """The limit is more than two nats per token below the model's own answer; two is coherent."""
    assert verdict(WORDS, -2.6, -0.5) == "unlikely to the model itself"
    assert verdict(WORDS, -2.5, -0.5) == verdict(WORDS, -0.2, -0.5) == "coherent"
    assert verdict([1, 2], -9.0, -0.5) == "unlikely to the model itself"
