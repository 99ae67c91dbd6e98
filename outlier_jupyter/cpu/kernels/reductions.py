"""Vectorised maxima, exponentials and weighted sums, for attention and routers."""

from __future__ import annotations

import math

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .simd import F32, I32, Emitter, Value, constant, vector

# e^r on |r| ≤ ln 2 / 2, by its Taylor series, which is exact to float32 there with these terms.
_TERMS = [1 / math.factorial(n) for n in range(8)]
_LN2_HIGH, _LN2_LOW = 0.693359375, math.log(2) - 0.693359375
_LEAST = -87.0
"""Below this e^x is no normal float32; such a weight counts as 0."""


def exponential(emit: Emitter, x: Value, lanes: int, terms: int = len(_TERMS)) -> Value:
    """e^x for float32 x ≤ 88, to about 2 units in the last place; to 3e-6 with 6 `terms`."""
    builder = emit.builder
    x = emit.call("llvm.maxnum", x, constant(_LEAST, F32, lanes))
    whole = emit.call("llvm.rint", builder.fmul(x, constant(1 / math.log(2), F32, lanes)))
    rest = emit.fma(whole, constant(-_LN2_HIGH, F32, lanes), x)
    rest = emit.fma(whole, constant(-_LN2_LOW, F32, lanes), rest)
    found = constant(_TERMS[terms - 1], F32, lanes)
    for term in reversed(_TERMS[: terms - 1]):
        found = emit.fma(found, rest, constant(term, F32, lanes))
    power = builder.fptosi(whole, vector(I32, lanes))
    power = builder.shl(builder.add(power, constant(127, I32, lanes)), constant(23, I32, lanes))
    return builder.fmul(found, builder.bitcast(power, vector(F32, lanes)))


def parts(emit: Emitter, count: Value, lanes: int) -> list[tuple[Value, Value, int]]:
    """(first, iterations, lanes) of a loop over vectors and one over the rest."""
    builder = emit.builder
    iterations = builder.udiv(count, emit.integer(lanes))
    done = builder.mul(iterations, emit.integer(lanes))
    return [(emit.integer(0), iterations, lanes), (done, builder.sub(count, done), 1)]


@intrinsic
def largest(context, base, count):
    """The largest of `count` float32 at `base`, or −3e38."""

    def generate(context, builder, signature, arguments):
        emit = Emitter(builder)
        base, count = arguments
        found = emit.variable(F32, constant(-3e38, F32, 1))
        for first, iterations, lanes in parts(emit, count, 8):
            best = emit.variable(vector(F32, lanes), constant(-3e38, F32, lanes))
            with emit.loop(iterations) as iteration:
                place = builder.add(first, builder.mul(iteration, emit.integer(lanes)))
                at = emit.at(base, builder.shl(place, emit.integer(2)))
                value = emit.load(at, F32, lanes, align=4)
                builder.store(emit.call("llvm.maxnum", builder.load(best), value), best)
            result = builder.load(best)
            for lane in range(lanes):
                one = result
                if lanes > 1:
                    one = builder.extract_element(result, ir.Constant(I32, lane))
                builder.store(emit.call("llvm.maxnum", builder.load(found), one), found)
        return builder.load(found)

    return types.float32(types.int64, types.int64), generate


@intrinsic
def exponentials(context, base, count, shift):
    """Replace `count` float32 at `base` by e^(x − shift), and return their sum."""

    def generate(context, builder, signature, arguments):
        emit = Emitter(builder)
        base, count, shift = arguments
        found = emit.variable(F32, constant(0.0, F32, 1))
        for first, iterations, lanes in parts(emit, count, 8):
            total = emit.variable(vector(F32, lanes), constant(0.0, F32, lanes))
            with emit.loop(iterations) as iteration:
                place = builder.add(first, builder.mul(iteration, emit.integer(lanes)))
                at = emit.at(base, builder.shl(place, emit.integer(2)))
                x = builder.fsub(emit.load(at, F32, lanes, align=4), emit.splat(shift, lanes))
                value = exponential(emit, x, lanes)
                emit.store(value, at)
                builder.store(builder.fadd(builder.load(total), value), total)
            more = emit.total(builder.load(total), lanes)
            builder.store(builder.fadd(builder.load(found), more), found)
        return builder.load(found)

    return types.float32(types.int64, types.int64, types.float32), generate


@intrinsic(prefer_literal=True)
def blend(context, kind, rows, v, v_stride, p, p_stride, count, width, out, out_stride):
    """out[r] = Σ p[r, t] · v[t] for `rows` of p and `count` rows of v, [width] of type `kind`.

    Strides are bytes. Four rows at a time share the reading of v.
    """
    if not isinstance(kind, types.StringLiteral):
        return None
    name = kind.literal_value

    def generate(context, builder, signature, arguments):
        emit = Emitter(builder)
        rows, v, v_stride, p, p_stride, count, width, out, out_stride = arguments[1:]
        fours = builder.lshr(rows, emit.integer(2))
        done = builder.shl(fours, emit.integer(2))
        for size, first, iterations in (
            (4, emit.integer(0), fours),
            (1, done, builder.sub(rows, done)),
        ):
            with emit.loop(iterations) as iteration:
                row = builder.add(first, builder.mul(iteration, emit.integer(size)))
                ps, outs = (
                    [
                        emit.at(base, builder.mul(builder.add(row, emit.integer(i)), stride))
                        for i in range(size)
                    ]
                    for base, stride in ((p, p_stride), (out, out_stride))
                )
                _blend(emit, name, v, v_stride, ps, count, width, outs)
        return context.get_dummy_value()

    return types.void(kind, *[types.int64] * 9), generate


def _blend(
    emit: Emitter,
    kind: str,
    v: Value,
    v_stride: Value,
    ps: list[Value],
    count: Value,
    width: Value,
    outs: list[Value],
) -> None:
    builder = emit.builder
    nbytes = 4 if kind == "f32" else 2
    for first, iterations, lanes in parts(emit, width, 16):
        with emit.loop(iterations) as iteration:
            place = builder.add(first, builder.mul(iteration, emit.integer(lanes)))
            column = emit.at(v, builder.mul(place, emit.integer(nbytes)))
            sums = [emit.variable(vector(F32, lanes), constant(0.0, F32, lanes)) for _ in ps]
            with emit.loop(count) as t:
                value = emit.floats(emit.at(column, builder.mul(t, v_stride)), kind, lanes)
                for p, total in zip(ps, sums, strict=True):
                    weight = emit.load(emit.at(p, builder.shl(t, emit.integer(2))), F32, 1, align=4)
                    more = emit.fma(emit.splat(weight, lanes), value, builder.load(total))
                    builder.store(more, total)
            for total, out in zip(sums, outs, strict=True):
                emit.store(builder.load(total), emit.at(out, builder.shl(place, emit.integer(2))))
