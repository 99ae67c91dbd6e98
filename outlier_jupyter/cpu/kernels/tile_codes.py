"""Tiles of packed weights: their codes and scales, with a row of weights in each lane of a vector.

A tile is a few vectors of rows of weights. Its words, the 32 bits of each row that hold adjacent
codes, are transposed a span of groups at a time. Codes are taken from their word as pairs of 16
bits, to be multiplied with pairs of activations.
"""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from .formats import ITEM_BYTES, Format
from .simd import I8, I32, Emitter, Value, constant, vector
from .unpack import bytes_of

SPAN = 256
"""Words of a row that are transposed at a time: those of a tile stay in the second cache."""
FOUR = 4
"""Words of each row that are transposed together."""


@dataclass(frozen=True)
class Tile:
    """The sizes of a tile.

    Attributes:
        lanes: 32-bit lanes of a vector.
        vectors: of rows of weights.
        rows: of activations that are multiplied at a time: their sums fit the registers.
    """

    form: Format
    lanes: int
    vectors: int
    rows: int

    @property
    def columns(self) -> int:
        """Rows of weights."""
        return self.lanes * self.vectors

    @property
    def words(self) -> int:
        """Words in a group of a row."""
        return self.form.group // self.form.per_lane

    @property
    def span(self) -> int:
        """Groups whose codes are transposed at a time."""
        return SPAN // self.words


def tile_of(form: Format, lanes: int) -> Tile:
    """The tile for vectors of so many lanes: 32 registers come with AVX-512."""
    return Tile(form, lanes, 4, 5) if lanes == 16 else Tile(form, lanes, 2, 4)


def _row_starts(
    emit: Emitter, tile: Tile, base: Value, stride: Value, high: Value, number: Value
) -> list[Value]:
    """Addresses of the rows of vector `number`; beyond `high` rows the last one again."""
    builder, found = emit.builder, []
    first, last = builder.mul(number, emit.integer(tile.lanes)), builder.sub(high, emit.integer(1))
    for lane in range(tile.lanes):
        row = emit.at(first, lane)
        row = builder.select(builder.icmp_unsigned("<", row, last), row, last)
        found.append(emit.at(base, builder.mul(row, stride)))
    return found


def transpose(
    emit: Emitter, tile: Tile, w: Value, stride: Value, high: Value, count: Value, words: Value
) -> None:
    """Write `count` words of each row at `words`, [words, vectors, lanes]."""
    builder, form, lanes = emit.builder, tile.form, tile.lanes
    aligned = form.bits * form.per_lane == 32 and tile.words % FOUR == 0
    size, found = (FOUR, _transposed) if aligned else (2, _gathered)
    with emit.loop(emit.integer(tile.vectors)) as number:
        rows = _row_starts(emit, tile, w, stride, high, number)
        target = emit.at(words, builder.mul(number, emit.integer(4 * lanes)))
        with emit.loop(builder.udiv(count, emit.integer(size))) as block:
            at = builder.mul(block, emit.integer(form.row_bytes(size * form.per_lane)))
            into = emit.at(target, builder.mul(block, emit.integer(4 * size * tile.columns)))
            for word, value in enumerate(found(emit, form, [emit.at(row, at) for row in rows])):
                emit.store(value, emit.at(into, 4 * word * tile.columns), align=4 * lanes)


def float_scales(
    emit: Emitter, tile: Tile, s: Value, stride: Value, high: Value, count: Value, target: Value
) -> None:
    """Write `count` scales of each row as float32, [groups, vectors, lanes]."""
    builder, form, lanes = emit.builder, tile.form, tile.lanes
    size = FOUR * 4 // ITEM_BYTES[form.scale]
    blocks = builder.udiv(count, emit.integer(size))
    with emit.loop(emit.integer(tile.vectors)) as number:
        rows = _row_starts(emit, tile, s, stride, high, number)
        into = emit.at(target, builder.mul(number, emit.integer(4 * lanes)))
        with emit.loop(blocks) as block:
            at = builder.mul(block, emit.integer(4 * FOUR))
            to = emit.at(into, builder.mul(block, emit.integer(4 * size * tile.columns)))
            found = _transposed(emit, form, [emit.at(row, at) for row in rows])
            each = [part for word in found for part in emit.widened(word, form.scale, lanes)]
            for place, value in enumerate(each):
                emit.store(value, emit.at(to, 4 * place * tile.columns), align=4 * lanes)
        done = builder.mul(blocks, emit.integer(size))
        with emit.loop(builder.sub(count, done)) as more:
            group = builder.add(done, more)
            at = builder.mul(group, emit.integer(ITEM_BYTES[form.scale]))
            to = emit.at(into, builder.mul(group, emit.integer(4 * tile.columns)))
            for lane, row in enumerate(rows):
                one = emit.floats(emit.at(row, at), form.scale, 1)
                emit.store(one, emit.at(to, 4 * lane))


def _transposed(emit: Emitter, form: Format, rows: list[Value]) -> list[Value]:
    """Four words of each row, as four vectors with a row in each lane."""
    count = len(rows)
    loaded = [emit.load(row, I32, FOUR) for row in rows]
    quads = []
    for first in range(FOUR):
        wide = loaded[first::FOUR]
        while len(wide) > 1:
            size = 2 * wide[0].type.count
            wide = [
                emit.shuffle(a, b, range(size)) for a, b in zip(wide[::2], wide[1::2], strict=True)
            ]
        quads.append(wide[0])

    def mixed(a: Value, b: Value, order: tuple[int, ...]) -> Value:
        each = [
            lane + (place if place < FOUR else place - FOUR + count)
            for lane in range(0, count, FOUR)
            for place in order
        ]
        return emit.shuffle(a, b, each)

    low, high = (0, 4, 1, 5), (2, 6, 3, 7)
    a, b, c, d = quads
    ab, cd = [mixed(a, b, order) for order in (low, high)], [mixed(c, d, o) for o in (low, high)]
    firsts, seconds = (0, 1, 4, 5), (2, 3, 6, 7)
    return [mixed(ab[i], cd[i], order) for i in (0, 1) for order in (firsts, seconds)]


def _gathered(emit: Emitter, form: Format, rows: list[Value]) -> list[Value]:
    """Two words of each row, of any number of bits up to 32, as `_transposed`."""
    builder, bits, found = emit.builder, form.bits * form.per_lane, []
    nbytes = 2 * bits // 8
    for start in (0, nbytes - 4):  # nothing beyond both words is read
        values = ir.Constant(vector(I32, len(rows)), ir.Undefined)
        for lane, row in enumerate(rows):
            one = emit.load(emit.at(row, start), I32, 1, align=1)
            values = builder.insert_element(values, one, ir.Constant(I32, lane))
        shift = bits - 8 * start if start else 0
        found.append(builder.lshr(values, constant(shift, I32, len(rows))) if shift else values)
    return found


def pairs_of(emit: Emitter, form: Format, word: Value, lanes: int) -> list[Value]:
    """A word's codes as pairs of 16 bits: the first half of its codes below, the second above."""
    builder = emit.builder
    if form.kind == "mxfp":
        mask = constant(0x00FF00FF, I32, lanes)
        found = bytes_of(emit, form, builder.bitcast(word, vector(I8, 4 * lanes)))
        tables = [builder.bitcast(each, vector(I32, lanes)) for each in found]
        eight = constant(8, I32, lanes)
        shifted = [builder.lshr(each, eight) for each in tables]
        return [builder.and_(each, mask) for each in (*tables, *shifted)]
    mask, half = (1 << form.bits) - 1, form.per_lane // 2

    def moved(value: Value, right: int) -> Value:
        if right == 0:
            return value
        amount = constant(abs(right), I32, lanes)
        return builder.lshr(value, amount) if right > 0 else builder.shl(value, amount)

    found = []
    for place in range(half):
        low, high = form.bits * place, form.bits * (place + half) - 16
        if low == high:
            both = constant(mask | mask << 16, I32, lanes)
            found.append(builder.and_(moved(word, low), both))
            continue
        lower = builder.and_(moved(word, low), constant(mask, I32, lanes))
        upper = builder.and_(moved(word, high), constant(mask << 16, I32, lanes))
        found.append(builder.or_(lower, upper))
    return found
