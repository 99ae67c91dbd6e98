"""Integer activations: 4-bit codes (packed weights) are multiplied as bytes, not as floats.

The activations of a group become integers of up to `LARGEST`, in a unit of their group, each split
into three base-128 limbs, called digits. One instruction multiplies 32 codes with 32 digits and
adds pairs; with floats one multiplies eight, and two more make them from their codes.
So a token's product takes two thirds of the instructions. Rounding is half a unit, 2.4e-7 of the
group's largest activation; everything after it is exact until the group's sum becomes a float.

Where the format or the processor does not fit, `rows.py` multiplies floats. It also does so when
four or more rows share the reading of weights, because those share the unpacking, too.
"""

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir
from numba.core import cgutils

from .formats import ITEM_BYTES, Format
from .processor import HAS_AVX2
from .simd import F32, I8, I16, I32, Emitter, Value, constant, vector
from .unpack import AHEAD, CACHE_LINE, Steps

BASE, BITS = 128, 7
PLACES = (1 << 2 * BITS, 1 << BITS, 1)
"""The digits' place values, the highest first; each fits 16 bits with its sign."""
LARGEST = 126 * PLACES[0]
"""The largest integer, so that the highest digit fits a signed byte."""
TINY = 1e-30
"""A group whose activations are all smaller counts as zeros: its unit might underflow."""
LANES = 8
VALUES = 64
"""Values of a group: the 4-bit codes in a vector of 32 bytes."""
HALF = VALUES // 2
"""Even codes of a group are in the lower halves of the bytes, odd codes in the upper halves."""
TOGETHER = 2
"""Groups per iteration of the unrolled loop; two rows of four no longer fit the registers."""


def fits(form: Format, lanes: int) -> bool:
    """Whether products of few rows in this format use integer activations."""
    packed = form.kind == "affine" and form.bits == 4 and form.group == VALUES
    return packed and lanes == LANES and HAS_AVX2


def units_of(emit: Emitter, sums: Value, groups: Value) -> Value:
    """The address of the groups' units: after the groups' sums, which fill half of that memory."""
    return emit.at(sums, emit.builder.shl(groups, emit.integer(2)))


def split(part: Steps, value: Value, x: Value, out: Value, units: Value) -> None:
    """Write the digits of a group of x at `out`, [3 digits, even or odd, 32 bytes], and its unit.

    They take 192 of the 256 bytes of the group's floats.
    """
    emit, builder = part.emit, part.emit.builder
    start = builder.shl(value, emit.integer(2))
    source, target = emit.at(x, start), emit.at(out, start)
    largest = _largest(emit, source)
    some = builder.fcmp_ordered(">", largest, constant(TINY, F32, 1))
    zero, most = constant(0.0, F32, 1), constant(float(LARGEST), F32, 1)
    unit = builder.select(some, builder.fdiv(largest, most), zero)
    scale = emit.splat(builder.select(some, builder.fdiv(most, largest), zero), LANES)
    emit.store(unit, emit.at(units, builder.udiv(start, emit.integer(VALUES))))
    with emit.loop(emit.integer(VALUES // LANES)) as iteration:
        numbers = emit.load(emit.at(source, builder.shl(iteration, emit.integer(5))), F32, LANES)
        rounded = emit.call("llvm.nearbyint", builder.fmul(numbers, scale))
        rest = builder.fptosi(rounded, vector(I32, LANES))
        to = emit.at(target, builder.shl(iteration, emit.integer(2)))
        for place in (2, 1, 0):
            digit, rest = _digit(emit, rest) if place else (rest, rest)
            for odd in (0, 1):
                found = emit.shuffle(digit, digit, range(odd, LANES, 2))
                small = builder.trunc(found, vector(I8, LANES // 2))
                emit.store(small, emit.at(to, VALUES * place + HALF * odd), align=1)


def _largest(emit: Emitter, source: Value) -> Value:
    """The largest absolute activation of a group."""
    found = constant(0.0, F32, LANES)
    for place in range(0, VALUES, LANES):
        size = emit.call("llvm.fabs", emit.load(emit.at(source, 4 * place), F32, LANES))
        found = emit.call("llvm.maxnum", found, size)
    for lanes in (4, 2, 1):
        halves = (emit.shuffle(found, found, range(i, i + lanes)) for i in (0, lanes))
        found = emit.call("llvm.maxnum", *halves)
    return emit.builder.extract_element(found, ir.Constant(I32, 0))


def _digit(emit: Emitter, numbers: Value) -> tuple[Value, Value]:
    """The lowest digit, from −64 to 63, and the higher rest."""
    builder = emit.builder
    half, mask = constant(BASE // 2, I32, LANES), constant(BASE - 1, I32, LANES)
    digit = builder.sub(builder.and_(builder.add(numbers, half), mask), half)
    return digit, builder.ashr(builder.sub(numbers, digit), constant(BITS, I32, LANES))


def scale_room(emit: Emitter, groups: Value) -> Value:
    """Stack memory for a row's scales, as float32."""
    place = emit.builder.alloca(F32, size=groups)
    return emit.builder.ptrtoint(place, groups.type)


def multiply(
    part: Steps, ws: list[Value], ss: list[Value], x: Value, units: Value,
    rooms: list[Value], sums: list[Value],
) -> None:  # fmt: skip
    """Add rows of codes × the digits at x, scaled, to the vectors `sums`; without biases."""
    emit, builder = part.emit, part.emit.builder
    for s, room in zip(ss, rooms, strict=True):
        _scales(part, s, units, room)
    left, first = part.count, emit.integer(0)
    for wide in (TOGETHER, 1):
        count = builder.udiv(left, emit.integer(wide))
        with emit.loop(count) as iteration:
            group = builder.add(first, builder.mul(iteration, emit.integer(wide)))
            offset, scale = (builder.mul(group, emit.integer(each)) for each in (HALF, 4))
            digits = emit.at(x, builder.mul(group, emit.integer(4 * VALUES)))
            codes, scales = [emit.at(w, offset) for w in ws], [emit.at(at, scale) for at in rooms]
            for row in codes:
                for line in range(0, wide * HALF, CACHE_LINE):
                    emit.prefetch(emit.at(row, AHEAD + line))
            for place in range(wide):
                at = emit.at(digits, 4 * VALUES * place)
                for row, factors, total in zip(codes, scales, sums, strict=True):
                    found = _product(emit, emit.at(row, HALF * place), at)
                    factor = emit.load(emit.at(factors, 4 * place), F32, 1, align=4)
                    more = emit.fma(found, emit.splat(factor, LANES), builder.load(total))
                    builder.store(more, total)
        done = builder.mul(count, emit.integer(wide))
        left, first = builder.sub(left, done), builder.add(first, done)


def _scales(part: Steps, s: Value, units: Value, room: Value) -> None:
    """Write each group's scale × its unit at `room`."""
    emit, builder = part.emit, part.emit.builder
    left, first = part.count, emit.integer(0)
    for wide in (LANES, 4, 1):
        count = builder.udiv(left, emit.integer(wide))
        with emit.loop(count) as iteration:
            group = builder.add(first, builder.mul(iteration, emit.integer(wide)))
            place = builder.mul(group, emit.integer(ITEM_BYTES[part.form.scale]))
            offset = builder.shl(group, emit.integer(2))
            scales = emit.floats(emit.at(s, place), part.form.scale, wide)
            unit = emit.load(emit.at(units, offset), F32, wide, align=4)
            emit.store(builder.fmul(scales, unit), emit.at(room, offset))
        done = builder.mul(count, emit.integer(wide))
        left, first = builder.sub(left, done), builder.add(first, done)


def _product(emit: Emitter, codes: Value, digits: Value) -> Value:
    """A group's codes × its digits: float32 [8], whose lanes are still to be summed."""
    builder = emit.builder
    packed = emit.load(codes, I8, HALF)
    mask = constant(15, I8, HALF)
    even = builder.and_(packed, mask)
    pairs = builder.bitcast(packed, vector(I16, HALF // 2))
    shifted = builder.lshr(pairs, constant(4, I16, HALF // 2))
    odd = builder.and_(builder.bitcast(shifted, vector(I8, HALF)), mask)
    total = None
    for number, counts in enumerate(PLACES):
        at = emit.at(digits, VALUES * number)
        low, high = (
            _call(emit, "ub.sw", I16, [each, emit.load(emit.at(at, HALF * place), I8, HALF)])
            for place, each in enumerate((even, odd))
        )
        weights = constant(counts, I16, HALF // 2)
        found = _call(emit, "wd", I32, [builder.add(low, high), weights])
        total = found if total is None else builder.add(total, found)
    return builder.sitofp(total, vector(F32, LANES))


def _call(emit: Emitter, name: str, element: ir.Type, values: Sequence[Value]) -> Value:
    """Multiply vectors elementwise and add adjacent pairs, into elements twice as wide."""
    kind = vector(element, values[0].type.count // 2)
    function = cgutils.get_or_insert_function(
        emit.builder.module,
        ir.FunctionType(kind, [value.type for value in values]),
        f"llvm.x86.avx2.pmadd.{name}",
    )
    return emit.builder.call(function, values)
