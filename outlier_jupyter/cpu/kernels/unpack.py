"""Decodes packed codes to float32, and splits a row into steps.

A step is one or more whole blocks and groups; the rest of a row (of a width such as 2,880) is
decoded in units of 32 with fewer lanes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from llvmlite import ir

from .formats import ITEM_BYTES, UNIT, Format
from .processor import HAS_AVX2, HAS_SDOT
from .simd import F32, I8, I16, I32, Emitter, Value, constant, vector

PLAIN_BLOCKS = 4
"""Vectors of plain weights per step, each with its own sum: this hides the latency of additions."""
CACHE_LINE = 64
AHEAD = 4096
"""Weights are prefetched this many bytes ahead: the latency of memory, and a page, at whose end the
hardware prefetcher stops."""
OFFSET = 12
"""Added to twice a 4-bit float's value (−12 … 12), which makes it an unsigned byte."""
WHOLE = (2, 4, 8)
"""Bits of codes that do not cross bytes."""
FLOATS = [OFFSET + sign * size for sign in (1, -1) for size in (0, 1, 2, 3, 4, 6, 8, 12)]
"""Twice the value of each 4-bit float, + OFFSET."""


@dataclass(frozen=True)
class Steps:
    """A loop over a row's values: `count` steps of `blocks` blocks of `lanes` lanes."""

    emit: Emitter
    form: Format
    lanes: int
    blocks: int
    first: Value
    count: Value

    @property
    def size(self) -> int:
        """Values in a step."""
        return self.lanes * self.form.per_lane * self.blocks

    @contextmanager
    def walk(self) -> Iterator[Value]:
        """The loop; yields the index of each step's first value."""
        with self.emit.loop(self.count) as iteration:
            offset = self.emit.builder.mul(iteration, self.emit.integer(self.size))
            yield self.emit.builder.add(self.first, offset)

    def bytes_at(self, value: Value, per_group: bool = False) -> Value:
        """The offset of a value's code in its row, or of its group's scale."""
        builder, form = self.emit.builder, self.form
        if per_group:
            group = builder.udiv(value, self.emit.integer(form.group))
            return builder.mul(group, self.emit.integer(ITEM_BYTES[form.scale]))
        return builder.udiv(builder.mul(value, self.emit.integer(form.bits)), self.emit.integer(8))

    def codes(self, row: Value, value: Value) -> Iterator[tuple[int, int, Value]]:
        """(place of the vector in the step, place in the lane, the codes there as float32)."""
        nbytes = self.lanes * self.form.per_lane * self.form.bits // 8
        start = self.emit.at(row, self.bytes_at(value))
        for block in range(self.blocks):
            found = _decoded(self.emit, self.form, self.emit.at(start, block * nbytes), self.lanes)
            for place, codes in enumerate(found):
                yield block * self.form.per_lane + place, place, codes

    def scales(self, scales: Value, value: Value) -> Value:
        """The step's scales (or biases), each in the lanes of its group."""
        address = self.emit.at(scales, self.bytes_at(value, per_group=True))
        groups = max(1, self.size // self.form.group)
        if groups == 1 and self.form.scale == "bf16":
            return self.emit.same_bf16(address, self.lanes)
        found = self.emit.floats(address, self.form.scale, groups)
        if groups == 1:
            return self.emit.splat(found, self.lanes)
        order = [lane * groups // self.lanes for lane in range(self.lanes)]
        return self.emit.shuffle(found, found, order)


def steps(emit: Emitter, form: Format, lanes: int, width: Value) -> list[Steps]:
    """The loops that cover a row of `width` values: the main one, and one for the rest."""
    block = lanes * form.per_lane
    plain = form.kind == "plain"
    blocks = PLAIN_BLOCKS if plain else max(1, form.group // block)
    builder, size = emit.builder, emit.integer(block * blocks)
    count = builder.udiv(width, size)
    done = builder.mul(count, size)
    unit = 1 if plain else UNIT
    left = builder.udiv(builder.sub(width, done), emit.integer(unit))
    return [
        Steps(emit, form, lanes, blocks, emit.integer(0), count),
        Steps(emit, form, unit // form.per_lane, 1, done, left),
    ]


def _decoded(emit: Emitter, form: Format, address: Value, lanes: int) -> Iterator[Value]:
    """A block's codes as float32, one vector per place in a lane, still 2^place too large."""
    builder = emit.builder
    if form.kind == "plain":
        yield emit.floats(address, form.scale, lanes)
        return
    if form.kind == "mxfp":
        found = bytes_of(emit, form, emit.load(address, I8, 4 * lanes))
        low, high = (builder.bitcast(each, vector(I32, lanes)) for each in found)
        words, bits = [(low, high)[place % 2] for place in range(8)], 8
        places = [place // 2 for place in range(8)]
    else:
        words, bits = [_words(emit, form, address, lanes)] * form.per_lane, form.bits
        places = list(range(form.per_lane))
    for word, place in zip(words, places, strict=True):
        if bits * (place + 1) == 32:
            code = builder.lshr(word, constant(32 - bits, I32, lanes))
        else:
            mask = ((1 << bits) - 1) << (bits * place)
            code = builder.and_(word, constant(mask, I32, lanes))
        yield builder.sitofp(code, vector(F32, lanes))


def _words(emit: Emitter, form: Format, address: Value, lanes: int) -> Value:
    """Each lane's codes, from its lowest bit on."""
    if form.bits * form.per_lane == 32:
        return emit.load(address, I32, lanes)
    per_lane = form.bits * form.per_lane  # bits: 24, or 20 for 5-bit codes
    total = lanes * per_lane // 8
    # Nothing beyond the block is read. The upper half of the lanes comes from the second load,
    # which keeps the shuffle within 128 bits.
    low, high, half = _two_loads(emit, address, total)
    order: list[int] = []
    for lane in range(lanes):
        start = lane * per_lane // 8
        place = start if lane < lanes // 2 else start - (total - half) + half
        order += [place, place + 1, place + 2, place]  # the fourth byte is masked away
    words = emit.builder.bitcast(emit.shuffle(low, high, order), vector(I32, lanes))
    if per_lane == 20:
        odd = [4 * (lane % 2) for lane in range(lanes)]
        words = emit.builder.lshr(words, ir.Constant(vector(I32, lanes), odd))
    return words


def codes_of(emit: Emitter, form: Format, address: Value, lanes: int) -> list[Value]:
    """Packed codes → vectors of 4 × `lanes` codes, a byte each: as many as a byte has, or one."""
    if form.bits in WHOLE:
        return bytes_of(emit, form, emit.load(address, I8, 4 * lanes))
    # Each 64 bits get the bytes of eight codes, and each byte its code by an unaligned shift.
    kind, total = vector(I8, 4 * lanes), lanes * form.bits // 2
    low, high, half = _two_loads(emit, address, total)
    order = [min(i // 8 * form.bits + i % 8, total - 1) for i in range(4 * lanes)]
    order = [place if place < half else place - total + 2 * half for place in order]
    shifts = ir.Constant(kind, [form.bits * (i % 8) for i in range(4 * lanes)])
    name = f"llvm.x86.avx512.pmultishift.qb.{32 * lanes}"
    found = emit.intrinsic(name, kind, shifts, emit.shuffle(low, high, order))
    return [emit.builder.and_(found, constant((1 << form.bits) - 1, I8, 4 * lanes))]


def _two_loads(emit: Emitter, address: Value, nbytes: int) -> tuple[Value, Value, int]:
    """The first and the last bytes, as two loads that meet or overlap, and the size of each."""
    half = 1 << (nbytes.bit_length() - 1)
    low, high = (emit.load(emit.at(address, at), I8, half) for at in (0, nbytes - half))
    return low, high, half


def bytes_of(emit: Emitter, form: Format, packed: Value) -> list[Value]:
    """Bytes of packed codes → vectors of codes: the first of each byte, the second, ...

    4-bit floats are twice their value + OFFSET.
    """
    builder, count = emit.builder, packed.type.count
    if form.bits == 8:
        return [packed]
    mask, whole = constant((1 << form.bits) - 1, I8, count), vector(I16, count // 2)
    words, found = builder.bitcast(packed, whole), []
    for shift in range(0, 8, form.bits):
        shifted = builder.lshr(words, constant(shift, I16, count // 2)) if shift else words
        found.append(builder.and_(builder.bitcast(shifted, packed.type), mask))
    return [_floats_of(emit, codes) for codes in found] if form.kind == "mxfp" else found


def _floats_of(emit: Emitter, codes: Value) -> Value:
    """`FLOATS` at each of the 4-bit floats."""
    builder, count = emit.builder, codes.type.count
    if TABLE is not None and count % TABLE[1] == 0:
        return _looked_up(emit, codes, *TABLE)

    def byte(value: int) -> Value:
        return constant(value, I8, count)

    # The same by arithmetic: 0 1 2 3 4 5 6 7 → 0 1 2 3 4 6 8 12, and the sign.
    size = builder.and_(codes, byte(7))
    over = emit.call("llvm.usub.sat", size, byte(4))
    last = emit.call("llvm.usub.sat", size, byte(6))
    size = builder.add(builder.add(size, over), builder.add(last, last))
    sign = builder.sext(builder.icmp_unsigned(">", codes, byte(7)), vector(I8, count))
    signed = builder.sub(builder.xor(size, sign), sign)
    return builder.add(signed, byte(OFFSET))


TABLE = (
    ("llvm.x86.avx2.pshuf.b", 32) if HAS_AVX2
    else ("llvm.aarch64.neon.tbl1.v16i8", 16) if HAS_SDOT else None
)  # fmt: skip
"""The instruction that looks bytes up in a table of 16, and how many."""


def _looked_up(emit: Emitter, codes: Value, name: str, count: int) -> Value:
    """`FLOATS` at each code, `count` at a time; each 16 bytes of a register have the table."""
    kind, total = vector(I8, count), codes.type.count
    table = ir.Constant(kind, FLOATS * (count // 16))
    found = [
        emit.intrinsic(name, kind, table, emit.shuffle(codes, codes, range(i, i + count)))
        for i in range(0, total, count)
    ]
    while len(found) > 1:
        size = 2 * found[0].type.count
        found = [
            emit.shuffle(*pair, range(size)) for pair in zip(found[::2], found[1::2], strict=True)
        ]
    return found[0]
