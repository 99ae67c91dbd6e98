"""Reads and writes numbers at addresses: kernels take all arguments from one int64 array."""

from __future__ import annotations

from functools import reduce
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .simd import F32, I32, I64, Emitter, constant, vector

VECTORS, LANES = 8, 8
"""Vectors per iteration of `read_through`, each added to its own sum, and their lanes."""
READ = 4 * VECTORS * LANES
"""Bytes per iteration."""


def _at(emit: Emitter, base: Any, index: Any, shift: int) -> Any:
    return emit.at(base, emit.builder.shl(index, emit.integer(shift)))


@intrinsic
def int_at(context, base, index):
    """The int64 number `index` at `base`."""

    def generate(context, builder, signature, arguments):
        emit = Emitter(builder)
        return emit.load(_at(emit, arguments[0], arguments[1], 3), I64, 1, align=8)

    return types.int64(types.int64, types.int64), generate


@intrinsic
def float_at(context, base, index):
    """The float32 number `index` at `base`."""

    def generate(context, builder, signature, arguments):
        emit = Emitter(builder)
        return emit.load(_at(emit, arguments[0], arguments[1], 2), F32, 1, align=4)

    return types.float32(types.int64, types.int64), generate


@intrinsic
def put_float(context, base, index, value):
    """Write a float32 as number `index` at `base`."""

    def generate(context, builder, signature, arguments):
        emit = Emitter(builder)
        base, index, value = arguments
        emit.store(value, _at(emit, base, index, 2))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.float32), generate


@intrinsic
def put_int(context, base, index, value):
    """Write an int64 as number `index` at `base`."""

    def generate(context, builder, signature, arguments):
        emit = Emitter(builder)
        base, index, value = arguments
        emit.store(value, _at(emit, base, index, 3), align=8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


@intrinsic(prefer_literal=True)
def as_float_at(context, kind, base, index):
    """Number `index` of type `kind` ("f32", "f16", "bf16") at `base`, as float32."""
    if not isinstance(kind, types.StringLiteral):
        return None
    name, shift = kind.literal_value, 2 if kind.literal_value == "f32" else 1

    def generate(context, builder, signature, arguments):
        emit = Emitter(builder)
        return emit.floats(_at(emit, arguments[1], arguments[2], shift), name, 1)

    return types.float32(kind, types.int64, types.int64), generate


@intrinsic
def read_through(context, start, iterations):
    """Read `iterations` × `READ` bytes and sum their words: the cheapest way to read memory.

    Numba's code for such a loop is slower than the memory.
    """

    def generate(context, builder, signature, arguments):
        emit, kind = Emitter(builder), vector(I32, LANES)
        sums = [emit.variable(kind, constant(0, I32, LANES)) for _ in range(VECTORS)]
        with emit.loop(arguments[1]) as iteration:
            place = emit.at(arguments[0], builder.mul(iteration, emit.integer(READ)))
            for number, at in enumerate(sums):
                found = emit.load(emit.at(place, 4 * LANES * number), I32, LANES)
                builder.store(builder.add(builder.load(at), found), at)
        total = reduce(builder.add, map(builder.load, sums))
        lanes = (builder.extract_element(total, ir.Constant(I32, i)) for i in range(LANES))
        return reduce(builder.add, lanes)

    return types.int32(types.int64, types.int64), generate


@intrinsic
def next_number(context, counter):
    """Atomically increment `counter` [1], shared by all threads, and return the value before."""

    def generate(context, builder, signature, arguments):
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        return builder.atomic_rmw("add", array.data, constant(1, I64, 1), "acq_rel")

    return types.int64(counter), generate


@intrinsic
def increment(context, base, index):
    """Atomically increment int64 number `index` at `base` and return the value before.

    A thread that sees the count also sees everything written before it (release order).
    """

    def generate(context, builder, signature, arguments):
        emit = Emitter(builder)
        place = builder.inttoptr(_at(emit, arguments[0], arguments[1], 3), I64.as_pointer())
        return builder.atomic_rmw("add", place, constant(1, I64, 1), "acq_rel")

    return types.int64(types.int64, types.int64), generate


@intrinsic
def count_at(context, base, index):
    """Int64 number `index` at `base`, and all that was written before it (acquire order)."""

    def generate(context, builder, signature, arguments):
        emit = Emitter(builder)
        place = builder.inttoptr(_at(emit, arguments[0], arguments[1], 3), I64.as_pointer())
        return builder.load_atomic(place, "acquire", 8)

    return types.int64(types.int64, types.int64), generate


@intrinsic
def call_task(context, code, arguments, number):
    """Call the task function at address `code`."""

    def generate(context, builder, signature, arguments):
        kind = ir.FunctionType(ir.VoidType(), [I64, I64])
        function = builder.inttoptr(arguments[0], kind.as_pointer())
        builder.call(function, arguments[1:])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate
