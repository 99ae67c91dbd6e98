"""The tap captures the router's weights where they are applied, without changing a result."""

from __future__ import annotations

import sys

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

import outlier_jupyter
from outlier_jupyter.paging.block_hooks import follow
from outlier_jupyter.paging.router_tap import RouterTap, as_float32
from tests.inspection import inside, watched_arrays


def apply(tap: RouterTap, layer: int, swapped: bool) -> tuple[mx.array, mx.array]:
    output = mx.arange(12, dtype=mx.float32).reshape(2, 3, 2)
    weights = mx.arange(6, dtype=mx.float32).reshape(2, 3) + layer
    watched = tap.watch_output(output * 1, layer)
    product = weights[..., None] * watched if swapped else watched * weights[..., None]
    return product, output * weights[..., None]


@pytest.mark.parametrize("swapped", [False, True])
def test_the_factor_is_caught_on_either_side(swapped):
    """`y * w` and `w * y` give MLX's own product, and the tap has w as [tokens, k]."""
    tap = RouterTap()
    tap.begin()
    for layer in (4, 7):
        product, expected = apply(tap, layer, swapped)
        assert mx.array_equal(product, expected)
    (first, one), (second, other) = tap.drain()
    assert (first, second) == (4, 7)
    assert np.array_equal(one, np.arange(6).reshape(2, 3) + 4)
    assert np.array_equal(other, np.arange(6).reshape(2, 3) + 7)
    assert tap.drain() == []


def test_a_factor_of_another_type_is_caught():
    """`y.astype(t) * w` is captured too, and later casts of y record nothing twice."""
    tap = RouterTap()
    tap.begin()
    watched = tap.watch_output(mx.ones((2, 3, 4)), 5)
    cast = watched.astype(mx.float16)
    product = cast * mx.full((2, 3, 1), 0.5, mx.float16)
    mx.eval(product, watched * mx.ones((2, 3, 1)))
    assert product.dtype == mx.float16
    ((layer, weights),) = tap.drain()
    assert layer == 5 and np.array_equal(weights, np.full((2, 3), 0.5))


@mx.compile
def combine(experts, weights):
    return (experts * weights[..., None]).sum(-2)


def scaled(experts, *, weights, by):
    return (experts * weights[..., None]).sum(-2) * by


class Block(nn.Module):
    """Calls a switch like a model's block, and applies the weights in a way no product shows."""

    def __init__(self, switch, way):
        super().__init__()
        self.switch, self.way = switch, way

    def __call__(self, x, weights):
        if self.way == "input":
            return self.switch(x * weights).sum(-2)
        if self.way == "keyword":
            return scaled(self.switch(x), weights=weights, by=2.0)
        return combine(self.switch(x), weights)


@pytest.mark.parametrize(("way", "k"), [("function", 3), ("keyword", 3), ("input", 1)])
def test_weights_that_a_function_or_the_input_takes_are_caught(way, k):
    """A compiled function, keywords, a top-1 switch's input: captured, with the same result."""
    tap = RouterTap()
    x, weights = mx.random.normal((2, 4)), mx.random.uniform(shape=(2, k))

    def switch(y):
        return tap.watch_output(mx.stack([y] * k, axis=1) + 0, 1, y)

    plain = Block(switch, way)(x, weights)
    block = Block(switch, way)
    follow(block, tap)
    tap.begin()
    assert mx.array_equal(block(x, weights), plain)
    ((layer, caught),) = tap.drain()
    assert layer == 1 and np.array_equal(caught, np.array(weights))
    assert isinstance(block, Block) and type(block).__name__ == "Block"
    assert mx.array_equal(block(x, weights), plain) and tap.drain() == []


class Scaling(nn.Module):
    """Scales the weighted sum by a gate per token, then by a constant, then adds to it."""

    def __init__(self, tap):
        super().__init__()
        self.tap = tap

    def __call__(self, x, weights, gate, constant):
        y = self.tap.watch_output(mx.stack([x] * 3, axis=-2), 2)
        total = (y * weights[..., None]).sum(axis=-2).astype(mx.float32)
        return constant * (total * gate) if constant else total + x * gate


@pytest.mark.parametrize("constant", [1.5, 0])
def test_what_scales_the_sum_of_the_experts_is_part_of_each_weight(constant):
    """A weight is the product of all factors of an expert's output until its block returns."""
    tap = RouterTap()
    x, weights = mx.random.normal((2, 4)), mx.random.uniform(shape=(2, 3))
    gate = mx.array([[0.25], [3.0]])
    plain = Scaling(tap)(x, weights, gate, constant)
    block = Scaling(tap)
    follow(block, tap)
    tap.begin()
    output = block(x, weights, gate, constant)
    assert mx.array_equal(output, plain)
    # What the layer does with the block's output (granite scales it) is no expert's weight.
    assert mx.array_equal(output * 0.22, plain * 0.22)
    ((layer, caught),) = tap.drain()
    wanted = np.array(weights) * np.array(gate) * constant if constant else np.array(weights)
    assert layer == 2 and np.allclose(caught, wanted, rtol=1e-6)


def test_the_tap_holds_no_large_array():
    """Watching keeps no output or input alive: those of a prompt would fill the memory."""
    tap = RouterTap()
    tap.begin()
    x, output = mx.ones((2, 4)), mx.ones((2, 3, 4))
    before = sys.getrefcount(x), sys.getrefcount(output)
    tap.watch_input(x)
    tap.watch_output(output, 0, x)
    assert (sys.getrefcount(x), sys.getrefcount(output)) == before


def test_ids_of_resident_layers_are_reported_at_the_end():
    """`record_ids` keeps unevaluated ids; `drain` reports them as hits, before weights."""
    tap = RouterTap()
    tap.begin()
    tap.record_ids(2, mx.array([[[3, 1]]], mx.uint32))
    mx.eval(tap.watch_output(mx.ones((1, 1, 2, 4)), 2) * mx.ones((1, 1, 2, 1)))
    routed, weighed = tap.drain()
    assert routed.layer == 2 and routed.experts.tolist() == [[3, 1]] and routed.hits.all()
    assert weighed.weights.tolist() == [[1.0, 1.0]]


def test_other_products_are_not_taken_for_weights():
    """A factor of another shape is not a router weight."""
    tap = RouterTap()
    tap.begin()
    watched = tap.watch_output(mx.ones((2, 3, 4)), 0)
    mx.eval(watched * 2.0)
    mx.eval(watched * mx.ones((4,)))
    assert tap.drain() == []


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16])
def test_weights_come_as_float32(dtype):
    """Half precision is widened exactly, bfloat16 included."""
    weights = mx.array([[[0.5], [1.25]], [[-2.0], [0.0078125]]], dtype)
    mx.eval(weights)
    strided = mx.repeat(weights, 2, axis=1)[:, ::2]
    mx.eval(strided)
    assert as_float32(strided, 2).tolist() == [[0.5, 1.25], [-2.0, 0.0078125]]
    assert as_float32(weights, 2).tolist() == [[0.5, 1.25], [-2.0, 0.0078125]]


def test_calls_outside_of_a_run_leave_nothing_behind(tiny):
    """A direct call of `engine.model` is not watched, and so uses no memory."""
    with outlier_jupyter.load(tiny, cache_experts=6) as engine:
        mx.eval(engine.model(mx.array([[1, 2, 3]])))
        assert watched_arrays(inside(engine).tap) == 0
