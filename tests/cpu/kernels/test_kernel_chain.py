"""Kernels in a chain: each starts after all tasks of the one before."""

from __future__ import annotations

from itertools import pairwise

import mlx.core as mx
import numpy as np
import pytest

from outlier_jupyter.cpu.kernels import (
    RUNNING,
    AppendKV,
    Attend,
    Cached,
    Chain,
    Stack,
    affine,
    attend,
)
from outlier_jupyter.cpu.kernels.arguments import float_at, int_at, put_float
from outlier_jupyter.cpu.kernels.compiled import task
from outlier_jupyter.cpu.kernels.kernel_chain import link

from .conftest import matrix

SEVERAL = 1 << 40
"""A number of bytes that wakes every thread."""


@pytest.fixture(scope="module")
def shift() -> int:
    """A kernel that writes to its second row the next number of its first, and one more."""

    def kernel(arguments: int, place: int) -> None:
        x, out, count = int_at(arguments, 0), int_at(arguments, 1), int_at(arguments, 2)
        put_float(out, place, float_at(x, (place + 1) % count) + 1)

    return task(kernel)


def run(links, nbytes=SEVERAL):
    """The links, as one chain."""
    with RUNNING:
        Chain(links, nbytes).run()


@pytest.mark.parametrize("nbytes", [0, SEVERAL])
def test_a_kernel_begins_when_the_one_before_is_done(shift, nbytes):
    """Each of 40 kernels reads numbers that other tasks of the one before wrote."""
    rows = np.empty((41, 300), np.float32)
    links = [link(shift, 300, before, after, 300) for before, after in pairwise(rows)]
    for _ in range(20):
        rows[:] = np.nan
        rows[0] = np.arange(300)
        run(links, nbytes)
        np.testing.assert_array_equal(rows[-1], np.roll(rows[0], -40) + 40)


def test_some_links_may_be_run(shift):
    """A chain runs from one link up to another."""
    rows = np.arange(20, dtype=np.float32).reshape(4, 5)
    links = [link(shift, 5, rows[n], rows[3], 5) for n in range(3)]
    chain = Chain(links, 0)
    with RUNNING:
        chain.run(1, 2)
    np.testing.assert_array_equal(rows[3], [7, 8, 9, 10, 6])


def test_products_of_a_chain_are_those_outside_it(random):
    """Bit for bit, run after run."""
    stack = Stack([matrix(affine(4, 64, "bf16"), height, 128)[0] for height in (90, 7)])
    x, out = random.normal(size=128).astype(np.float32), np.empty(97, np.float32)
    chain = Chain(stack.links(x, out), SEVERAL)
    for _ in range(3):
        x[:] = random.normal(size=128)
        with RUNNING:
            chain.run()
        np.testing.assert_array_equal(out[None], stack.multiply(x[None]))


@pytest.mark.parametrize("kind", ["f32", "bf16"])
@pytest.mark.parametrize("tokens", [1, 200, 3000])
def test_a_token_is_kept_and_attends_over_it(tokens, kind, random):
    """Keys and values are in their places, and the token attends to its own as well."""
    heads, kv_heads, width, wide, scale = 6, 2, 16, 8, 0.3
    found = random.normal(size=heads * width + kv_heads * (width + wide)).astype(np.float32)
    split = heads * width

    def stored(part: np.ndarray) -> np.ndarray:
        return as_bf16(part) if kind == "bf16" else part

    rooms = [stored(random.normal(size=(2, tokens + 5, each)).astype(np.float32))
             for each in (width, wide)]  # fmt: skip
    keys, values = (Cached(room.copy(), kind) for room in rooms)
    queries, key, value = (
        part.copy() for part in np.split(found, [split, (heads + kv_heads) * width])
    )
    keep, mixed = AppendKV(found[split:], kv_heads, width, wide, kind), np.empty(48, np.float32)
    over = Attend(found, mixed, heads, kv_heads, width, kind, scale)
    chain = Chain([keep.link, over.link], SEVERAL)
    with RUNNING:
        keep.append_to(keys, values, tokens - 1)
        over.over(keys, values, tokens)
        chain.run()
    for room, kept, mine in zip(rooms, (keys, values), (key, value), strict=True):
        room[:, tokens - 1] = stored(mine).reshape(2, -1)
        np.testing.assert_array_equal(kept.memory, room)
    wanted = attend(queries.reshape(1, heads, width), keys, values, scale, None, tokens)
    np.testing.assert_array_equal(mixed.reshape(1, heads, wide), wanted)


def as_bf16(x: np.ndarray) -> np.ndarray:
    """float32 as the bits of the nearest bfloat16, by MLX."""
    return np.array(mx.array(x).astype(mx.bfloat16).view(mx.uint16))
