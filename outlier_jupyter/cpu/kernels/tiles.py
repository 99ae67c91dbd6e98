"""The inner loops of attention: tiles of keys and values, unpacked once for all queries of a task.

A *word* is 32 bits: one float32 or, where the processor multiplies bfloat16 pairs, two neighbours
along the sum. Operands whose rows are scaled by a broadcast word are row-major; the others are in
*panels* of two vectors: [panels, words along the sum, 2 × lanes]. So one product serves queries ×
keys and weights × values.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .formats import ITEM_BYTES
from .processor import LANES, MULTIPLIES_BF16, WIDENS_F16
from .reductions import exponential, parts
from .simd import F16, F32, I16, I32, I64, Emitter, Value, constant, vector
from .unpack import CACHE_LINE

PANEL = 2 * LANES
"""Columns of a panel."""
ROWS = (8, 4, 1) if LANES == 16 else (4, 1)
"""Rows that are multiplied at a time: with a panel's two vectors, their sums fit the registers."""
LOWEST = -3e38
FETCHED = 2 * CACHE_LINE
"""Bytes that a product prefetches with each word of a panel: with eight query heads to a key head
and 128 columns, as many as the other operand of the tile takes."""


def pairs(kind: str) -> bool:
    """Whether keys and values of type `kind` are multiplied as pairs of bfloat16."""
    return kind == "bf16" and MULTIPLIES_BF16


def _literal(kind: Any) -> str | None:
    return kind.literal_value if isinstance(kind, types.StringLiteral) else None


def as_bf16(emit: Emitter, x: Value, lanes: int) -> Value:
    """Finite float32 as bfloat16, rounded to the nearest: its bits, I16."""
    builder, whole = emit.builder, vector(I32, lanes)
    bits = builder.bitcast(x, whole)
    odd = builder.and_(builder.lshr(bits, constant(16, I32, lanes)), constant(1, I32, lanes))
    up = builder.add(builder.add(bits, odd), constant(0x7FFF, I32, lanes))
    return builder.trunc(builder.lshr(up, constant(16, I32, lanes)), vector(I16, lanes))


@intrinsic(prefer_literal=True)
def store_as(context, kind, source, count, factor, target):
    """`count` float32 at `source`, times `factor`, written as type `kind` at `target`."""
    name = _literal(kind)
    if name is None:
        return None

    def generate(context, builder, signature, arguments):
        emit = Emitter(builder)
        source, count, factor, target = arguments[1:]
        for first, iterations, lanes in parts(emit, count, LANES):
            with emit.loop(iterations) as iteration:
                place = builder.add(first, builder.mul(iteration, emit.integer(lanes)))
                x = emit.load(emit.at(source, builder.shl(place, emit.integer(2))), F32, lanes)
                x = builder.fmul(x, emit.splat(factor, lanes))
                at = emit.at(target, builder.mul(place, emit.integer(ITEM_BYTES[name])))
                emit.store(_as_kind(emit, name, x, lanes), at, align=1)
        return context.get_dummy_value()

    integer = types.int64
    return types.void(kind, integer, integer, types.float32, integer), generate


def _as_kind(emit: Emitter, kind: str, x: Value, lanes: int) -> Value:
    if kind == "f32":
        return x
    if kind == "bf16":
        return as_bf16(emit, x, lanes)
    if not WIDENS_F16:
        raise ValueError("float16 is not written on this processor")
    # The largest float16 in place of infinity.
    x = emit.call("llvm.minnum", x, constant(65504.0, F32, lanes))
    x = emit.call("llvm.maxnum", x, constant(-65504.0, F32, lanes))
    return emit.builder.fptrunc(x, vector(F16, lanes))


def transposed(emit: Emitter, rows: list[Value]) -> list[Value]:
    """A square of float32: `len(rows)` vectors of as many lanes."""
    lanes = len(rows)
    low = [4 * block + i for block in range(lanes // 4) for i in (0, 1)]
    high = [place + 2 for place in low]

    def interleaved(a: Value, b: Value, places: list[int], width: int) -> Value:
        """Units of `width` lanes of a and b in turn."""
        units = [places[i : i + width] for i in range(0, lanes // 2, width)]
        order = [p for unit in units for p in (*unit, *(lanes + each for each in unit))]
        return emit.shuffle(a, b, order)

    def crossed(blocks: list[Value]) -> list[Value]:
        """Square of blocks of four lanes."""
        if len(blocks) == 1:
            return blocks
        halves = []
        for odd in (0, 1):
            order = [4 * b + i for b in range(odd, lanes // 2, 2) for i in range(4)]
            halves.append(crossed([emit.shuffle(blocks[i], blocks[i + 1], order)
                                   for i in range(0, len(blocks), 2)]))  # fmt: skip
        return [each for both in zip(*halves, strict=True) for each in both]

    columns: list[list[Value]] = [[], [], [], []]
    for a, b, c, d in (rows[i : i + 4] for i in range(0, lanes, 4)):
        ab, cd = ([interleaved(x, y, part, 1) for part in (low, high)] for x, y in ((a, b), (c, d)))
        for place in range(4):
            from_ab, from_cd = ab[place // 2], cd[place // 2]
            columns[place].append(interleaved(from_ab, from_cd, low if place % 2 == 0 else high, 2))
    found = [crossed(each) for each in columns]
    return [found[lane % 4][lane // 4] for lane in range(lanes)]


@intrinsic(prefer_literal=True)
def pack_keys(context, kind, keys, stride, count, width, out):
    """`count` rows of keys → panels [⌈count / PANEL⌉, words of `width`, PANEL] at `out`.

    Columns beyond `count` repeat the last row.
    """
    name = _literal(kind)
    if name is None:
        return None
    paired = pairs(name)
    each = 2 if paired else 1  # keys' numbers in a word
    nbytes = ITEM_BYTES[name] * each

    def number(emit: Emitter, address: Value, lanes: int) -> Value:
        return emit.load(address, F32, lanes) if paired else emit.floats(address, name, lanes)

    def generate(context, builder, signature, arguments):
        emit = Emitter(builder)
        keys, stride, count, width, out = arguments[1:]
        words = builder.udiv(width, emit.integer(each))
        blocks = builder.udiv(builder.add(count, emit.integer(PANEL - 1)), emit.integer(PANEL))
        last = builder.sub(count, emit.integer(1))
        with emit.loop(builder.mul(blocks, emit.integer(2))) as block:
            first = builder.mul(block, emit.integer(LANES))
            numbers = [builder.add(first, emit.integer(i)) for i in range(LANES)]
            numbers = [builder.select(builder.icmp_signed("<", n, last), n, last) for n in numbers]
            rows = [emit.at(keys, builder.mul(n, stride)) for n in numbers]
            panel = builder.mul(builder.lshr(block, emit.integer(1)), words)
            half = builder.mul(builder.and_(block, emit.integer(1)), emit.integer(4 * LANES))
            to = emit.at(out, emit.at(half, builder.mul(panel, emit.integer(4 * PANEL))))
            whole = builder.udiv(words, emit.integer(LANES))
            with emit.loop(whole) as step:
                at = builder.mul(step, emit.integer(nbytes * LANES))
                found = transposed(emit, [number(emit, emit.at(row, at), LANES) for row in rows])
                into = emit.at(to, builder.mul(step, emit.integer(4 * PANEL * LANES)))
                for place, each_word in enumerate(found):
                    emit.store(each_word, emit.at(into, 4 * PANEL * place))
            done = builder.mul(whole, emit.integer(LANES))
            with emit.loop(builder.sub(words, done)) as rest:
                place = builder.add(done, rest)
                at = builder.mul(place, emit.integer(nbytes))
                into = emit.at(to, builder.mul(place, emit.integer(4 * PANEL)))
                for lane, row in enumerate(rows):
                    emit.store(number(emit, emit.at(row, at), 1), emit.at(into, 4 * lane))
        return context.get_dummy_value()

    return types.void(kind, *[types.int64] * 5), generate


@intrinsic(prefer_literal=True)
def pack_values(context, kind, values, stride, count, width, out):
    """`count` rows of values → panels [⌈width / PANEL⌉, words of `count`, PANEL] at `out`.

    The columns beyond `width` are not written; a missing row of a pair repeats the last one.
    """
    name = _literal(kind)
    if name is None:
        return None
    paired, nbytes = pairs(name), ITEM_BYTES[name]

    def word(emit: Emitter, first: Value, second: Value, lanes: int) -> Value:
        if not paired:
            return emit.floats(first, name, lanes)
        a, b = (emit.load(each, I16, lanes) for each in (first, second))
        if lanes == 1:
            builder = emit.builder
            low, high = (builder.zext(each, I32) for each in (a, b))
            both = builder.or_(low, builder.shl(high, ir.Constant(I32, 16)))
            return builder.bitcast(both, F32)
        order = [place for lane in range(lanes) for place in (lane, lanes + lane)]
        return emit.builder.bitcast(emit.shuffle(a, b, order), vector(F32, lanes))

    def generate(context, builder, signature, arguments):
        emit = Emitter(builder)
        values, stride, count, width, out = arguments[1:]
        step = emit.integer(2 if paired else 1)
        words = builder.udiv(builder.add(count, builder.sub(step, emit.integer(1))), step)
        last = builder.sub(count, emit.integer(1))
        panel = builder.mul(words, emit.integer(4 * PANEL))
        with emit.loop(words) as number:
            row = builder.mul(number, step)
            after = builder.add(row, emit.integer(1))
            after = builder.select(builder.icmp_signed("<", after, last), after, last)
            first, second = (emit.at(values, builder.mul(n, stride)) for n in (row, after))
            to = emit.at(out, builder.mul(number, emit.integer(4 * PANEL)))
            for start, iterations, lanes in parts(emit, width, LANES):
                with emit.loop(iterations) as iteration:
                    column = builder.add(start, builder.mul(iteration, emit.integer(lanes)))
                    at = builder.mul(column, emit.integer(nbytes))
                    ends = [emit.at(each, at) for each in (first, second)]
                    in_panel = builder.and_(column, emit.integer(PANEL - 1))
                    which = builder.udiv(column, emit.integer(PANEL))
                    into = emit.at(emit.at(to, builder.mul(which, panel)),
                                   builder.shl(in_panel, emit.integer(2)))  # fmt: skip
                    emit.store(word(emit, ends[0], ends[1], lanes), into)
        return context.get_dummy_value()

    return types.void(kind, *[types.int64] * 5), generate


@intrinsic(prefer_literal=True)
def product(context, kind, rows, a, a_stride, words, b, panels, out, out_stride, factors, ahead):
    """out [rows, panels × PANEL] = factors [rows] · out + a [rows, words] · b.

    `a` is row-major, `b` in panels; strides are bytes; without `factors`, 0, it is a · b.
    Meanwhile memory from `ahead` on is prefetched, `FETCHED` bytes for each word of a panel.
    """
    name = _literal(kind)
    if name is None:
        return None
    paired = pairs(name)

    def generate(context, builder, signature, arguments):
        emit = Emitter(builder)
        rows, a, a_stride, words, b, panels, out, out_stride, factors, ahead = arguments[1:]
        panel_bytes = builder.mul(words, emit.integer(4 * PANEL))
        none = builder.icmp_signed("==", factors, emit.integer(0))
        fetched = builder.mul(words, emit.integer(FETCHED))
        with emit.loop(panels) as panel:
            start = emit.at(b, builder.mul(panel, panel_bytes))
            to = emit.at(out, builder.mul(panel, emit.integer(4 * PANEL)))
            fetch = emit.at(ahead, builder.mul(panel, fetched))
            left, first = rows, emit.integer(0)
            for size in ROWS:
                groups = builder.udiv(left, emit.integer(size))
                with emit.loop(groups) as group:
                    row = builder.add(first, builder.mul(group, emit.integer(size)))
                    each = builder.shl(row, emit.integer(2))
                    builder.call(
                        _product(builder.module, paired, size),
                        [emit.at(a, builder.mul(row, a_stride)), a_stride, words, start,
                         emit.at(to, builder.mul(row, out_stride)), out_stride,
                         builder.select(none, factors, emit.at(factors, each)), fetch],
                    )  # fmt: skip
                done = builder.mul(groups, emit.integer(size))
                left, first = builder.sub(left, done), builder.add(first, done)
        return context.get_dummy_value()

    return types.void(kind, *[types.int64] * 10), generate


def _product(module: Any, paired: bool, rows: int) -> Any:
    """A function for `rows` rows and one panel; in one function LLVM would spill the sums."""
    name = f"product_{rows}_{'pairs' if paired else 'floats'}"
    if name in module.globals:
        return module.globals[name]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64] * 8), name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    emit = Emitter(ir.IRBuilder(function.append_basic_block()))
    builder = emit.builder
    a, a_stride, words, b, out, out_stride, factors, ahead = function.args
    kind = vector(F32, LANES)
    starts = [emit.at(a, builder.mul(a_stride, emit.integer(i))) for i in range(rows)]
    outs = [[emit.at(out, emit.at(builder.mul(out_stride, emit.integer(i)), 4 * LANES * v))
             for v in (0, 1)] for i in range(rows)]  # fmt: skip
    sums = [[emit.variable(kind, constant(0.0, F32, LANES)) for _ in (0, 1)] for _ in range(rows)]
    scaled = builder.icmp_signed("!=", factors, emit.integer(0))
    with builder.if_then(scaled):
        for i in range(rows):
            factor = emit.splat(emit.load(emit.at(factors, 4 * i), F32, 1, align=4), LANES)
            for at, place in zip(sums[i], outs[i], strict=True):
                builder.store(builder.fmul(emit.load(place, F32, LANES), factor), at)
    with emit.loop(words) as word:
        line = emit.at(b, builder.mul(word, emit.integer(4 * PANEL)))
        vectors = [emit.load(emit.at(line, 4 * LANES * v), F32, LANES) for v in (0, 1)]
        offset = builder.shl(word, emit.integer(2))
        for line in range(0, FETCHED, CACHE_LINE):
            fetch = builder.mul(word, emit.integer(FETCHED))
            emit.prefetch(emit.at(emit.at(ahead, fetch), line), locality=1)
        for start, row in zip(starts, sums, strict=True):
            one = emit.splat(emit.load(emit.at(start, offset), F32, 1, align=4), LANES)
            for at, other in zip(row, vectors, strict=True):
                before = builder.load(at)
                more = (emit.multiply_pairs(one, other, before, LANES) if paired
                        else emit.fma(one, other, before))  # fmt: skip
                builder.store(more, at)
    for row, places in zip(sums, outs, strict=True):
        for at, place in zip(row, places, strict=True):
            emit.store(builder.load(at), place)
    builder.ret_void()
    return function


@intrinsic(prefer_literal=True)
def weigh(context, kind, rows, shared, scores, stride, count, seen, window, tops, totals, factors):
    """Replace scores by weights e^(score − top), as the product reads them, in whole panels.

    The first `shared` rows, of one token, see the positions before number `seen` that are in their
    `window`, the next ones a position more each; none sees position `count`. What is not seen has
    weight 0.

    Args:
        stride: bytes from row to row.
        tops, totals, factors: [rows], the running maxima and sums of weights, and the factors of
            all that was summed before.
    """
    name = _literal(kind)
    if name is None:
        return None
    paired = pairs(name)

    def generate(context, builder, signature, arguments):
        emit = Emitter(builder)
        rows, shared, scores, stride, count, seen, window, *states = arguments[1:]
        columns = builder.add(count, emit.integer(PANEL - 1))
        columns = builder.and_(columns, emit.integer(-PANEL))
        with emit.loop(rows) as row:
            end = builder.add(seen, builder.udiv(row, shared))
            first = builder.sub(end, window)
            first = builder.select(builder.icmp_signed("<", first, emit.integer(0)),
                                   emit.integer(0), first)  # fmt: skip
            end = builder.select(builder.icmp_signed("<", end, count), end, count)
            places = [emit.at(each, builder.shl(row, emit.integer(2))) for each in states]
            at = emit.at(scores, builder.mul(row, stride))
            _weigh_row(emit, paired, at, columns, first, end, places)
        return context.get_dummy_value()

    return types.void(kind, *[types.int64] * 10), generate


def _weigh_row(
    emit: Emitter, paired: bool, scores: Value, columns: Value, low: Value, high: Value,
    states: list[Value],
) -> None:  # fmt: skip
    """One row, whose scores outside of [low, high) are not seen."""
    builder, wide = emit.builder, vector(F32, LANES)
    top, total, factor = states
    iterations = builder.udiv(columns, emit.integer(LANES))
    lowest = constant(LOWEST, F32, LANES)
    bounds = [emit.splat(builder.trunc(each, I32), LANES) for each in (low, high)]
    lane = ir.Constant(vector(I32, LANES), list(range(LANES)))

    def seen(place: Value) -> Value:
        number = builder.add(emit.splat(builder.trunc(place, I32), LANES), lane)
        return builder.and_(builder.icmp_signed(">=", number, bounds[0]),
                            builder.icmp_signed("<", number, bounds[1]))  # fmt: skip

    best, added = (emit.variable(wide, constant(0.0, F32, LANES)) for _ in range(2))
    builder.store(lowest, best)
    with emit.loop(iterations) as iteration:
        place = builder.mul(iteration, emit.integer(LANES))
        at = emit.at(scores, builder.shl(place, emit.integer(2)))
        found = builder.select(seen(place), emit.load(at, F32, LANES), lowest)
        emit.store(found, at)
        builder.store(emit.call("llvm.maxnum", builder.load(best), found), best)
    before = emit.load(top, F32, 1)
    now = emit.call("llvm.maxnum", before, emit.most(builder.load(best), LANES))
    emit.store(now, top)
    lost = exponential(emit, builder.fsub(before, now), 1)
    emit.store(lost, factor)
    shift = emit.splat(now, LANES)
    builder.store(constant(0.0, F32, LANES), added)
    with emit.loop(iterations) as iteration:
        place = builder.mul(iteration, emit.integer(LANES))
        at = emit.at(scores, builder.shl(place, emit.integer(2)))
        x = builder.fsub(emit.load(at, F32, LANES), shift)
        weight = exponential(emit, x, LANES)
        weight = builder.select(seen(place), weight, constant(0.0, F32, LANES))
        if paired:
            small = as_bf16(emit, weight, LANES)
            emit.store(small, emit.at(scores, builder.shl(place, emit.integer(1))))
            bits = builder.zext(small, vector(I32, LANES))
            weight = builder.bitcast(builder.shl(bits, constant(16, I32, LANES)), wide)
        else:
            emit.store(weight, at)
        builder.store(builder.fadd(builder.load(added), weight), added)
    more = emit.total(builder.load(added), LANES)
    emit.store(emit.fma(emit.load(total, F32, 1), lost, more), total)
