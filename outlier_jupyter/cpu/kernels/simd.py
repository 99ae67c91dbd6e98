"""Emits LLVM vector code, where a loop vectoriser would not find it.

`Emitter` wraps an llvmlite builder with the dozen operations of the kernels, on vectors of any
number of lanes; LLVM turns them into AVX-512, AVX2, NEON or what the processor has. Addresses are
integers: the caller keeps the arrays alive and stays within their bounds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from llvmlite import ir
from numba.core import cgutils

from .processor import FETCHES_TO, WIDENS_F16

I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
F32, F16 = ir.FloatType(), ir.HalfType()
Value = Any
"""An LLVM value; llvmlite has no types."""


def vector(element: Any, lanes: int) -> Any:
    """The type of `lanes` × `element`; a scalar for one lane, which LLVM handles better."""
    return element if lanes == 1 else ir.VectorType(element, lanes)


def constant(value: float, element: Any, lanes: int) -> Value:
    """The same number in every lane."""
    if lanes == 1:
        return ir.Constant(element, value)
    return ir.Constant(vector(element, lanes), [value] * lanes)


class _BF16(ir.Type):  # type: ignore[misc]  # llvmlite has no types
    """LLVM's bfloat16, which llvmlite has no type for."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BF16)

    def __hash__(self) -> int:
        return hash(_BF16)


class Emitter:
    """Writes vector operations at a builder's position."""

    def __init__(self, builder: Any) -> None:
        self.builder = builder

    def integer(self, value: int) -> Value:
        """A constant of 64 bits."""
        return ir.Constant(I64, value)

    def at(self, base: Value, offset: Value | int) -> Value:
        """base + offset, in bytes."""
        if isinstance(offset, int):
            offset = self.integer(offset)
        return self.builder.add(base, offset)

    def load(self, address: Value, element: Any, lanes: int, align: int = 1) -> Value:
        """`lanes` elements at `address`."""
        kind = vector(element, lanes)
        pointer = self.builder.inttoptr(address, kind.as_pointer())
        return self.builder.load(pointer, align=align)

    def store(self, value: Value, address: Value, align: int = 4) -> None:
        """Write `value` at `address`."""
        pointer = self.builder.inttoptr(address, value.type.as_pointer())
        self.builder.store(value, pointer, align=align)

    def intrinsic(self, name: str, kind: Any, *values: Value) -> Value:
        """An intrinsic by its full name, with a result of type `kind`."""
        function = cgutils.get_or_insert_function(
            self.builder.module, ir.FunctionType(kind, [value.type for value in values]), name
        )
        return self.builder.call(function, values)

    def call(self, name: str, *values: Value) -> Value:
        """An intrinsic whose operands and result are of one type."""
        kind = values[0].type
        return self.intrinsic(f"{name}.{_mangled(kind)}", kind, *values)

    def prefetch(self, address: Value, locality: int = FETCHES_TO) -> None:
        """Prefetch the cache line at `address`; an invalid address is no fault.

        Args:
            locality: from 0, for data that is read once and soon and should evict nothing, to 3;
                by default what is fastest for weights.
        """
        # A read, locality, data cache.
        how = [ir.Constant(I32, number) for number in (0, locality, 1)]
        place = self.builder.inttoptr(address, I8.as_pointer())
        self.intrinsic("llvm.prefetch.p0i8", ir.VoidType(), place, *how)

    def fma(self, a: Value, b: Value, c: Value) -> Value:
        """a × b + c, fused where the processor can."""
        return self.call("llvm.fmuladd", a, b, c)

    def splat(self, scalar: Value, lanes: int) -> Value:
        """`scalar` in every lane."""
        if lanes == 1:
            return scalar
        kind = vector(scalar.type, lanes)
        one = self.builder.insert_element(
            ir.Constant(kind, ir.Undefined), scalar, ir.Constant(I32, 0)
        )
        return self.shuffle(one, one, [0] * lanes)

    def shuffle(self, a: Value, b: Value, order: Sequence[int]) -> Value:
        """Lanes of `a` and then `b`, picked by `order`."""
        mask = ir.Constant(ir.VectorType(I32, len(order)), list(order))
        return self.builder.shuffle_vector(a, b, mask)

    def widen(self, value: Value, lanes: int, wanted: int) -> Value:
        """The same lanes, filled up with 0 to `wanted` lanes."""
        if lanes == wanted:
            return value
        if lanes == 1:
            zeros = constant(0.0, value.type, wanted)
            return self.builder.insert_element(zeros, value, ir.Constant(I32, 0))
        zeros = constant(0.0, value.type.element, lanes)
        return self.shuffle(value, zeros, [min(lane, lanes) for lane in range(wanted)])

    def total(self, value: Value, lanes: int) -> Value:
        """The sum over all lanes."""
        while lanes > 1:
            lanes //= 2
            low = self.shuffle(value, value, list(range(lanes)))
            high = self.shuffle(value, value, list(range(lanes, 2 * lanes)))
            value = self.builder.fadd(low, high)
        if isinstance(value.type, ir.VectorType):
            value = self.builder.extract_element(value, ir.Constant(I32, 0))
        return value

    def most(self, value: Value, lanes: int) -> Value:
        """The largest of all lanes."""
        while lanes > 1:
            lanes //= 2
            low = self.shuffle(value, value, list(range(lanes)))
            high = self.shuffle(value, value, list(range(lanes, 2 * lanes)))
            value = self.call("llvm.maxnum", low, high)
        return self.builder.extract_element(value, ir.Constant(I32, 0))

    def multiply_pairs(self, a: Value, b: Value, c: Value, lanes: int) -> Value:
        """c + the products of both bfloat16 in each 32-bit lane of a and b; 8 or 16 lanes."""
        pairs = ir.VectorType(_BF16(), 2 * lanes)
        a, b = (self.builder.bitcast(each, pairs) for each in (a, b))
        return self.intrinsic(f"llvm.x86.avx512bf16.dpbf16ps.{32 * lanes}", c.type, c, a, b)

    def as_pairs(self, a: Value, b: Value) -> Value:
        """16 float32 of a and of b as bfloat16, rounded to the nearest: one of each in a lane."""
        kind = ir.VectorType(_BF16(), 32)
        name = "llvm.x86.avx512bf16.cvtne2ps2bf16.512"
        both = self.builder.bitcast(self.intrinsic(name, kind, b, a), vector(I16, 32))
        order = [place for lane in range(16) for place in (lane, 16 + lane)]
        return self.builder.bitcast(self.shuffle(both, both, order), vector(F32, 16))

    def floats(self, address: Value, kind: str, lanes: int) -> Value:
        """`lanes` numbers of type `kind` ("f32", "f16", "bf16", "e8m0") as float32."""
        wide = vector(F32, lanes)
        if kind == "f32":
            return self.load(address, F32, lanes)
        if kind == "f16":
            if not WIDENS_F16:
                half = self.load(address, I16, lanes)
                return self._f16_by_bits(self.builder.zext(half, vector(I32, lanes)), lanes)
            return self.builder.fpext(self.load(address, F16, lanes), wide)
        small, place = (I16, 16) if kind == "bf16" else (I8, 23)
        bits = self.builder.zext(self.load(address, small, lanes), vector(I32, lanes))
        return self.builder.bitcast(self.builder.shl(bits, constant(place, I32, lanes)), wide)

    def widened(self, words: Value, kind: str, lanes: int) -> list[Value]:
        """The numbers of type `kind` in each 32-bit lane, as float32: the first of each lane, …"""
        builder, wide = self.builder, vector(F32, lanes)
        if kind == "f32":
            return [builder.bitcast(words, wide)]
        found, bits = [], 8 if kind == "e8m0" else 16
        for place in range(0, 32, bits):
            small = builder.lshr(words, constant(place, I32, lanes)) if place else words
            small = builder.and_(small, constant((1 << bits) - 1, I32, lanes))
            if kind == "f16" and WIDENS_F16:
                half = builder.bitcast(builder.trunc(small, vector(I16, lanes)), vector(F16, lanes))
                found.append(builder.fpext(half, wide))
            elif kind == "f16":
                found.append(self._f16_by_bits(small, lanes))
            else:
                amount = constant(16 if kind == "bf16" else 23, I32, lanes)
                found.append(builder.bitcast(builder.shl(small, amount), wide))
        return found

    def _f16_by_bits(self, half: Value, lanes: int) -> Value:
        """Exactly `fpext` of float16: its bits in float32's places, × 2 ** 112."""
        builder, whole, wide = self.builder, vector(I32, lanes), vector(F32, lanes)

        def bits(value: int) -> Value:
            return constant(value, I32, lanes)

        sign = builder.shl(builder.and_(half, bits(0x8000)), bits(16))
        size = builder.shl(builder.and_(half, bits(0x7FFF)), bits(13))
        scaled = builder.fmul(builder.bitcast(size, wide), constant(2.0**112, F32, lanes))
        finite = builder.icmp_unsigned("<", size, bits(0x7C00 << 13))
        endless = builder.or_(size, bits(0x7F800000))
        found = builder.select(finite, builder.bitcast(scaled, whole), endless)
        return builder.bitcast(builder.or_(found, sign), wide)

    def same_bf16(self, address: Value, lanes: int) -> Value:
        """One bfloat16 as float32 in every lane: twice in each lane, the lower one masked.

        Loaded into all lanes at once, it does not pass through the integer registers.
        """
        pairs = self.splat(self.load(address, I16, 1), 2 * lanes)
        words = self.builder.bitcast(pairs, vector(I32, lanes))
        upper = self.builder.and_(words, constant(-1 << 16, I32, lanes))
        return self.builder.bitcast(upper, vector(F32, lanes))

    def variable(self, kind: Any, value: Value) -> Value:
        """A variable for a value that loops change; LLVM keeps it in a register."""
        place = cgutils.alloca_once(self.builder, kind)
        self.builder.store(value, place)
        return place

    def rows_at(
        self, base: Value, stride: Value, first: Value, count: int, apart: Value
    ) -> list[Value]:
        """Addresses of `count` rows of `stride` bytes, `apart` rows from each other."""
        builder = self.builder
        rows = (builder.add(first, builder.mul(apart, self.integer(n))) for n in range(count))
        return [self.at(base, builder.mul(stride, row)) for row in rows]

    def add_product(self, a: Value, b: Value, at: Value, lanes: int) -> None:
        """Add a × b, of `lanes` lanes, to the vector variable `at`, which may have more."""
        before = self.builder.load(at)
        wanted = before.type.count
        if lanes == wanted:
            self.builder.store(self.fma(a, b, before), at)
        else:
            product = self.widen(self.builder.fmul(a, b), lanes, wanted)
            self.builder.store(self.builder.fadd(product, before), at)

    def strides(self, count: Value, widths: Sequence[int]) -> Iterator[tuple[int, Value]]:
        """Loops over `count` items, by the first width as often as it fits, and so on to 1.

        Yields in the body of each: its width, and the number of its first item.
        """
        builder, left, first = self.builder, count, self.integer(0)
        for wide in widths:
            times = builder.udiv(left, self.integer(wide))
            with self.loop(times) as iteration:
                yield wide, builder.add(first, builder.mul(iteration, self.integer(wide)))
            done = builder.mul(times, self.integer(wide))
            left, first = builder.sub(left, done), builder.add(first, done)

    @contextmanager
    def loop(self, count: Value) -> Any:
        """A loop of `count` iterations; yields the iteration's number."""
        with cgutils.for_range(self.builder, count, intp=I64) as iteration:
            yield iteration.index


def start_function(module: Any, name: str, numbers: int) -> tuple[Emitter, Sequence[Value]]:
    """Begin a function of so many int64, never inlined: an emitter in it, and its arguments."""
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64] * numbers), name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    return Emitter(ir.IRBuilder(function.append_basic_block())), function.args


def _mangled(kind: Any) -> str:
    names = {"float": "f32", "half": "f16", "i8": "i8", "i32": "i32"}
    if isinstance(kind, ir.VectorType):
        return f"v{kind.count}{names[str(kind.element)]}"
    return names[str(kind)]
