"""The router's weights are caught where they are applied, and never in anybody's way."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

import outlier_jupyter
from outlier_jupyter.paging.weights import RouterTap, as_float32


def apply(tap: RouterTap, layer: int, swapped: bool) -> tuple[mx.array, mx.array, mx.array]:
    output = mx.arange(12, dtype=mx.float32).reshape(2, 3, 2)
    weights = mx.arange(6, dtype=mx.float32).reshape(2, 3) + layer
    watched = tap.watch(output * 1, layer)
    product = weights[..., None] * watched if swapped else watched * weights[..., None]
    return product, output * weights[..., None], weights


@pytest.mark.parametrize("swapped", [False, True])
def test_the_factor_is_caught_on_either_side(swapped):
    """`y * w` and `w * y` give MLX's own product, and the tap holds w as [tokens, k]."""
    tap = RouterTap()
    tap.begin()
    for layer in (4, 7):
        product, expected, weights = apply(tap, layer, swapped)
        assert mx.array_equal(product, expected)
        mx.eval(weights)
    (first, one), (second, other) = tap.drain()
    assert (first, second) == (4, 7)
    assert np.array_equal(one, np.arange(6).reshape(2, 3) + 4)
    assert np.array_equal(other, np.arange(6).reshape(2, 3) + 7)
    assert tap.drain() == []


def test_other_products_are_not_taken_for_weights():
    """A factor of another shape is no router's weight."""
    tap = RouterTap()
    tap.begin()
    watched = tap.watch(mx.ones((2, 3, 4)), 0)
    mx.eval(watched * 2.0)
    mx.eval(watched * mx.ones((4,)))
    assert tap.drain() == []


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16])
def test_weights_come_as_float32(dtype):
    """Half precision is widened exactly, bfloat16 included."""
    weights = mx.array([[[0.5], [1.25]], [[-2.0], [0.0078125]]], dtype)
    mx.eval(weights)
    assert as_float32(weights).tolist() == [[0.5, 1.25], [-2.0, 0.0078125]]


def test_calls_outside_of_a_run_leave_nothing_behind(tiny):
    """Calling `engine.model` directly is not watched, and so holds no memory."""
    with outlier_jupyter.load(tiny, cache_experts=6) as engine:
        mx.eval(engine.model(mx.array([[1, 2, 3]])))
        tap = engine._installed.tap
        assert tap._caught == [] and tap._watching == []
