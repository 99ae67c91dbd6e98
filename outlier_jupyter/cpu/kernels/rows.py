"""The inner loops: rows of packed weights times activations, or unpacked to floats.

Three intrinsics for Numba, each generated as vector code for one format:

- `arrange` brings activations into the format's order, and sums them over each group;
- `dots` multiplies rows of weights with rows of arranged activations;
- `unpack` writes a row as float32 in the arranged order, for a product with arranged activations.

Addresses are not checked.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from . import integer_activations as integers
from .formats import ITEM_BYTES, Format, parse
from .processor import LANES
from .simd import F32, I64, Emitter, Value, constant, start_function, vector
from .unpack import AHEAD, CACHE_LINE, OFFSET, Steps, steps

__all__ = ["FOUR", "LANES", "arrange", "dots", "unpack"]


FOUR, TWO = 4, 2
"""Rows of activations and of weights that are multiplied at a time: eight sums, which fit sixteen
registers with their operands. The two rows of weights are half a task apart, because memory
delivers more from two distant places than from one."""


def _literals(*found: Any) -> list[Any] | None:
    literal = all(isinstance(kind, types.Literal) for kind in found)
    return [kind.literal_value for kind in found] if literal else None


@intrinsic(prefer_literal=True)
def arrange(context, name, lanes, x, width, out, sums, few):
    """Arrange float32 x [width] for format `name` at `out` [width], its group sums at `sums`.

    If `few` (less than `FOUR`) rows share the reading of weights, and the format allows it, it
    writes integer activations.
    """
    known = _literals(name, lanes)
    if known is None:
        return None
    form, count = parse(known[0]), known[1]

    def generate(context, builder, signature, arguments):
        emit = Emitter(builder)
        x, width, out, sums, few = arguments[2:]
        if integers.fits(form):
            is_few = builder.icmp_unsigned("!=", few, ir.Constant(I64, 0))
            with builder.if_else(is_few) as (then, otherwise):
                with then:
                    integers.arrange(emit, form, count, x, width, out, sums)
                with otherwise:
                    _arrange_floats(emit, form, count, x, width, out, sums)
        else:
            _arrange_floats(emit, form, count, x, width, out, sums)
        return context.get_dummy_value()

    return types.void(name, lanes, *[types.int64] * 5), generate


def _arrange_floats(
    emit: Emitter, form: Format, lanes: int, x: Value, width: Value, out: Value, sums: Value
) -> None:
    for part in steps(emit, form, lanes, width):
        with part.walk() as value:
            _arrange_step(part, value, x, out)
    if form.kind != "plain":
        _sum_groups(emit, form, x, width, sums)


def _arrange_step(part: Steps, value: Value, x: Value, out: Value) -> None:
    emit, per_lane = part.emit, part.form.per_lane
    start = emit.builder.shl(value, emit.integer(2))
    if per_lane == 1:
        with emit.loop(emit.integer(part.blocks)) as block:
            offset = emit.at(start, emit.builder.mul(block, emit.integer(4 * part.lanes)))
            emit.store(emit.load(emit.at(x, offset), F32, part.lanes), emit.at(out, offset))
        return
    with emit.loop(emit.integer(part.blocks)) as block, emit.loop(emit.integer(part.lanes)) as lane:
        builder = emit.builder
        base = emit.at(start, builder.mul(block, emit.integer(4 * per_lane * part.lanes)))
        source = emit.at(x, emit.at(base, builder.mul(lane, emit.integer(4 * per_lane))))
        target = emit.at(out, emit.at(base, builder.shl(lane, emit.integer(2))))
        for place in range(per_lane):
            number = emit.load(emit.at(source, 4 * place), F32, 1)
            scaled = builder.fmul(number, constant(part.form.factor(place), F32, 1))
            emit.store(scaled, emit.at(target, 4 * place * part.lanes))


def _sum_groups(emit: Emitter, form: Format, x: Value, width: Value, sums: Value) -> None:
    """The sum of each group, the factor of its bias."""
    builder, lanes = emit.builder, 8
    with emit.loop(builder.udiv(width, emit.integer(form.group))) as group:
        start = emit.at(x, builder.mul(group, emit.integer(4 * form.group)))
        found = emit.load(start, F32, lanes)
        for place in range(lanes, form.group, lanes):
            found = builder.fadd(found, emit.load(emit.at(start, 4 * place), F32, lanes))
        total = emit.total(found, lanes)
        if form.kind == "mxfp":  # half, because the table's values are doubled
            total = builder.fmul(total, constant(-OFFSET / 2, F32, 1))
        emit.store(total, emit.at(sums, builder.shl(group, emit.integer(2))))


@intrinsic(prefer_literal=True)
def dots(
    context, name, lanes, high, w, w_stride, s, b, s_stride,
    rows, x, x_stride, sums, sums_stride, width, out, out_stride,
):  # fmt: skip
    """`high` rows of weights × `rows` rows of arranged activations → float32 at `out`.

    Strides are the bytes between rows of codes, scales (and biases), activations, sums and results;
    a row of results has one number per row of weights. From four rows of activations on, four are
    multiplied at a time with two rows of weights, whose sums fit the registers; the last four may
    overlap the previous ones.
    """
    known = _literals(name, lanes)
    if known is None:
        return None
    form, lane_count = parse(known[0]), known[1]

    def generate(context, builder, signature, arguments):
        emit = Emitter(builder)
        high, rows = arguments[2], arguments[8]
        four, zero = emit.integer(FOUR), emit.integer(0)
        many = builder.icmp_unsigned(">=", rows, four)
        fours = builder.udiv(builder.add(rows, emit.integer(FOUR - 1)), four)
        twos = builder.udiv(high, emit.integer(TWO))
        done = builder.mul(twos, emit.integer(TWO))
        fours, ones = builder.select(many, fours, zero), builder.select(many, zero, rows)
        last, module = builder.sub(high, done), builder.module
        calls = [
            (_block(module, form, lane_count, TWO, FOUR), fours, zero, twos),
            (_block(module, form, lane_count, 1, FOUR), fours, done, last),
        ]
        added = rows
        if integers.fits(form):
            added = builder.select(many, rows, zero)
            for tall, first, heights in ((TWO, zero, twos), (1, done, last)):
                function = integers.block(module, form, lane_count, tall)
                calls.append((function, ones, first, heights))
        else:
            calls.append((_block(module, form, lane_count, 1, 1), ones, zero, high))
        # It adds, so no row may be taken twice.
        calls.append((_block(module, form, lane_count, 1, 1, rest=True), added, zero, high))
        for function, iterations, first, heights in calls:
            builder.call(function, [iterations, first, heights, *arguments[3:]])
        return context.get_dummy_value()

    return types.void(name, lanes, *[types.int64] * 15), generate


def _block(module: Any, form: Format, lanes: int, tall: int, wide: int, rest: bool = False) -> Any:
    """A function that multiplies `tall` × `wide` rows at a time: their whole steps, or the rest.

    Each is a separate function: in a single one LLVM would run out of registers and read the masks
    of the innermost loop from memory at each iteration.
    """
    name = f"dots_{form.name}_{lanes}_{tall}_{wide}_{'rest' if rest else 'whole'}"
    if name in module.globals:
        return module.globals[name]
    emit, arguments = start_function(module, name, 16)
    builder = emit.builder
    iterations, first, heights, w, w_stride, s, b, s_stride, rows, *places = arguments
    x, x_stride, sums, sums_stride, width, out, out_stride = places
    part = steps(emit, form, lanes, width)[rest]
    if rest:
        none = builder.icmp_unsigned("==", part.count, emit.integer(0))
        iterations = builder.select(none, emit.integer(0), iterations)
    with emit.loop(iterations) as iteration:
        row = builder.mul(iteration, emit.integer(wide))
        if wide > 1:
            last = builder.sub(rows, emit.integer(wide))
            row = builder.select(builder.icmp_unsigned("<", row, last), row, last)
        xs, ys, outs = (
            emit.rows_at(base, stride, row, wide, emit.integer(1))
            for base, stride in ((x, x_stride), (sums, sums_stride), (out, out_stride))
        )
        with emit.loop(heights) as up:
            at = builder.add(first, up)
            ws, ss, bs = (
                emit.rows_at(base, stride, at, tall, heights)
                for base, stride in ((w, w_stride), (s, s_stride), (b, s_stride))
            )
            whole = not rest and form.kind != "plain"
            # Keys, which are plain, are few: the hardware prefetcher is enough.
            if whole:
                _fetch(emit, ws, w_stride)
            found = _dots(part, ws, ss, xs)
            if whole:
                _add_biases(emit, form, ss if form.kind == "mxfp" else bs, ys, width, found)
            for place in range(tall):
                column = builder.add(at, builder.mul(heights, emit.integer(place)))
                into = [emit.at(start, builder.shl(column, emit.integer(2))) for start in outs]
                _finish(emit, found[place], into, rest)
    builder.ret_void()
    return module.globals[name]


def _fetch(emit: Emitter, rows: list[Value], nbytes: Value) -> None:
    """Prefetch a row's bytes, `AHEAD` after each row.

    This is not in the loop over a row: LLVM would then read its masks from memory each time.
    """
    with emit.loop(emit.builder.udiv(nbytes, emit.integer(CACHE_LINE))) as line:
        place = emit.at(emit.builder.mul(line, emit.integer(CACHE_LINE)), AHEAD)
        for row in rows:
            emit.prefetch(emit.at(row, place))


def _dots(part: Steps, ws: list[Value], ss: list[Value], xs: list[Value]) -> list[list[Value]]:
    """Rows of weights × rows of activations: vectors in memory, lanes still to be summed."""
    sums = [[_zeros(part) for _ in xs] for _ in ws]
    # A row's result must not depend on whether it is computed alone or with another.
    if len(xs) == 1 and part.form.kind != "plain":
        _multiply(part, ws[0], ss[0], xs[0], sums[0][0])
    else:
        _multiply_rows(part, ws, ss, xs, sums)
    return sums


def _zeros(part: Steps) -> Value:
    """A sum vector, set to 0."""
    return part.emit.variable(vector(F32, part.lanes), constant(0.0, F32, part.lanes))


def _finish(emit: Emitter, sums: list[Value], into: list[Value], add: bool) -> None:
    """Sum the lanes of each vector, and write the sum or add it to the present value."""
    for at, place in zip(sums, into, strict=True):
        found = emit.builder.load(at)
        total = emit.total(found, getattr(found.type, "count", 1))
        if add:
            total = emit.builder.fadd(total, emit.load(place, F32, 1, align=4))
        emit.store(total, place)


def _multiply(part: Steps, w: Value, s: Value, x: Value, at: Value) -> None:
    """Add one row's codes × one row of activations, scaled per step, to `at`.

    It uses the fewest instructions per byte of weights, which limit the speed of one row.
    """
    emit = part.emit
    builder = emit.builder
    with part.walk() as value:
        start = emit.at(x, builder.shl(value, emit.integer(2)))
        inner: list[Value | None] = [None, None]
        for index, place, codes in part.codes(w, value):
            factor = emit.load(emit.at(start, 4 * index * part.lanes), F32, part.lanes)
            before = inner[place % 2]
            inner[place % 2] = (
                builder.fmul(codes, factor) if before is None else emit.fma(codes, factor, before)
            )
        even, odd = inner
        both = even if odd is None else builder.fadd(even, odd)
        builder.store(emit.fma(both, part.scales(s, value), builder.load(at)), at)


def _multiply_rows(
    part: Steps, ws: list[Value], ss: list[Value], xs: list[Value], sums: list[list[Value]]
) -> None:
    """The same for several rows of weights, scaled before they are multiplied; or plain ones."""
    emit, plain = part.emit, part.form.kind == "plain"
    builder = emit.builder
    # With several rows the sums are independent already, and more would not fit the registers.
    chains = part.blocks if len(xs) == 1 else 1
    ends = [[[at, *(_zeros(part) for _ in range(1, chains))] for at in row] for row in sums]
    with part.walk() as value:
        offset = builder.shl(value, emit.integer(2))
        scales = [None if plain else part.scales(s, value) for s in ss]
        for blocks in zip(*(part.codes(w, value) for w in ws), strict=True):
            index = blocks[0][0]
            factors = [
                codes if scale is None else builder.fmul(codes, scale)
                for (_, _, codes), scale in zip(blocks, scales, strict=True)
            ]
            for column, x in enumerate(xs):
                address = emit.at(emit.at(x, offset), 4 * index * part.lanes)
                activation = emit.load(address, F32, part.lanes)
                for row, factor in zip(ends, factors, strict=True):
                    at = row[column][index % chains]
                    builder.store(emit.fma(factor, activation, builder.load(at)), at)
    for at, *others in (places for row in ends for places in row):
        for other in others:
            builder.store(builder.fadd(builder.load(at), builder.load(other)), at)


def _add_biases(
    emit: Emitter,
    form: Format,
    biases: list[Value],
    starts: list[Value],
    width: Value,
    sums: list[list[Value]],
) -> None:
    """Add each group's bias × the sum of its activations to the vectors `sums`."""
    builder = emit.builder
    for wide, group in emit.strides(builder.udiv(width, emit.integer(form.group)), (8, 4, 1)):
        place = builder.mul(group, emit.integer(ITEM_BYTES[form.scale]))
        values = [emit.floats(emit.at(bias, place), form.scale, wide) for bias in biases]
        for column, start in enumerate(starts):
            factor = emit.load(emit.at(start, builder.shl(group, emit.integer(2))), F32, wide)
            for row, value in zip(sums, values, strict=True):
                emit.add_product(value, factor, row[column], wide)


@intrinsic(prefer_literal=True)
def unpack(context, name, lanes, w, s, b, width, out):
    """One row of weights → float32 [width] at `out`, in the order and scale of `arrange`."""
    known = _literals(name, lanes)
    if known is None:
        return None
    form, count = parse(known[0]), known[1]

    def generate(context, builder, signature, arguments):
        emit = Emitter(builder)
        w, s, b, width, out = arguments[2:]
        for part in steps(emit, form, count, width):
            with part.walk() as value:
                _unpack_step(part, value, w, s, b, out)
        return context.get_dummy_value()

    return types.void(name, lanes, *[types.int64] * 5), generate


def _unpack_step(part: Steps, value: Value, w: Value, s: Value, b: Value, out: Value) -> None:
    emit, form = part.emit, part.form
    start = emit.at(out, emit.builder.shl(value, emit.integer(2)))
    scales = biases = None
    if form.kind != "plain":
        scales = part.scales(s, value)
    if form.kind == "affine":
        biases = part.scales(b, value)
    for index, place, codes in part.codes(w, value):
        if scales is not None:
            # The activations are multiplied by the place's factor, so a bias is divided by it.
            if biases is None:
                offset = constant(-OFFSET / (2 * form.factor(place)), F32, part.lanes)
                codes = emit.builder.fmul(emit.builder.fadd(codes, offset), scales)
            else:
                over = constant(1 / form.factor(place), F32, part.lanes)
                codes = emit.fma(codes, scales, emit.builder.fmul(biases, over))
        emit.store(codes, emit.at(start, 4 * index * part.lanes))
