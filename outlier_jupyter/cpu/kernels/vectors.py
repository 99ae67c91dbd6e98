"""Vector operations on one token's rows: norms, weighted sums and rotations.

The kernels between two matrix products run while other threads wait, so they count in full. LLVM's
own vectoriser leaves such loops scalar, as their addresses are plain integers that might overlap.
"""

from __future__ import annotations

import math
from typing import Any

from numba import types
from numba.extending import intrinsic, register_jitable

from .processor import LANES
from .reductions import parts
from .simd import F32, Emitter, Value, constant, vector

WIDE = 4 * LANES
"""Floats of an iteration: their sums are independent, which hides the latency of additions."""


@register_jitable
def rms_norm(x: int, added: int, weight: int, out: int, width: int, epsilon: float) -> None:
    """x += added, unless that is 0, and out = RMS norm of x × weight; float32 [width] each."""
    squares = add_and_square(x, added, width)
    scale = types.float32(1 / math.sqrt(squares / width + epsilon))
    multiply(x, weight, scale, out, width)


@intrinsic
def add_and_square(context, x, added, width):
    """x += added, unless that is 0; the sum of the squares."""

    def generate(context, builder, signature, arguments):
        emit = Emitter(builder)
        x, added, width = arguments
        found = emit.variable(F32, constant(0.0, F32, 1))
        more = builder.icmp_unsigned("!=", added, emit.integer(0))
        with builder.if_else(more) as (then, otherwise):
            with then:
                _squares(emit, x, added, width, found)
            with otherwise:
                _squares(emit, x, None, width, found)
        return builder.load(found)

    return types.float32(*[types.int64] * 3), generate


def _squares(emit: Emitter, x: Value, added: Value | None, width: Value, found: Value) -> None:
    builder = emit.builder
    for first, iterations, lanes in parts(emit, width, WIDE):
        total = emit.variable(vector(F32, lanes), constant(0.0, F32, lanes))
        with emit.loop(iterations) as iteration:
            at = _offset(emit, first, iteration, lanes)
            value = emit.load(emit.at(x, at), F32, lanes, align=4)
            if added is not None:
                value = builder.fadd(value, emit.load(emit.at(added, at), F32, lanes, align=4))
                emit.store(value, emit.at(x, at))
            builder.store(emit.fma(value, value, builder.load(total)), total)
        more = emit.total(builder.load(total), lanes)
        builder.store(builder.fadd(builder.load(found), more), found)


def _offset(emit: Emitter, first: Value, iteration: Value, lanes: int) -> Value:
    """Bytes before the `lanes` floats of an iteration."""
    builder = emit.builder
    place = builder.add(first, builder.mul(iteration, emit.integer(lanes)))
    return builder.shl(place, emit.integer(2))


@intrinsic
def multiply(context, x, weight, scale, out, width):
    """out = x × weight × scale, float32 [width]; `out` may be `x`."""

    def generate(context, builder, signature, arguments):
        emit = Emitter(builder)
        x, weight, scale, out, width = arguments
        for first, iterations, lanes in parts(emit, width, WIDE):
            factor = emit.splat(scale, lanes)
            with emit.loop(iterations) as iteration:
                at = _offset(emit, first, iteration, lanes)
                values, weights = (
                    emit.load(emit.at(each, at), F32, lanes, align=4) for each in (x, weight)
                )
                found = builder.fmul(values, builder.fmul(weights, factor))
                emit.store(found, emit.at(out, at))
        return context.get_dummy_value()

    integer = types.int64
    return types.void(integer, integer, types.float32, integer, integer), generate


@intrinsic
def add_weighted(context, x, rows, stride, weights, count, width):
    """x += Σ weights[r] × rows[r] for `count` rows, `stride` bytes apart; float32 [width]."""

    def generate(context, builder, signature, arguments):
        emit = Emitter(builder)
        x, rows, stride, weights, count, width = arguments
        for first, iterations, lanes in parts(emit, width, WIDE):
            total = emit.variable(vector(F32, lanes), constant(0.0, F32, lanes))
            with emit.loop(iterations) as iteration:
                at = _offset(emit, first, iteration, lanes)
                builder.store(emit.load(emit.at(x, at), F32, lanes, align=4), total)
                with emit.loop(count) as row:
                    place = emit.at(emit.at(rows, builder.mul(row, stride)), at)
                    which = emit.at(weights, builder.shl(row, emit.integer(2)))
                    weight = emit.splat(emit.load(which, F32, 1, align=4), lanes)
                    value = emit.load(place, F32, lanes, align=4)
                    builder.store(emit.fma(weight, value, builder.load(total)), total)
                emit.store(builder.load(total), emit.at(x, at))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 6), generate


@intrinsic
def rotate(context, x, angles, pairs, adjacent):
    """Rotate `pairs` pairs of x by angles: float32 [pairs] cosines, then [pairs] sines.

    A pair is two neighbours if `adjacent` is not 0, else one of each half.
    """

    def generate(context, builder, signature, arguments):
        emit = Emitter(builder)
        x, angles, pairs, adjacent = arguments
        together = builder.icmp_unsigned("!=", adjacent, emit.integer(0))
        for first, iterations, lanes in parts(emit, pairs, LANES):
            with emit.loop(iterations) as iteration:
                at = _offset(emit, first, iteration, lanes)
                half = builder.shl(pairs, emit.integer(2))
                turn = [
                    emit.load(emit.at(start, at), F32, lanes, align=4)
                    for start in (angles, emit.at(angles, half))
                ]
                with builder.if_else(together) as (then, otherwise):
                    with then:
                        _rotate_neighbours(emit, emit.at(x, emit.at(at, at)), turn, lanes)
                    with otherwise:
                        places = emit.at(x, at), emit.at(emit.at(x, half), at)
                        both = [emit.load(place, F32, lanes, align=4) for place in places]
                        for found, place in zip(_turned(emit, both, turn), places, strict=True):
                            emit.store(found, place)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), generate


def _rotate_neighbours(emit: Emitter, place: Value, turn: list[Value], lanes: int) -> None:
    """Rotate the pairs of neighbours among 2 × `lanes` floats."""
    ends = [place, emit.at(place, 4 * lanes)]
    low, high = (emit.load(each, F32, lanes, align=4) for each in ends)
    if lanes == 1:
        found = _turned(emit, [low, high], turn)
    else:
        split = [emit.shuffle(low, high, range(odd, 2 * lanes, 2)) for odd in (0, 1)]
        a, b = _turned(emit, split, turn)
        order = [at for lane in range(lanes) for at in (lane, lanes + lane)]
        found = [emit.shuffle(a, b, part) for part in (order[:lanes], order[lanes:])]
    for value, end in zip(found, ends, strict=True):
        emit.store(value, end)


def _turned(emit: Emitter, both: list[Any], turn: list[Any]) -> list[Any]:
    """The two coordinates after a rotation by an angle's cosine and sine."""
    builder, (a, b), (cosine, sine) = emit.builder, both, turn
    return [
        builder.fsub(builder.fmul(a, cosine), builder.fmul(b, sine)),
        builder.fadd(builder.fmul(a, sine), builder.fmul(b, cosine)),
    ]
