"""Whether surprise, router entropy and misses go together: what there is is found, and no more."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from outlier_jupyter.notebook.render.figures import Figures
from outlier_jupyter.trace import Trace
from outlier_jupyter.trace.surprise import ENTROPY, FEWEST, MISSES, SURPRISE, associations
from tests.residency.routings import routing_of
from tests.trace.made import timed_trace

LAYERS, K = 4, 4


def made(surprise: np.ndarray, decided: np.ndarray, misses: np.ndarray) -> Trace:
    """Decoded tokens with these: nats, a number from 0 to 1, and missed experts of 16."""
    tokens = len(surprise)
    experts = np.tile(np.arange(K, dtype=np.int16), (tokens, LAYERS, 1))
    trace = timed_trace(routing_of(experts, 8), slots=16)
    weights = np.ones((tokens, LAYERS, K), np.float32)
    weights[:, :, 0] += 9 * decided[:, None]
    hits = np.arange(LAYERS * K) >= misses[:, None]
    return replace(
        trace,
        logprobs=-surprise.astype(np.float32),
        weights=weights / weights.sum(axis=2, keepdims=True),
        hits=hits.reshape(tokens, LAYERS, K),
    )


def independent(tokens: int, seed: int) -> list[np.ndarray]:
    """Three series whose neighbours resemble each other, and that have nothing to do with it."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((3, tokens + 2))
    smooth = noise[:, 2:] + noise[:, 1:-1] + noise[:, :-2]
    low, span = smooth.min(axis=1, keepdims=True), np.ptp(smooth, axis=1)[:, None]
    surprise, decided, misses = (smooth - low) / span
    return [surprise, decided, np.round(12 * misses)]


def test_what_goes_together_has_its_correlation():
    """Misses that follow surprise are found, the unrelated router entropy is not."""
    surprise, decided, _ = independent(200, 3)
    misses = np.round(12 * surprise + np.random.default_rng(0).random(200))
    found = associations(made(surprise, decided, misses))
    by_name = {(pair.first, pair.second): pair for pair in found.pairs}
    pair = by_name[SURPRISE, MISSES]
    assert pair.beyond_chance and 0.9 < pair.low < pair.rho < pair.high < 1
    assert not by_name[SURPRISE, ENTROPY].beyond_chance
    assert found.sentence.startswith("Surprising tokens miss more (rank correlation +0.9")
    assert "in 200 decoded tokens" in found.sentence
    np.testing.assert_array_equal(found.values[MISSES], misses)


def test_each_direction_has_its_words():
    """More misses where the router is decided, and less surprise there."""
    surprise, _, _ = independent(150, 5)
    found = associations(made(surprise, surprise, np.round(12 * surprise)))
    assert "the router is more decided at surprising tokens" in found.sentence
    assert "tokens with an undecided router miss less" in found.sentence


def test_chance_is_rarely_taken_for_a_finding():
    """Of unrelated series with resembling neighbours, about one in twenty has a finding."""
    found = [associations(made(*independent(120, seed))) for seed in range(100, 180)]
    assert sum(any(pair.beyond_chance for pair in each.pairs) for each in found) <= 8
    none = next(each for each in found if not any(pair.beyond_chance for pair in each.pairs))
    assert none.sentence.startswith("No sign in 120 decoded tokens")


def test_too_few_tokens_are_named():
    """Below the bound there is a correlation without an interval, and no finding."""
    surprise, decided, misses = independent(FEWEST - 1, 1)
    found = associations(made(surprise, decided, np.round(12 * surprise)))
    assert "Too few tokens" in found.sentence and f"{FEWEST} or more" in found.sentence
    assert found.pairs[0].rho > 0.9 and np.isnan(found.pairs[0].low)
    assert not any(pair.beyond_chance for pair in found.pairs)
    assert "Too few tokens" in Figures(made(surprise, decided, misses)).surprise().layout.title.text


def test_what_does_not_vary_has_no_correlation():
    """A run that never misses says so, and an old trace that it has no probabilities."""
    surprise, decided, misses = independent(100, 2)
    trace = made(surprise, decided, np.zeros(100))
    found = associations(trace)
    assert [np.isnan(pair.rho) for pair in found.pairs] == [True, False, True]
    assert "surprise and router entropy go together" in found.sentence
    resident = associations(made(np.ones(100), np.ones(100), misses))
    assert "did not vary" in resident.sentence
    bare = replace(trace, logprobs=np.zeros(0, np.float32))
    assert "no token's probability was recorded" in associations(bare).sentence
    assert "no data" in " ".join(note.text for note in Figures(bare).surprise().layout.annotations)


@pytest.mark.parametrize("tokens", [40, 300])
def test_the_figure_answers_first(tokens):
    """Its title is the sentence; marks have the pairs and the tokens."""
    trace = made(*independent(tokens, 4))
    found, figure = associations(trace), Figures(trace).surprise()
    title = figure.layout.title.text.replace("</b><br><b>", " ")
    assert found.sentence.removesuffix(".") in title
    pairs, above, below = figure.data
    np.testing.assert_allclose(pairs.x, [pair.rho for pair in found.pairs])
    assert len(above.x) + len(below.x) == tokens
    np.testing.assert_allclose(
        np.sort([*above.x, *below.x]), np.sort(found.values[SURPRISE]), rtol=1e-6
    )
