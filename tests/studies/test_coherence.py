"""The rule by which a text is called coherent, at its edges and on the texts it is meant for."""

from __future__ import annotations

import math

import numpy as np
import pytest

from outlier_jupyter.studies.coherence import distinct_share, repeated_share, verdict

WORDS = list(range(200))


def test_shares_are_counted():
    """Of runs of four those that occurred before; of 64 tokens the least distinct stretch."""
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
        ([*range(30), *range(30)], "coherent"),  # said twice: 27 of 57 runs
        ([7] * 31, "coherent"),  # too short to be called repetition
        ([7] * 32, "repeats itself"),
        (np.random.default_rng(0).integers(0, 12, 120).tolist(), "made of few tokens"),
    ],
)
def test_repetition_and_poverty_are_seen(tokens, message):
    """Loops, few tokens, and neither; the text's own likelihood is fine."""
    assert verdict(tokens, -1.0, -1.0) == message


def test_what_the_model_itself_finds_unlikely_is_incoherent():
    """More than two nats a token below its own answer; exactly two is not, nor is a better one."""
    assert verdict(WORDS, -2.6, -0.5) == "unlikely to the model itself"
    assert verdict(WORDS, -2.5, -0.5) == verdict(WORDS, -0.2, -0.5) == "coherent"
    assert verdict([1, 2], -9.0, -0.5) == "unlikely to the model itself"
