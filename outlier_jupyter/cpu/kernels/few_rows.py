"""Attention's inner loops for one token whose query heads, of one key head, fit a vector.

Where pairs of bfloat16 are multiplied, such a tile is read where it is: positions are rows and
query heads are lanes, so neither keys nor sums are transposed, and values are interleaved while
they are multiplied. Unpacking a tile would take as long as multiplying it.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .reductions import exponential
from .simd import F32, I16, I32, I64, Emitter, Value, constant, vector
from .tiles import LOWEST, PANEL, pairs
from .unpack import CACHE_LINE

FEW = 8
"""Query heads, the lanes of half a vector."""
ROW = 4 * FEW
"""Bytes of one number for each head."""
POSITIONS = 4
"""Rows of keys at a time: with two words of each, sums enough to keep the multipliers busy."""
LANES = 2 * FEW


@intrinsic(prefer_literal=True)
def attend_few(
    context, kind, heads, keys, values, key_row, value_row, count, queries, scores, weights, tops,
    totals, factors, mixed, mixed_row, first,
):  # fmt: skip
    """Add a tile of `count` keys and values to the running sums of `heads` query heads.

    Args:
        key_row, value_row: bytes of a row of keys and values; of a head's sums `mixed_row`.
        queries: pairs of bfloat16, [words of a key, FEW].
        scores, weights: scratch memory.
        tops, totals, factors: [FEW], the running maxima and sums, and the factors of what is
            summed before this tile.
        first: whether there is nothing before.
    """
    if not isinstance(kind, types.StringLiteral):
        return None
    used = pairs(kind.literal_value)

    def generate(context, builder, signature, arguments):
        if used:
            _attend(Emitter(builder), *arguments[1:])
        return context.get_dummy_value()

    return types.void(kind, *[types.int64] * 14, types.boolean), generate


def _attend(
    emit: Emitter, heads: Value, keys: Value, values: Value, key_row: Value, value_row: Value,
    count: Value, queries: Value, scores: Value, weights: Value, tops: Value, totals: Value,
    factors: Value, mixed: Value, mixed_row: Value, first: Value,
) -> None:  # fmt: skip
    builder = emit.builder
    left, done = count, emit.integer(0)
    for rows in (POSITIONS, 1):
        groups = builder.udiv(left, emit.integer(rows))
        function = _scores(builder.module, rows)
        builder.call(function, [groups, emit.at(keys, builder.mul(done, key_row)), key_row, queries,
                                emit.at(scores, builder.mul(done, emit.integer(ROW))),
                                emit.at(values, builder.mul(done, value_row))])  # fmt: skip
        done = builder.mul(groups, emit.integer(rows))
        left = builder.sub(count, done)
    # The pair of an odd last position has no weight.
    emit.store(constant(LOWEST, F32, FEW), emit.at(scores, builder.mul(count, emit.integer(ROW))))
    two, one = emit.integer(2), emit.integer(1)
    couples = builder.udiv(builder.add(count, one), two)
    _weigh(emit, scores, couples, tops, totals, factors, weights)
    ahead = emit.at(keys, builder.mul(count, key_row))
    factors = builder.select(first, emit.integer(0), factors)
    for rows, least, most in ((8, 5, 8), (4, 2, 4), (1, 1, 1)):
        fits = builder.and_(builder.icmp_signed(">=", heads, emit.integer(least)),
                            builder.icmp_signed("<=", heads, emit.integer(most)))  # fmt: skip
        with builder.if_then(fits):
            builder.call(_mix(builder.module, rows), [
                weights, couples, builder.sub(count, one), values, value_row, mixed, mixed_row,
                factors, ahead,
            ])  # fmt: skip


def _function(module: Any, name: str, arguments: int) -> tuple[Any, bool]:
    """A function of integers of its own, so that LLVM does not spill; and whether it is new."""
    if name in module.globals:
        return module.globals[name], False
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64] * arguments), name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    return function, True


def _scores(module: Any, rows: int) -> Any:
    """Groups of `rows` keys × all query heads → [rows, FEW] each; the values are prefetched."""
    function, new = _function(module, f"few_scores_{rows}", 6)
    if not new:
        return function
    emit = Emitter(ir.IRBuilder(function.append_basic_block()))
    builder = emit.builder
    groups, keys, stride, queries, out, ahead = function.args
    kind = vector(F32, FEW)
    steps = builder.udiv(stride, emit.integer(8))  # two words each
    with emit.loop(groups) as group:
        start = emit.at(keys, builder.mul(builder.mul(group, emit.integer(rows)), stride))
        fetch = emit.at(ahead, builder.mul(builder.mul(group, emit.integer(rows)), stride))
        starts = [emit.at(start, builder.mul(stride, emit.integer(i))) for i in range(rows)]
        sums = [[emit.variable(kind, constant(0.0, F32, FEW)) for _ in (0, 1)] for _ in starts]
        for each in (at for row in sums for at in row):
            builder.store(constant(0.0, F32, FEW), each)
        with emit.loop(steps) as step:
            emit.prefetch(emit.at(fetch, builder.mul(step, emit.integer(8 * rows))), locality=1)
            line = emit.at(queries, builder.mul(step, emit.integer(2 * ROW)))
            for word in (0, 1):
                query = emit.load(emit.at(line, word * ROW), F32, FEW)
                offset = emit.at(builder.shl(step, emit.integer(3)), 4 * word)
                for at, row in zip(starts, sums, strict=True):
                    key = emit.splat(emit.load(emit.at(at, offset), F32, 1), FEW)
                    more = emit.multiply_pairs(key, query, builder.load(row[word]), FEW)
                    builder.store(more, row[word])
        to = emit.at(out, builder.mul(group, emit.integer(rows * ROW)))
        for place, (a, b) in enumerate(sums):
            total = builder.fadd(builder.load(a), builder.load(b))
            emit.store(total, emit.at(to, place * ROW))
    builder.ret_void()
    return function


def _weigh(
    emit: Emitter, scores: Value, couples: Value, tops: Value, totals: Value, factors: Value,
    weights: Value,
) -> None:  # fmt: skip
    """Scores of two positions at a time → weights, a pair of bfloat16 for each head."""
    builder, wide, whole = emit.builder, vector(F32, LANES), vector(I32, LANES)
    low, high = list(range(FEW)), list(range(FEW, LANES))

    def halves(value: Value) -> tuple[Value, Value]:
        return emit.shuffle(value, value, low), emit.shuffle(value, value, high)

    best = emit.variable(wide, constant(LOWEST, F32, LANES))
    builder.store(constant(LOWEST, F32, LANES), best)
    with emit.loop(couples) as couple:
        found = emit.load(emit.at(scores, builder.mul(couple, emit.integer(2 * ROW))), F32, LANES)
        builder.store(emit.call("llvm.maxnum", builder.load(best), found), best)
    before = emit.load(tops, F32, FEW)
    now = emit.call("llvm.maxnum", before, emit.call("llvm.maxnum", *halves(builder.load(best))))
    emit.store(now, tops)
    lost = exponential(emit, builder.fsub(before, now), FEW)
    emit.store(lost, factors)
    shift = emit.shuffle(now, now, low + low)
    added = emit.variable(wide, constant(0.0, F32, LANES))
    builder.store(constant(0.0, F32, LANES), added)
    with emit.loop(couples) as couple:
        at = emit.at(scores, builder.mul(couple, emit.integer(2 * ROW)))
        weight = exponential(emit, builder.fsub(emit.load(at, F32, LANES), shift), LANES)
        bits = builder.bitcast(weight, whole)
        odd = builder.and_(builder.lshr(bits, constant(16, I32, LANES)), constant(1, I32, LANES))
        bits = builder.add(builder.add(bits, odd), constant(0x7FFF, I32, LANES))
        bits = builder.and_(bits, constant(-1 << 16, I32, LANES))
        weight = builder.bitcast(bits, wide)
        builder.store(builder.fadd(builder.load(added), weight), added)
        one, other = halves(bits)
        couple_of = builder.or_(builder.lshr(one, constant(16, I32, FEW)), other)
        emit.store(couple_of, emit.at(weights, builder.mul(couple, emit.integer(ROW))))
    more = builder.fadd(*halves(builder.load(added)))
    emit.store(emit.fma(emit.load(totals, F32, FEW), lost, more), totals)


def _mix(module: Any, rows: int) -> Any:
    """Weights of `rows` heads × values, added to the sums; the next tile's keys are prefetched."""
    function, new = _function(module, f"few_mix_{rows}", 9)
    if not new:
        return function
    emit = Emitter(ir.IRBuilder(function.append_basic_block()))
    builder = emit.builder
    weights, couples, last, values, stride, out, out_stride, factors, ahead = function.args
    kind, nbytes = vector(F32, LANES), 2 * LANES
    order = [place for lane in range(LANES) for place in (lane, LANES + lane)]
    panels = builder.udiv(stride, emit.integer(2 * PANEL))
    with emit.loop(panels) as panel:
        column = emit.at(values, builder.mul(panel, emit.integer(2 * PANEL)))
        to = emit.at(out, builder.mul(panel, emit.integer(4 * PANEL)))
        fetch = emit.at(
            ahead, builder.mul(panel, builder.mul(couples, emit.integer(2 * CACHE_LINE)))
        )
        outs = [[emit.at(to, emit.at(builder.mul(out_stride, emit.integer(i)), 4 * LANES * v))
                 for v in (0, 1)] for i in range(rows)]  # fmt: skip
        sums = [[emit.variable(kind, constant(0.0, F32, LANES)) for _ in (0, 1)]
                for _ in range(rows)]  # fmt: skip
        scaled = builder.icmp_signed("!=", factors, emit.integer(0))
        for i in range(rows):
            for at in sums[i]:
                builder.store(constant(0.0, F32, LANES), at)
        with builder.if_then(scaled):
            for i in range(rows):
                factor = emit.splat(emit.load(emit.at(factors, 4 * i), F32, 1, align=4), LANES)
                for at, place in zip(sums[i], outs[i], strict=True):
                    builder.store(builder.fmul(emit.load(place, F32, LANES), factor), at)
        with emit.loop(couples) as couple:
            number = builder.shl(couple, emit.integer(1))
            after = builder.add(number, emit.integer(1))
            after = builder.select(builder.icmp_signed("<", after, last), after, last)
            a, b = (emit.at(column, builder.mul(n, stride)) for n in (number, after))
            for line in range(2):
                place = builder.mul(couple, emit.integer(2 * CACHE_LINE))
                emit.prefetch(emit.at(emit.at(fetch, place), line * CACHE_LINE), locality=1)
            vectors = []
            for v in (0, 1):
                one, other = (emit.load(emit.at(each, nbytes * v), I16, LANES) for each in (a, b))
                vectors.append(builder.bitcast(emit.shuffle(one, other, order), kind))
            start = emit.at(weights, builder.mul(couple, emit.integer(ROW)))
            for i, row in enumerate(sums):
                weight = emit.splat(emit.load(emit.at(start, 4 * i), F32, 1, align=4), LANES)
                for at, other in zip(row, vectors, strict=True):
                    builder.store(emit.multiply_pairs(weight, other, builder.load(at), LANES), at)
        for row, places in zip(sums, outs, strict=True):
            for at, place in zip(row, places, strict=True):
                emit.store(builder.load(at), place)
    builder.ret_void()
    return function
