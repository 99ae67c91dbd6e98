"""What a token computes between its products, against float64."""

from __future__ import annotations

import numpy as np
import pytest

from outlier_jupyter.cpu.kernels import Scoring, choose_link, layer_norm_link, norm_link

from .conftest import close, run


@pytest.mark.parametrize("width", [1, 7, 2048])
def test_a_row_is_normed(width, random):
    """A row is divided by its root mean square and scaled; a residual is added before."""
    x, weight, added = (random.normal(size=width).astype(np.float32) for _ in range(3))
    wide, total, out = x.astype(np.float64), x + added.astype(np.float64), np.empty_like(x)
    run(norm_link(x, weight, 1e-6, out))
    close(out, wide / np.sqrt(np.mean(wide * wide) + 1e-6) * weight)
    run(norm_link(x, weight, 1e-6, out, added))
    close(out, total / np.sqrt(np.mean(total * total) + 1e-6) * weight)
    close(x, total)
    run(norm_link(x, weight, 1e-6, x))
    close(x, out)


@pytest.mark.parametrize("width", [7, 128])
def test_a_row_is_centred_scaled_and_shifted(width, random):
    """The layer norm with its weight and bias, in place."""
    x, weight, bias = (random.normal(size=width).astype(np.float32) + 1 for _ in range(3))
    wide = x.astype(np.float64)
    wanted = (wide - wide.mean()) / np.sqrt(wide.var() + 1e-5) * weight + bias
    run(layer_norm_link(x, weight, bias, 1e-5, x))
    close(x, wanted)


def chosen(logits, k, sums_to_one, **how):
    """Ids and weights."""
    ids, weights = np.empty(k, np.int64), np.empty(k, np.float32)
    run(choose_link(logits.copy(), ids, weights, Scoring(sums_to_one, **how)))
    return ids, weights


@pytest.mark.parametrize("sums_to_one", [True, False])
def test_the_likeliest_are_chosen_in_the_order_of_their_weights(sums_to_one, random):
    """Softmax over all experts or over the chosen ones; of equal ones the first is taken."""
    logits = random.normal(size=40).astype(np.float32) * 3
    logits[[30, 7]] = logits.max()
    ids, weights = chosen(logits, 5, sums_to_one)
    shares = np.exp(logits.astype(np.float64) - logits.max())
    wanted = np.argsort(-shares, kind="stable")[:5]
    assert ids.tolist() == wanted.tolist() and ids[0] < ids[1]
    close(weights, shares[wanted] / (shares[wanted] if sums_to_one else shares).sum())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_no_numbers_name_no_expert_twice(value):
    """A model with NaN logits chooses experts that exist, each once."""
    ids, _ = chosen(np.full(6, value, np.float32), 4, True)
    assert len(set(ids.tolist())) == 4 and set(ids.tolist()) <= set(range(6))


@pytest.mark.parametrize("sigmoid", [True, False])
@pytest.mark.parametrize("groups", [1, 8])
@pytest.mark.parametrize("sums_to_one", [True, False])
def test_a_bias_and_groups_steer_the_choice_alone(sigmoid, groups, sums_to_one, random):
    """Experts of the best groups are chosen by score and bias; their weights are the scores."""
    logits, bias = (random.normal(size=64).astype(np.float32) for _ in range(2))
    wide = logits.astype(np.float64)
    scores = 1 / (1 + np.exp(-wide)) if sigmoid else np.exp(wide) / np.exp(wide).sum()
    ranks = (scores + bias).reshape(groups, -1)
    best = np.argsort(-np.sort(ranks, axis=1)[:, -2:].sum(axis=1))[: max(1, groups // 2)]
    ranks[np.setdiff1d(np.arange(groups), best)] = 0
    wanted = np.argsort(-ranks.ravel(), kind="stable")[:6]
    ids, weights = chosen(
        logits, 6, sums_to_one, sigmoid=sigmoid, bias=bias, groups=groups,
        top_groups=len(best), scale=2.5,
    )  # fmt: skip
    assert ids.tolist() == wanted.tolist()
    close(weights, 2.5 * scores[wanted] / (scores[wanted].sum() if sums_to_one else 1.0))
