"""The inner loops: one row of packed weights against activations, or unpacked to floats.

Three intrinsics for Numba, each written out as vector code for one format:

- `arrange` lays activations out as the format wants them, and sums them over each group;
- `dots` multiplies one row of weights with rows of arranged activations;
- `unpack` writes a row as float32 in the arranged order, so that a matrix product with arranged
  activations is the product that was meant.

All addresses are bytes in memory, unchecked.
"""

from __future__ import annotations

from typing import Any

from numba import types
from numba.extending import intrinsic

from .codes import LANES, OFFSET, Steps, steps
from .formats import ITEM_BYTES, Format, parse
from .simd import F32, Emitter, Value, constant, vector

__all__ = ["LANES", "arrange", "dots", "unpack"]


def _literals(*found: Any) -> list[Any] | None:
    literal = all(isinstance(kind, types.Literal) for kind in found)
    return [kind.literal_value for kind in found] if literal else None


@intrinsic(prefer_literal=True)
def arrange(context, name, lanes, x, width, out, sums):
    """Lay out float32 x [width] for format `name` at `out` [width], its group sums at `sums`."""
    known = _literals(name, lanes)
    if known is None:
        return None
    form, count = parse(known[0]), known[1]

    def generate(context, builder, signature, arguments):
        emit = Emitter(builder)
        x, width, out, sums = arguments[2:]
        for part in steps(emit, form, count, width):
            with part.walk() as value:
                _arrange_step(part, value, x, out)
        if form.kind != "plain":
            _sum_groups(emit, form, x, width, sums)
        return context.get_dummy_value()

    return types.void(name, lanes, *[types.int64] * 4), generate


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
    """The sum of each group, which is what its bias is multiplied by."""
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
    context, name, lanes, rows, w, s, b, x, x_stride, sums, sums_stride, width, out, out_stride
):
    """One row of weights × `rows` rows of arranged activations → float32 at `out`.

    `x_stride`, `sums_stride` and `out_stride` are the bytes from one row of activations, sums and
    results to the next. Four rows at a time share the decoding of the weights.
    """
    known = _literals(name, lanes)
    if known is None:
        return None
    form, lane_count = parse(known[0]), known[1]

    def generate(context, builder, signature, arguments):
        emit = Emitter(builder)
        rows, w, s, b, x, x_stride, sums, sums_stride, width, out, out_stride = arguments[2:]
        fours = builder.lshr(rows, emit.integer(2))
        done = builder.shl(fours, emit.integer(2))
        for size, first, count in (
            (4, emit.integer(0), fours),
            (1, done, builder.sub(rows, done)),
        ):
            with emit.loop(count) as turn:
                row = builder.add(first, builder.mul(turn, emit.integer(size)))
                xs, ys, outs = (
                    _row_starts(emit, emit.at(base, builder.mul(row, stride)), stride, size)
                    for base, stride in ((x, x_stride), (sums, sums_stride), (out, out_stride))
                )
                _dots(emit, form, lane_count, (w, s, b), xs, ys, width, outs)
        return context.get_dummy_value()

    return types.void(name, lanes, *[types.int64] * 11), generate


def _dots(
    emit: Emitter,
    form: Format,
    lanes: int,
    weights: tuple[Value, Value, Value],
    xs: list[Value],
    sums: list[Value],
    width: Value,
    outs: list[Value],
) -> None:
    w, s, b = weights
    totals = [emit.variable(F32, constant(0.0, F32, 1)) for _ in xs]
    for part in steps(emit, form, lanes, width):
        _multiply(part, w, s, xs, totals)
    if form.kind != "plain":
        _add_biases(emit, form, s if form.kind == "mxfp" else b, sums, width, totals)
    for total, place in zip(totals, outs, strict=True):
        emit.store(emit.builder.load(total), place)


def _row_starts(emit: Emitter, base: Value, stride: Value, count: int) -> list[Value]:
    return [emit.at(base, emit.builder.mul(stride, emit.integer(row))) for row in range(count)]


def _multiply(part: Steps, w: Value, s: Value, xs: list[Value], totals: list[Value]) -> None:
    """Add the scaled products of the codes to `totals`."""
    emit, plain = part.emit, part.form.kind == "plain"
    builder, kind = emit.builder, vector(F32, part.lanes)
    zero = constant(0.0, F32, part.lanes)
    # With several rows their sums are independent already, and more would not fit the registers.
    chains = part.blocks if plain and len(xs) == 1 else 1
    sums = [[emit.variable(kind, zero) for _ in range(chains)] for _ in xs]
    with part.walk() as value:
        offset = builder.shl(value, emit.integer(2))
        inner: list[list[Value | None]] = [[None, None] for _ in xs]
        for index, place, codes in part.codes(w, value):
            for row, x in enumerate(xs):
                address = emit.at(emit.at(x, offset), 4 * index * part.lanes)
                factor = emit.load(address, F32, part.lanes)
                if plain:
                    at = sums[row][index % chains]
                    builder.store(emit.fma(codes, factor, builder.load(at)), at)
                    continue
                before = inner[row][place % 2]
                product = (
                    builder.fmul(codes, factor)
                    if before is None
                    else emit.fma(codes, factor, before)
                )
                inner[row][place % 2] = product
        if not plain:
            scales = part.scales(s, value)
            for row in range(len(xs)):
                even, odd = inner[row]
                both = even if odd is None else builder.fadd(even, odd)
                at = sums[row][0]
                builder.store(emit.fma(both, scales, builder.load(at)), at)
    for total, chain in zip(totals, sums, strict=True):
        found = builder.load(chain[0])
        for other in chain[1:]:
            found = builder.fadd(found, builder.load(other))
        builder.store(builder.fadd(builder.load(total), emit.total(found, part.lanes)), total)


def _add_biases(
    emit: Emitter,
    form: Format,
    biases: Value,
    sums: list[Value],
    width: Value,
    totals: list[Value],
) -> None:
    """Add each group's bias × the sum of its activations to `totals`."""
    builder, lanes = emit.builder, 8
    groups = builder.udiv(width, emit.integer(form.group))
    vectors = builder.udiv(groups, emit.integer(lanes))
    done = builder.mul(vectors, emit.integer(lanes))
    for count, first, wide in (
        (vectors, emit.integer(0), lanes),
        (builder.sub(groups, done), done, 1),
    ):
        found = [emit.variable(vector(F32, wide), constant(0.0, F32, wide)) for _ in sums]
        with emit.loop(count) as turn:
            group = builder.add(first, builder.mul(turn, emit.integer(wide)))
            address = emit.at(biases, builder.mul(group, emit.integer(ITEM_BYTES[form.scale])))
            values = emit.floats(address, form.scale, wide)
            for at, start in zip(found, sums, strict=True):
                offset = builder.shl(group, emit.integer(2))
                factor = emit.load(emit.at(start, offset), F32, wide)
                builder.store(emit.fma(values, factor, builder.load(at)), at)
        for total, at in zip(totals, found, strict=True):
            more = emit.total(builder.load(at), wide)
            builder.store(builder.fadd(builder.load(total), more), total)


@intrinsic(prefer_literal=True)
def unpack(context, name, lanes, w, s, b, width, out):
    """One row of weights → float32 [width] at `out`, in the order and scale `arrange` gives x."""
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
