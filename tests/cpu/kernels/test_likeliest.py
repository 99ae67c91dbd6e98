"""The compiled pass over log-probabilities gives what a sort and float64 give."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outlier_jupyter.cpu.kernels.likeliest import BLOCK, Likeliest
from outlier_jupyter.events import Predicted


def checked(x: np.ndarray, token: int, n: int) -> None:
    """Compare one row with a stable sort and sums in float64."""
    (found,) = Predicted(Likeliest(n)(x, token)).rows
    order = np.argsort(-x, kind="stable")
    assert found["logprob"] == x[token]
    assert found["rank"] == 1 + np.flatnonzero(order == token)[0]
    p = np.exp(x.astype(np.float64))
    entropy = -(p * np.where(p > 0, x, 0)).sum()
    np.testing.assert_allclose(found["entropy"], entropy, rtol=1e-5, atol=1e-5)
    some = [int(each) for each in order if x[each] > -np.inf][:n]
    none = n - len(some)
    assert found["alternatives"].tolist() == some + [-1] * none
    expected = np.append(x[some], np.full(none, np.nan, np.float32))
    np.testing.assert_array_equal(found["alternative_logprobs"], expected)


def row(seed: int, size: int, spread: float, levels: int) -> np.ndarray:
    """Log-probabilities with many equal ones and some of probability 0."""
    rng = np.random.default_rng(seed)
    logits = np.round(rng.standard_normal(size) * levels) / levels * spread
    logits[rng.random(size) < 0.1] = -np.inf
    logits[rng.integers(size)] = spread
    return (logits - np.log(np.exp(logits).sum())).astype(np.float32)


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 2**32 - 1), st.integers(1, 5 * BLOCK + 3), st.sampled_from([0.1, 3.0, 40.0]),
    st.sampled_from([1, 100]), st.integers(0, 12), st.data(),
)  # fmt: skip
def test_a_row_of_any_length(seed, size, spread, levels, n, data):
    """Rank, entropy and alternatives, also with equal values and with fewer tokens than asked."""
    x = row(seed, size, spread, levels)
    checked(x, data.draw(st.integers(0, size - 1)), n)


@pytest.mark.parametrize("spread", [1.0, 4.0, 30.0])
def test_a_large_vocabulary(spread):
    """A row of 152,000 for a likely, a middling and an unlikely token."""
    x = row(7, 152_000, spread, 10_000)
    order = np.argsort(-x, kind="stable")
    for token in (order[0], order[70_000], order[-1]):
        checked(x, int(token), 5)


def test_ascending_rows_hold_the_likeliest_last():
    """Every block is better than the one before, and all are looked at."""
    x = np.linspace(-20, -1, 10 * BLOCK, dtype=np.float32)
    (found,) = Predicted(Likeliest(3)(x, 0)).rows
    assert found["alternatives"].tolist() == [len(x) - 1, len(x) - 2, len(x) - 3]
    assert found["rank"] == len(x)
