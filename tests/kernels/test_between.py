"""What lies between the products of a token, against float64."""

from __future__ import annotations

import numpy as np
import pytest

from outlier_jupyter.kernels import blend, choose, norm

from .conftest import close


@pytest.mark.parametrize("width", [1, 7, 2048])
def test_a_row_is_normed(width, random):
    """Divided by the root of its mean square, and weighed."""
    x, weight = (random.normal(size=shape).astype(np.float32) for shape in ((1, width), width))
    wide = x.astype(np.float64)
    close(norm(x, weight, 1e-6), wide / np.sqrt(np.mean(wide * wide) + 1e-6) * weight)


@pytest.mark.parametrize("sums_to_one", [True, False])
def test_the_likeliest_are_chosen_in_the_order_of_their_weights(sums_to_one, random):
    """Their softmax over all or over themselves; of equals the first."""
    logits = random.normal(size=(1, 40)).astype(np.float32) * 3
    logits[0, [30, 7]] = logits.max()
    ids, weights = choose(logits, 5, sums_to_one)
    shares = np.exp(logits[0].astype(np.float64) - logits.max())
    wanted = np.argsort(-shares, kind="stable")[:5]
    assert ids.tolist() == wanted.tolist() and ids[0] < ids[1]
    close(weights, shares[wanted] / (shares[wanted] if sums_to_one else shares).sum())


def test_logits_that_are_no_numbers_name_no_expert_twice():
    """A model that has gone wrong asks for experts that there are, each once."""
    ids, _ = choose(np.full((1, 6), np.nan, np.float32), 4, True)
    assert sorted(set(ids.tolist())) == sorted(ids.tolist()) and set(ids.tolist()) <= set(range(6))


def test_rows_are_added_by_their_weights(random):
    """x stays as it is; the sum is a new row."""
    x, weights, rows = (
        random.normal(size=shape).astype(np.float32) for shape in ((1, 33), 4, (4, 33))
    )
    before = x.copy()
    close(blend(x, weights, rows), x + weights.astype(np.float64) @ rows)
    assert np.array_equal(x, before)
