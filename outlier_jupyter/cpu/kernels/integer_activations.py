"""Integer activations: codes (packed weights) are multiplied as bytes, not as floats.

The activations of a group become integers in a unit of their group, each split into two signed
bytes, called digits. One instruction multiplies a vector of bytes with a vector of digits and adds
adjacent products, where floats take a conversion and a multiplication for each quarter of it. So a
token's product takes a third of the instructions, and waits for memory only.

Rounding is half a unit: 1.6e-5 of the group's largest activation, a hundredth of bfloat16's. What
follows is exact until a group's sum becomes a float: biases, too, are multiplied with the sums of
the rounded activations.

Where the format or the processor does not fit, `rows.py` multiplies floats. It also does so when
four or more rows share the reading of weights, because those share the unpacking, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llvmlite import ir

from .formats import ITEM_BYTES, UNIT, Format
from .processor import HAS_AVX2, HAS_SDOT, HAS_VBMI, HAS_VNNI, LANES
from .simd import F32, I8, I16, I32, Emitter, Value, constant, start_function, vector
from .unpack import AHEAD, CACHE_LINE, OFFSET, WHOLE, codes_of

TINY = 1e-30
"""A group whose activations are all smaller counts as zeros: its unit might underflow."""
TOGETHER = 2
"""Steps per iteration of the unrolled loop."""
ROWS_AHEAD = 8
"""Scales and biases are prefetched this many rows ahead."""
PAIRS = {
    4: ("llvm.x86.ssse3.pmadd.ub.sw.128", "llvm.x86.sse2.pmadd.wd"),
    8: ("llvm.x86.avx2.pmadd.ub.sw", "llvm.x86.avx2.pmadd.wd"),
}
"""Without VNNI: products of bytes, adjacent ones added; the same of 16 bits. By 32-bit lanes."""


def fits(form: Format) -> bool:
    """Whether products of few rows in this format use integer activations."""
    whole = form.bits in WHOLE and form.group * form.bits >= 128
    if form.kind == "plain" or not (whole or (HAS_VBMI and form.bits not in WHOLE)):
        return False
    signed = form.bits < 8  # SDOT takes codes as signed bytes
    return HAS_VNNI or HAS_AVX2 or (HAS_SDOT and signed)


def digit_bits(form: Format) -> int:
    """Bits of a digit. Without VNNI the sum of two products with codes of 8 bits must fit 16."""
    return 8 if form.bits < 8 or HAS_VNNI else 7


def largest(form: Format) -> int:
    """The largest integer: that of two digits, the lower one from −2^(bits − 1)."""
    half = 1 << digit_bits(form) - 1
    return (half - (half == 128)) * 2 * half + half - 1


@dataclass(frozen=True)
class ByteSteps:
    """A row's steps of one size: whole groups, and whole vectors of codes."""

    emit: Emitter
    form: Format
    lanes: int
    first: Value
    count: Value

    @property
    def vectors(self) -> int:
        """Vectors of codes, a byte each, that are unpacked at once."""
        return 8 // self.form.bits if self.form.bits in WHOLE else 1

    @property
    def values(self) -> int:
        """Codes that are unpacked at once."""
        return 4 * self.lanes * self.vectors

    @property
    def nbytes(self) -> int:
        """Their packed bytes."""
        return self.values * self.form.bits // 8

    @property
    def times(self) -> int:
        """How often codes are unpacked in a step."""
        return max(1, self.form.group // self.values)

    @property
    def groups(self) -> int:
        """Groups in a step."""
        return max(1, self.values // self.form.group)


def parts_of(emit: Emitter, form: Format, lanes: int, width: Value) -> list[ByteSteps]:
    """The steps that cover a row of `width` values: wide ones, and single groups for the rest."""
    builder, zero = emit.builder, emit.integer(0)
    wide = ByteSteps(emit, form, lanes, zero, zero)
    size = wide.times * wide.values
    count = builder.udiv(width, emit.integer(size))
    found = [ByteSteps(emit, form, lanes, zero, count)]
    if wide.groups > 1:
        done = builder.mul(count, emit.integer(size))
        left = builder.udiv(builder.sub(width, done), emit.integer(form.group))
        found.append(ByteSteps(emit, form, form.group // (4 * wide.vectors), done, left))
    return found


def _units(emit: Emitter, out: Value, width: Value) -> Value:
    """The address of the groups' units: after the digits, which fill half of that memory."""
    return emit.at(out, emit.builder.shl(width, emit.integer(1)))


def arrange(
    emit: Emitter, form: Format, lanes: int, x: Value, width: Value, out: Value, sums: Value
) -> None:
    """Write the digits and units of x [width] at `out`, and the sum of each group at `sums`."""
    builder, half = emit.builder, 0.5 if form.kind == "mxfp" else 1.0
    units = _units(emit, out, width)
    for part in parts_of(emit, form, lanes, width):
        with emit.loop(builder.mul(part.count, emit.integer(part.groups))) as number:
            first = builder.mul(number, emit.integer(form.group))
            value = builder.add(part.first, first)
            at = builder.udiv(value, emit.integer(form.group // 4))
            source = emit.at(x, builder.shl(value, emit.integer(2)))
            unit, total = _split_group(part, source, first, out)
            emit.store(builder.fmul(unit, constant(half, F32, 1)), emit.at(units, at))
            found = builder.fmul(unit, builder.sitofp(total, F32))
            if form.kind == "mxfp":  # half, because the table's values are doubled
                found = builder.fmul(found, constant(-OFFSET / 2, F32, 1))
            emit.store(found, emit.at(sums, at))


def _split_group(part: ByteSteps, source: Value, first: Value, out: Value) -> tuple[Value, Value]:
    """Write the digits of the group at `source`, and return its unit and the sum of its integers.

    Args:
        first: the number of its first value in the part.
    """
    emit, form, builder = part.emit, part.form, part.emit.builder
    size = largest_of(emit, source, form.group)
    some = builder.fcmp_ordered(">", size, constant(TINY, F32, 1))
    zero, most = constant(0.0, F32, 1), constant(float(largest(form)), F32, 1)
    unit = builder.select(some, builder.fdiv(size, most), zero)
    scale = emit.splat(builder.select(some, builder.fdiv(most, size), zero), UNIT)
    total = emit.variable(vector(I32, UNIT), constant(0, I32, UNIT))
    base = emit.at(out, builder.shl(part.first, emit.integer(1)))
    inside, bits = emit.integer(part.values - 1), digit_bits(form)
    with emit.loop(emit.integer(form.group // UNIT)) as iteration:
        offset = builder.shl(iteration, emit.integer(5))
        numbers = emit.load(emit.at(source, builder.shl(offset, emit.integer(2))), F32, UNIT)
        rounded = emit.call("llvm.nearbyint", builder.fmul(numbers, scale))
        whole = builder.fptosi(rounded, vector(I32, UNIT))
        builder.store(builder.add(builder.load(total), whole), total)
        value = builder.add(first, offset)
        place = builder.and_(value, inside)
        block = builder.shl(builder.sub(value, place), emit.integer(1))
        target = emit.at(emit.at(base, block), builder.udiv(place, emit.integer(part.vectors)))
        half, mask = (constant(n, I32, UNIT) for n in (1 << bits - 1, (1 << bits) - 1))
        low = builder.sub(builder.and_(builder.add(whole, half), mask), half)
        high = builder.ashr(builder.sub(whole, low), constant(bits, I32, UNIT))
        for digit, start in ((high, 0), (low, part.values)):
            small = builder.trunc(digit, vector(I8, UNIT))
            for code in range(part.vectors):
                found = emit.shuffle(small, small, range(code, UNIT, part.vectors))
                emit.store(found, emit.at(target, start + 4 * part.lanes * code), align=1)
    return unit, sum_of(emit, builder.load(total))


def largest_of(emit: Emitter, source: Value, count: int) -> Value:
    """The largest absolute value of float32 [count]."""
    found = constant(0.0, F32, 16)
    for place in range(0, count, 16):
        size = emit.call("llvm.fabs", emit.load(emit.at(source, 4 * place), F32, 16))
        found = emit.call("llvm.maxnum", found, size)
    for lanes in (8, 4, 2, 1):
        halves = (emit.shuffle(found, found, range(i, i + lanes)) for i in (0, lanes))
        found = emit.call("llvm.maxnum", *halves)
    return emit.builder.extract_element(found, ir.Constant(I32, 0))


def sum_of(emit: Emitter, found: Value) -> Value:
    """The sum of the vector's int32."""
    lanes = found.type.count
    while lanes > 1:
        lanes //= 2
        halves = (emit.shuffle(found, found, range(i, i + lanes)) for i in (0, lanes))
        found = emit.builder.add(*halves)
    return emit.builder.extract_element(found, ir.Constant(I32, 0))


def block(module: Any, form: Format, lanes: int, tall: int) -> Any:
    """A function that multiplies `tall` rows of weights at a time with rows of digits."""
    name = f"integer_dots_{form.name}_{lanes}_{tall}"
    if name in module.globals:
        return module.globals[name]
    emit, arguments = start_function(module, name, 16)
    builder = emit.builder
    iterations, first, heights, w, w_stride, s, b, s_stride, _, *places = arguments
    x, x_stride, sums, sums_stride, width, out, out_stride = places
    groups = builder.udiv(width, emit.integer(form.group))
    rooms = [builder.ptrtoint(builder.alloca(F32, size=groups), width.type) for _ in range(tall)]
    parts = parts_of(emit, form, lanes, width)
    with emit.loop(iterations) as row:
        digits, ys, outs = (
            emit.at(base, builder.mul(stride, row))
            for base, stride in ((x, x_stride), (sums, sums_stride), (out, out_stride))
        )
        with emit.loop(heights) as up:
            at = builder.add(first, up)
            ws, ss, bs = (
                emit.rows_at(base, stride, at, tall, heights)
                for base, stride in ((w, w_stride), (s, s_stride), (b, s_stride))
            )
            totals = [
                emit.variable(vector(F32, lanes), constant(0.0, F32, lanes)) for _ in range(tall)
            ]
            ahead = builder.mul(s_stride, emit.integer(ROWS_AHEAD))
            for start in (*ss, *bs):
                emit.prefetch(emit.at(start, ahead))
            units = _units(emit, digits, width)
            for each in zip(ss, ss if form.kind == "mxfp" else bs, rooms, totals, strict=True):
                _scale(emit, form, lanes, groups, units, ys, *each)
            for part in parts:
                _multiply(part, ws, rooms, digits, totals)
            for place, total in enumerate(totals):
                column = builder.add(at, builder.mul(heights, emit.integer(place)))
                found = emit.total(builder.load(total), lanes)
                emit.store(found, emit.at(outs, builder.shl(column, emit.integer(2))))
    builder.ret_void()
    return module.globals[name]


def _scale(
    emit: Emitter, form: Format, lanes: int, groups: Value, units: Value, sums: Value,
    s: Value, b: Value, room: Value, total: Value,
) -> None:  # fmt: skip
    """Write each group's scale × its unit at `room`, and add its bias × its sum to `total`."""
    builder = emit.builder
    for wide, group in emit.strides(groups, [n for n in (16, 8, 4, 1) if n <= lanes]):
        place = builder.mul(group, emit.integer(ITEM_BYTES[form.scale]))
        at = builder.shl(group, emit.integer(2))
        scales, biases = (emit.floats(emit.at(of, place), form.scale, wide) for of in (s, b))
        unit, factor = (emit.load(emit.at(of, at), F32, wide, align=4) for of in (units, sums))
        emit.store(builder.fmul(scales, unit), emit.at(room, at))
        emit.add_product(biases, factor, total, wide)


def _multiply(
    part: ByteSteps, ws: list[Value], rooms: list[Value], digits: Value, totals: list[Value]
) -> None:
    """Add a part of rows of codes × the digits, scaled, to the vectors `totals`."""
    emit, builder, lanes = part.emit, part.emit.builder, part.lanes
    nbytes, values = part.nbytes * part.times, part.values * part.times
    packed = builder.udiv(builder.mul(part.first, emit.integer(part.form.bits)), emit.integer(8))
    group = builder.udiv(part.first, emit.integer(part.form.group // 4))
    ws, rooms = [emit.at(w, packed) for w in ws], [emit.at(room, group) for room in rooms]
    digits = emit.at(digits, builder.shl(part.first, emit.integer(1)))
    for wide, step in emit.strides(part.count, (TOGETHER, 1)):
        codes = [emit.at(w, builder.mul(step, emit.integer(nbytes))) for w in ws]
        scales = [emit.at(at, builder.mul(step, emit.integer(4 * part.groups))) for at in rooms]
        at = emit.at(digits, builder.mul(step, emit.integer(2 * values)))
        for row in codes:
            for line in range(0, wide * nbytes, CACHE_LINE):
                emit.prefetch(emit.at(row, AHEAD + line))
        for place in range(wide):
            for row, factors, total in zip(codes, scales, totals, strict=True):
                found = None
                for number in range(part.times):
                    more = _product(
                        part, emit.at(row, nbytes * place + part.nbytes * number),
                        emit.at(at, 2 * values * place + 2 * part.values * number),
                    )  # fmt: skip
                    found = more if found is None else builder.add(found, more)
                factor = emit.load(emit.at(factors, 4 * part.groups * place), F32, part.groups, 4)
                if part.groups == 1:
                    factor = emit.splat(factor, lanes)
                else:
                    order = [lane * part.groups // lanes for lane in range(lanes)]
                    factor = emit.shuffle(factor, factor, order)
                emit.add_product(builder.sitofp(found, vector(F32, lanes)), factor, total, lanes)


def _product(part: ByteSteps, packed: Value, digits: Value) -> Value:
    """Codes at `packed` × their digits: int32 [lanes], still to be summed."""
    emit, nbytes = part.emit, 4 * part.lanes
    codes = codes_of(emit, part.form, packed, part.lanes)
    places = [
        [
            emit.load(emit.at(digits, part.values * place + nbytes * code), I8, nbytes)
            for code in range(part.vectors)
        ]
        for place in range(2)
    ]
    return _sum_of_products(emit, codes, places, digit_bits(part.form))


def _sum_of_products(
    emit: Emitter, codes: Sequence[Value], places: Sequence[Sequence[Value]], bits: int
) -> Value:
    """Codes × digits of two places, the higher one first, added in each 32-bit lane."""
    builder, count = emit.builder, codes[0].type.count
    if count > 4 * WIDEST:
        halves = []
        for start in (0, count // 2):
            order = range(start, start + count // 2)
            cut = [[emit.shuffle(v, v, order) for v in vectors] for vectors in (codes, *places)]
            halves.append(_sum_of_products(emit, cut[0], cut[1:], bits))
        return emit.shuffle(halves[0], halves[1], range(count // 4))
    lanes = count // 4
    whole = vector(I32, lanes)
    total = constant(0, I32, lanes)
    if HAS_VNNI or HAS_SDOT:
        for number, digits in enumerate(places):
            if number > 0:
                total = builder.shl(total, constant(bits, I32, lanes))
            for code, digit in zip(codes, digits, strict=True):
                total = _dot(emit, total, code, digit)
        return total
    bytewise, pairwise = PAIRS[lanes]
    for digits, factor in zip(places, (1 << bits, 1), strict=True):
        pairs = constant(0, I16, 2 * lanes)
        for code, digit in zip(codes, digits, strict=True):
            pairs = builder.add(pairs, emit.intrinsic(bytewise, pairs.type, code, digit))
        factors = constant(factor, I16, 2 * lanes)
        total = builder.add(total, emit.intrinsic(pairwise, whole, pairs, factors))
    return total


WIDEST = 4 if HAS_SDOT else 16 if HAS_VNNI and LANES == 16 else 8
"""The most 32-bit lanes of one such instruction."""


def _dot(emit: Emitter, total: Value, codes: Value, digits: Value) -> Value:
    """`total` + the products of bytes, four of them in each lane."""
    kind = total.type
    if HAS_SDOT:
        return emit.intrinsic("llvm.aarch64.neon.sdot.v4i32.v16i8", kind, total, codes, digits)
    name = f"llvm.x86.avx512.vpdpbusd.{32 * kind.count}"
    words = (emit.builder.bitcast(each, kind) for each in (codes, digits))
    return emit.intrinsic(name, kind, total, *words)
