"""Products for many rows of activations, in whole numbers of 16 bits, a tile of weights at a time.

A tile is a few vectors of rows of weights: a lane of a vector is a row. Its codes (packed weights)
are reordered to that once for all rows of activations, which are whole numbers of 16 bits in a unit
of their group. A few rows of them at a time are multiplied with pairs of codes, which two
instructions take from their word: one instruction multiplies a pair of each row of weights and adds
both products. Rounding an activation is half a unit, 1.5e-5 of the group's largest; everything
after it is exact until the group's sum becomes a float, so a row's result does not depend on the
others.

Three intrinsics for Numba: `quantise`, `multiply_tile` and `swiglu`. Addresses are not checked.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .formats import ITEM_BYTES, Format, parse
from .integer_activations import TINY, largest_of, sum_of
from .processor import FEATURES, HAS_AVX2
from .reductions import exponential
from .simd import F32, I16, I32, I64, Emitter, Value, constant, start_function, vector
from .tile_codes import Tile, float_scales, pairs_of, tile_of, transpose
from .unpack import OFFSET

LARGEST = 32767
"""The largest whole number of an activation."""
CHUNK = 96
"""The most rows of activations that share one reordering: their sums stay in the second cache."""
CACHE_LINE = 64


def row_nbytes(form: Format, width: int) -> int:
    """Bytes of a row of quantised activations: whole numbers, units and sums.

    It is an odd number of cache lines, so that rows do not share the sets of a cache.
    """
    lines = -(-(2 * width + 8 * (width // form.group)) // CACHE_LINE)
    return CACHE_LINE * (lines | 1)


@intrinsic(prefer_literal=True)
def quantise(context, name, x, width, out):
    """Write float32 x [width] at `out` as whole numbers, units and sums of groups.

    The numbers of each group are in the order of its pairs of codes; a sum is that of the group's
    numbers, in float32. `row_nbytes` says how long that is.
    """
    if not isinstance(name, types.StringLiteral):
        return None
    form = parse(name.literal_value)

    def generate(context, builder, signature, arguments):
        emit = Emitter(builder)
        x, width, out = arguments[1:]
        groups = builder.udiv(width, emit.integer(form.group))
        units = emit.at(out, builder.shl(width, emit.integer(1)))
        sums = emit.at(units, builder.shl(groups, emit.integer(2)))
        with emit.loop(groups) as group:
            source = emit.at(x, builder.mul(group, emit.integer(4 * form.group)))
            target = emit.at(out, builder.mul(group, emit.integer(2 * form.group)))
            unit, total = _quantise_group(emit, form, source, target)
            place = builder.shl(group, emit.integer(2))
            emit.store(unit, emit.at(units, place))
            emit.store(total, emit.at(sums, place))
        return context.get_dummy_value()

    return types.void(name, *[types.int64] * 3), generate


def _quantise_group(emit: Emitter, form: Format, source: Value, target: Value) -> Any:
    """Write a group's numbers; its unit, with the table's factor, and the sum for its bias."""
    builder, wide = emit.builder, form.per_lane
    largest = largest_of(emit, source, form.group)
    some = builder.fcmp_ordered(">", largest, constant(TINY, F32, 1))
    zero, most = constant(0.0, F32, 1), constant(float(LARGEST), F32, 1)
    unit = builder.select(some, builder.fdiv(largest, most), zero)
    scale = emit.splat(builder.select(some, builder.fdiv(most, largest), zero), wide)
    order = [half * (wide // 2) + place for place in range(wide // 2) for half in (0, 1)]
    total = emit.variable(vector(I32, wide), constant(0, I32, wide))
    with emit.loop(emit.integer(form.group // wide)) as word:
        at = builder.mul(word, emit.integer(wide))
        numbers = emit.load(emit.at(source, builder.shl(at, emit.integer(2))), F32, wide)
        rounded = emit.call("llvm.nearbyint", builder.fmul(numbers, scale))
        whole = builder.fptosi(rounded, vector(I32, wide))
        builder.store(builder.add(builder.load(total), whole), total)
        small = builder.trunc(whole, vector(I16, wide))
        emit.store(
            emit.shuffle(small, small, order),
            emit.at(target, builder.shl(at, emit.integer(1))),
            align=2,
        )
    sums = builder.sitofp(sum_of(emit, builder.load(total)), F32)
    if form.kind == "mxfp":  # its table holds twice the values, + OFFSET
        unit = builder.fmul(unit, constant(0.5, F32, 1))
        return unit, builder.fmul(builder.fmul(sums, unit), constant(-float(OFFSET), F32, 1))
    return unit, builder.fmul(sums, unit)


@intrinsic(prefer_literal=True)
def multiply_tile(
    context, name, lanes, w, w_stride, s, b, s_stride, high, rows, xs, outs, offset, width
):  # fmt: skip
    """`high` rows of weights, at most a tile's × `rows` quantised rows, at most `CHUNK` → float32.

    Args:
        w, s, b: the first row's codes, scales and biases, with the bytes between rows.
        xs, outs: int64 [rows] at these addresses: where each row of activations is, and where
            `offset` bytes before its results.
    """
    known = isinstance(name, types.StringLiteral) and isinstance(lanes, types.Literal)
    if not known:
        return None
    tile = tile_of(parse(name.literal_value), lanes.literal_value)

    def generate(context, builder, signature, arguments):
        builder.call(_tile_function(builder.module, tile), arguments[2:])
        return context.get_dummy_value()

    return types.void(name, lanes, *[types.int64] * 11), generate


def _room(emit: Emitter, element: Any, count: int, lanes: int) -> Value:
    """The address of stack memory for `count` numbers, aligned as vectors."""
    place = cgutils.alloca_once(emit.builder, ir.ArrayType(vector(element, lanes), count // lanes))
    return emit.builder.ptrtoint(place, I64)


def _tile_function(module: Any, tile: Tile) -> Any:
    form, lanes, columns = tile.form, tile.lanes, tile.columns
    name = f"tile_{form.name}_{lanes}"
    if name in module.globals:
        return module.globals[name]
    emit, arguments = start_function(module, name, 11)
    builder = emit.builder
    w, w_stride, s, b, s_stride, high, rows, xs, outs, offset, width = arguments
    groups = builder.udiv(width, emit.integer(form.group))
    words = _room(emit, I32, tile.span * tile.words * columns, lanes)
    sums = _room(emit, F32, CHUNK * columns, lanes)
    scales, biases = (_room(emit, F32, tile.span * columns, lanes) for _ in range(2))
    step, line = 4 * columns, emit.integer(form.row_bytes(form.group) * columns)
    with emit.loop(builder.mul(rows, emit.integer(tile.vectors))) as place:
        at = emit.at(sums, builder.mul(place, emit.integer(4 * lanes)))
        emit.store(constant(0.0, F32, lanes), at, align=4 * lanes)
    spans = builder.udiv(builder.add(groups, emit.integer(tile.span - 1)), emit.integer(tile.span))
    with emit.loop(spans) as span:
        first = builder.mul(span, emit.integer(tile.span))
        left = builder.sub(groups, first)
        full = builder.icmp_unsigned("<", emit.integer(tile.span), left)
        count = builder.select(full, emit.integer(tile.span), left)
        at = builder.mul(first, emit.integer(form.row_bytes(form.group)))
        size = builder.mul(count, emit.integer(tile.words))
        transpose(emit, tile, emit.at(w, at), w_stride, high, size, words)
        at = builder.mul(first, emit.integer(ITEM_BYTES[form.scale]))
        for source, target in ((s, scales), (b, biases))[: 2 if form.kind == "affine" else 1]:
            float_scales(emit, tile, emit.at(source, at), s_stride, high, count, target)
        with emit.loop(count) as index:
            group = builder.add(first, index)
            # The rows below are the next tile's, most likely.
            below = builder.add(builder.mul(w_stride, emit.integer(columns)),
                                builder.mul(group, line))  # fmt: skip
            for place in range(0, form.row_bytes(form.group) * columns, CACHE_LINE):
                emit.prefetch(emit.at(w, emit.at(below, place)), 2)
            codes = emit.at(words, builder.mul(index, emit.integer(tile.words * step)))
            at = builder.mul(group, emit.integer(2 * form.group))
            four = builder.shl(group, emit.integer(2))
            units = emit.at(builder.shl(width, emit.integer(1)), four)
            totals = emit.at(units, builder.shl(groups, emit.integer(2)))
            there = builder.mul(index, emit.integer(step))
            vectors = [emit.at(scales, there)]
            vectors.append(emit.at(biases, there) if form.kind == "affine" else vectors[0])
            _all_rows(emit, tile, rows, xs, sums, [at, units, totals, codes, *vectors])
    _write(emit, tile, sums, high, rows, outs, offset)
    builder.ret_void()
    return module.globals[name]


def _write(
    emit: Emitter, tile: Tile, sums: Value, high: Value, rows: Value, outs: Value, offset: Value
) -> None:
    """Copy the first `high` sums of each row to where its results are."""
    builder = emit.builder
    with emit.loop(rows) as row:
        place = builder.shl(row, emit.integer(3))
        target = emit.at(emit.load(emit.at(outs, place), I64, 1, align=8), offset)
        source = emit.at(sums, builder.mul(row, emit.integer(4 * tile.columns)))
        for wide, column in emit.strides(high, (tile.lanes, 1)):
            place = builder.shl(column, emit.integer(2))
            emit.store(emit.load(emit.at(source, place), F32, wide, 4), emit.at(target, place))


def _all_rows(
    emit: Emitter, tile: Tile, rows: Value, xs: Value, sums: Value, others: list[Value]
) -> None:
    """Multiply a group of all rows of activations, `tile.rows` at a time, and then the rest."""
    builder, most = emit.builder, emit.integer(tile.rows)
    blocks = builder.udiv(rows, most)
    size = 4 * tile.columns
    with emit.loop(blocks) as block:
        row = builder.mul(block, most)
        x, total = _at_row(emit, xs, sums, row, size)
        builder.call(_rows_function(builder.module, tile, tile.rows), [x, total, *others])
    left = builder.sub(rows, builder.mul(blocks, most))
    x, total = _at_row(emit, xs, sums, builder.mul(blocks, most), size)
    for count in range(1, tile.rows):
        with builder.if_then(builder.icmp_unsigned("==", left, emit.integer(count))):
            builder.call(_rows_function(builder.module, tile, count), [x, total, *others])


def _at_row(emit: Emitter, xs: Value, sums: Value, row: Value, size: int) -> tuple[Value, Value]:
    builder = emit.builder
    x = emit.at(xs, builder.shl(row, emit.integer(3)))
    return x, emit.at(sums, builder.mul(row, emit.integer(size)))


def _rows_function(module: Any, tile: Tile, count: int) -> Any:
    """A function that multiplies a group of `count` rows with a tile, and adds it to their sums.

    It is a separate function, so that all sums stay in registers.
    """
    lanes, vectors = tile.lanes, tile.vectors
    name = f"tile_rows_{tile.form.name}_{lanes}_{count}"
    if name in module.globals:
        return module.globals[name]
    emit, arguments = start_function(module, name, 8)
    builder = emit.builder
    xs, sums, at, units, totals, codes, scales, biases = arguments
    rows = [emit.load(emit.at(xs, 8 * row), I64, 1, align=8) for row in range(count)]
    numbers = [emit.at(row, at) for row in rows]
    found = [
        [emit.variable(vector(I32, lanes), constant(0, I32, lanes)) for _ in range(vectors)]
        for _ in rows
    ]
    form = tile.form
    with emit.loop(emit.integer(tile.words)) as word:
        start = emit.at(codes, builder.mul(word, emit.integer(4 * tile.columns)))
        near = builder.mul(word, emit.integer(2 * form.per_lane))
        packed = [
            emit.load(emit.at(start, 4 * lanes * number), I32, lanes, align=4 * lanes)
            for number in range(vectors)
        ]
        weights = [pairs_of(emit, form, each, lanes) for each in packed]
        for pair in range(form.per_lane // 2):
            for row, places in zip(numbers, found, strict=True):
                one = emit.load(emit.at(row, emit.at(near, 4 * pair)), I32, 1, align=4)
                both = emit.splat(one, lanes)
                for weight, to in zip(weights, places, strict=True):
                    more = _pair_products(emit, weight[pair], both, lanes)
                    builder.store(builder.add(builder.load(to), more), to)
    for row, (start, places) in enumerate(zip(rows, found, strict=True)):
        unit, total = (
            emit.splat(emit.load(emit.at(start, each), F32, 1, align=4), lanes)
            for each in (units, totals)
        )
        for number, place in enumerate(places):
            to = emit.at(sums, 4 * (row * tile.columns + number * lanes))
            scale, bias = (
                emit.load(emit.at(each, 4 * lanes * number), F32, lanes, align=4 * lanes)
                for each in (scales, biases)
            )
            exact = builder.sitofp(builder.load(place), vector(F32, lanes))
            value = emit.fma(builder.fmul(exact, unit), scale, emit.load(to, F32, lanes, 4 * lanes))
            emit.store(emit.fma(total, bias, value), to, align=4 * lanes)
    builder.ret_void()
    return module.globals[name]


def _pair_products(emit: Emitter, a: Value, b: Value, lanes: int) -> Value:
    """In each lane the sum of the products of two pairs of 16 bits; with VNNI it adds, too."""
    builder, halves, whole = emit.builder, vector(I16, 2 * lanes), vector(I32, lanes)
    names = {16: "llvm.x86.avx512.pmaddw.d.512", 8: "llvm.x86.avx2.pmadd.wd"}
    if HAS_AVX2 and (lanes == 8 or "avx512bw" in FEATURES):
        return emit.intrinsic(names[lanes], whole, *(builder.bitcast(v, halves) for v in (a, b)))
    sixteen = constant(16, I32, lanes)

    def low(value: Value) -> Value:
        return builder.ashr(builder.shl(value, sixteen), sixteen)

    upper = builder.mul(builder.ashr(a, sixteen), builder.ashr(b, sixteen))
    return builder.add(builder.mul(low(a), low(b)), upper)


@intrinsic
def swiglu(context, values, gates, count):
    """Replace `count` float32 at `values` by their product with the SiLU of `gates`."""

    def generate(context, builder, signature, arguments):
        emit = Emitter(builder)
        values, gates, count = arguments
        for lanes, column in emit.strides(count, (8, 1)):
            one, most = (constant(number, F32, lanes) for number in (1.0, 88.0))
            place = builder.shl(column, emit.integer(2))
            gate = emit.load(emit.at(gates, place), F32, lanes)
            negative = emit.call("llvm.minnum", builder.fneg(gate), most)
            below = builder.fadd(one, exponential(emit, negative, lanes))
            at = emit.at(values, place)
            product = builder.fmul(gate, emit.load(at, F32, lanes))
            emit.store(builder.fdiv(product, below), at)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3), generate
