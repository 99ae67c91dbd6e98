"""The small kernels that gate one token's activations, and the sum at a layer's end.

A task is a block of columns, so that several threads share even these.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numba import types
from numba.extending import intrinsic

from .arguments import float_at, int_at, put_float
from .compiled import task
from .kernel_chain import Link, link
from .linear import F32s
from .reductions import exponential, parts
from .simd import F32, Emitter, Value, constant
from .vectors import add_weighted

COLUMNS = 512
"""Columns of a task."""
HIGHEST = 87.0
"""e^x of more is no float32."""

GATE, VALUE, GATED, GATED_WIDTH = range(4)
X, ROWS, WEIGHTS, COUNT, WIDTH, MORE, LOGIT, PARAMETERS = range(8)


def sigmoid(emit: Emitter, x: Value, lanes: int) -> Value:
    """1 / (1 + e^−x) for float32 x."""
    builder, one = emit.builder, constant(1.0, F32, lanes)
    negative = builder.fsub(constant(-0.0, F32, lanes), x)
    power = exponential(
        emit, emit.call("llvm.minnum", negative, constant(HIGHEST, F32, lanes)), lanes
    )
    return builder.fdiv(one, builder.fadd(one, power))


@intrinsic(prefer_literal=True)
def gate_values(context, swish, gate, value, out, count):
    """out = value × sigmoid(gate) for `count` float32; × gate as well if `swish` is 1."""
    if not isinstance(swish, types.IntegerLiteral):
        return None
    whole = swish.literal_value

    def generate(context, builder, signature, arguments):
        emit = Emitter(builder)
        gate, value, out, count = arguments[1:]
        for first, iterations, lanes in parts(emit, count, 8):
            with emit.loop(iterations) as iteration:
                place = builder.add(first, builder.mul(iteration, emit.integer(lanes)))
                at = builder.shl(place, emit.integer(2))
                opened = emit.load(emit.at(gate, at), F32, lanes, align=4)
                found = emit.load(emit.at(value, at), F32, lanes, align=4)
                found = builder.fmul(found, sigmoid(emit, opened, lanes))
                if whole:
                    found = builder.fmul(found, opened)
                emit.store(found, emit.at(out, at))
        return context.get_dummy_value()

    return types.void(swish, *[types.int64] * 4), generate


@lru_cache
def gate_task(swish: int) -> int:
    """The kernel of `swiglu_link` (1) and `sigmoid_link` (0)."""

    def kernel(arguments: int, block: int) -> None:
        width, first = int_at(arguments, GATED_WIDTH), block * COLUMNS
        count = min(width - first, COLUMNS)
        gate_values(
            swish, int_at(arguments, GATE) + 4 * first, int_at(arguments, VALUE) + 4 * first,
            int_at(arguments, GATED) + 4 * first, count,
        )  # fmt: skip

    return task(kernel)


def swiglu_link(gate: F32s, value: F32s, out: F32s) -> Link:
    """out = value × gate × sigmoid(gate), all [width]; `out` may be one of the others."""
    return link(gate_task(1), blocks_of(gate.size), gate, value, out, gate.size)


def sigmoid_link(gate: F32s, value: F32s, out: F32s) -> Link:
    """out = value × sigmoid(gate), all [width]; `out` may be one of the others."""
    return link(gate_task(0), blocks_of(gate.size), gate, value, out, gate.size)


@lru_cache
def blend_task() -> int:
    """The kernel of `blend_link`."""

    def kernel(arguments: int, block: int) -> None:
        width, first = int_at(arguments, WIDTH), block * COLUMNS
        count, start = min(width - first, COLUMNS), 4 * first
        x, weights = int_at(arguments, X) + start, int_at(arguments, WEIGHTS)
        add_weighted(
            x, int_at(arguments, ROWS) + start, 4 * width, weights, int_at(arguments, COUNT), count
        )
        if int_at(arguments, MORE) != 0:
            factor = int_at(arguments, PARAMETERS) + 4 * block
            weight = types.float32(1.0)
            if int_at(arguments, LOGIT) != 0:
                logit = float_at(int_at(arguments, LOGIT), 0)
                weight = types.float32(1.0 / (1.0 + math.exp(-logit)))
            put_float(factor, 0, weight)
            add_weighted(x, int_at(arguments, MORE) + start, 0, factor, 1, count)

    return task(kernel)


def blend_link(
    x: F32s, weights: F32s, rows: F32s, more: F32s | None = None, logit: F32s | None = None
) -> Link:
    """Add the sum of `weights` [k] × `rows` [k, width] to `x` [width].

    Args:
        more: a row [width] that is added as well, times the sigmoid of `logit` [1] if given.
    """
    blocks = blocks_of(x.size)
    return link(
        blend_task(), blocks, x, rows, weights, len(weights), x.size, more, logit,
        np.empty(blocks, np.float32),
    )  # fmt: skip


def blocks_of(width: int) -> int:
    """The tasks of `width` columns."""
    return -(-width // COLUMNS)
