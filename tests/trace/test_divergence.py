"""Divergences against SciPy, significance tests, and alignments that lose nothing."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from outlier_jupyter.errors import OptionError
from outlier_jupyter.trace import Trace
from outlier_jupyter.trace import divergence as p
from outlier_jupyter.trace.alignment import aligned, pieces
from tests.trace.test_routing_measures import routed, routings


def sticky(
    seed: int, steps: int = 300, stays: float = 0.0, liking: int = 0, layers: int = 4
) -> Trace:
    """Top-2 of 16 experts, skewed by `liking`; `stays` is the probability of a repeated token."""
    taste = np.random.default_rng(liking).normal(size=(layers, 16))
    rng = np.random.default_rng(seed)
    out = np.zeros((steps, layers, 2), np.int64)
    for step in range(steps):
        fresh = np.argsort(-(taste + rng.gumbel(size=taste.shape)), axis=1)[:, :2]
        again = (rng.random(layers) < stays) & (step > 0)
        out[step] = np.where(again[:, None], out[step - 1], fresh)
    return routed(out, (16,) * layers)


@given(st.integers(0, 2**32), st.integers(1, 6))
def test_divergence_is_scipys(seed: int, experts: int) -> None:
    """Jensen–Shannon in bits is the square of SciPy's distance; without data it is NaN."""
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 5, (2, 3, experts))
    for layer, found in enumerate(p.divergence(a, b)):
        if a[layer].any() and b[layer].any():
            expected = jensenshannon(a[layer], b[layer], base=2) ** 2
            np.testing.assert_allclose(found, expected, atol=1e-9)
        else:
            assert np.isnan(found)


def test_what_is_the_same_is_no_finding() -> None:
    """Two samples of one distribution give no finding, even with strongly correlated tokens."""
    for stays in (0.0, 0.7):
        found = p.part(sticky(1, stays=stays), sticky(2, stays=stays), permutations=199)
        assert not len(found.differing())
        assert found.expert_p.min() > 0.05
        assert (found.js > 0).all() and (found.js < 3 * found.expected).all()


def test_what_differs_is_found_with_its_experts() -> None:
    """A layer with another distribution is found, others are not; its interval excludes chance."""
    a, b = sticky(1), sticky(2)
    other = b.experts.copy()
    other[:, 2] = 15 - other[:, 2]
    found = p.part(a, routed(other, a.info.experts_per_layer), permutations=199)
    np.testing.assert_array_equal(found.differing(), [2])
    assert found.low[2] > 0 and found.low[2] < found.excess[2] < found.high[2]
    assert set(np.argwhere(found.expert_p <= 0.05)[:, 0].tolist()) == {2}
    shares = [np.bincount(t[:, 2].ravel(), minlength=16) / t[:, 2].size for t in (a.experts, other)]
    np.testing.assert_allclose(found.difference[2], shares[0] - shares[1], atol=1e-6)
    np.testing.assert_allclose(found.q, scipy.stats.false_discovery_control(found.p))


def test_sticky_routing_is_dealt_in_longer_blocks() -> None:
    """Independent tokens have a correlation time of one token, sticky ones their known time."""
    assert p.correlation_time(sticky(1, 2000)) == pytest.approx(1, abs=0.2)
    # Kept with probability 0.8, the correlation at lag l is 0.8^l: 1 + 2 · 4 = 9, less its tail.
    assert p.correlation_time(sticky(1, 2000, 0.8)) == pytest.approx(9, rel=0.2)
    free, bound = (p.part(sticky(1, 800, s), sticky(2, 800, s), permutations=9) for s in (0, 0.8))
    assert bound.block > 3 * free.block
    assert not free.caution and not bound.caution


def test_too_few_tokens_are_no_finding() -> None:
    """If blocks cannot be long enough, there is a caution and no finding."""
    found = p.part(sticky(1, 60, 0.8), sticky(2, 60, 0.8, liking=9), permutations=199)
    assert "too" in found.caution and not len(found.differing())
    assert found.js.min() > 0.1


def test_an_interval_holds_the_divergence_of_the_laws() -> None:
    """Over many pairs of samples the interval covers the true divergence about 95 % of the time.

    The truth is the divergence of two long samples.
    """
    long = [sticky(seed, 6000, liking=liking, layers=1) for seed, liking in ((1, 0), (2, 3))]
    truth = p.divergence(*(p.blocks_of(t, None, 6000)[0] for t in long))
    covered = []
    for seed in range(40):
        a, b = sticky(seed, layers=1), sticky(1000 + seed, liking=3, layers=1)
        found = p.part(a, b, permutations=150, seed=seed)
        covered.append(found.low[0] <= truth[0] <= found.high[0])
    assert np.mean(covered) >= 0.8


@given(routings(), routings())
def test_leanings_leave_the_token_itself_out(a: Trace, b: Trace) -> None:
    """A token's bits are those of smoothed shares; its own run's share excludes the token."""
    if a.info.experts_per_layer != b.info.experts_per_layer:
        b = routed(a.experts[::-1].copy(), a.info.experts_per_layer)
    found = p.log_share_ratios(a, b)
    for step in range(a.steps):
        bits, chosen = 0.0, 0
        for layer, size in enumerate(a.info.experts_per_layer):
            mine = np.delete(a.experts[:, layer], step, axis=0)
            for expert in a.experts[step, layer]:
                if expert < 0:
                    continue
                shares = [
                    ((ids == expert).sum() + 0.5) / ((ids >= 0).sum() + size / 2)
                    for ids in (mine, b.experts[:, layer])
                ]
                bits, chosen = bits + np.log2(shares[0] / shares[1]), chosen + 1
        np.testing.assert_allclose(found[step], bits / chosen if chosen else np.nan, atol=1e-9)


def test_information_is_entropy_saved() -> None:
    """Mutual information of domain and expert is H(expert) + H(domain) - H(both), by SciPy."""
    groups = [p.blocks_of(sticky(i, liking=i % 2), None, 10) for i in range(3)]
    found = p.information(groups, permutations=99)
    counts = np.stack([group.sum(axis=0) for group in groups])
    for layer in range(4):
        table = counts[:, layer]
        parts = (table.sum(axis=0), table.sum(axis=1), table.ravel())
        over, domain, both = (scipy.stats.entropy(part, base=2) for part in parts)
        np.testing.assert_allclose(found.bits[layer], over + domain - both, atol=1e-6)
    assert (found.bits > found.expected).all() and (found.q <= 0.05).all()
    same = p.information([p.blocks_of(sticky(i), None, 10) for i in range(2)], permutations=99)
    assert (same.q > 0.05).all()


def test_runs_of_other_models_are_refused() -> None:
    """Another shape, too few tokens and no permutations are one sentence each."""
    with pytest.raises(OptionError, match="4 layers of 16 experts and 3 layers of 16"):
        p.part(sticky(1), sticky(1, layers=3))
    with pytest.raises(OptionError, match="at least 2"):
        p.part(sticky(1), sticky(1), "prefill")
    with pytest.raises(OptionError, match="permutations"):
        p.part(sticky(1), sticky(1), permutations=0)


@given(st.text("ab c1.\n", max_size=30), st.text("ab c1.\n", max_size=30))
def test_an_alignment_keeps_both_texts(first: str, second: str) -> None:
    """The segments of each side join to its text, and those marked the same are equal."""
    found = aligned(pieces(first), pieces(second))
    assert "".join(s.first for s in found) == first
    assert "".join(s.second for s in found) == second
    assert all((s.first == s.second) == s.same for s in found)
