"""Calls of the C library from compiled code, by their addresses: system calls, and the clock."""

from __future__ import annotations

import ctypes
import sys
from functools import lru_cache

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .simd import I8, I32, I64

CLOCK = 8 if sys.platform == "darwin" else 1
"""The clock that `time.perf_counter_ns` reads: CLOCK_UPTIME_RAW, or CLOCK_MONOTONIC."""


@lru_cache
def clock_code() -> int:
    """The address of C's `clock_gettime`, for `nanoseconds`."""
    return ctypes.cast(ctypes.CDLL(None).clock_gettime, ctypes.c_void_p).value or 0


@intrinsic
def nanoseconds(context, clock):
    """The time of `time.perf_counter_ns`; `clock` is `clock_code()`."""

    def generate(context, builder, signature, arguments):
        kind = ir.FunctionType(ir.IntType(32), [ir.IntType(32), I64])
        memory = cgutils.alloca_once(builder, ir.ArrayType(I64, 2))  # not anew in a loop
        function = builder.inttoptr(arguments[0], kind.as_pointer())
        builder.call(function, [ir.IntType(32)(CLOCK), builder.ptrtoint(memory, I64)])
        both = builder.load(memory)
        seconds, rest = builder.extract_value(both, 0), builder.extract_value(both, 1)
        return builder.add(builder.mul(seconds, I64(1_000_000_000)), rest)

    return types.int64(types.int64), generate


@intrinsic
def system_call(context, code, number, a, b, c, d, e):
    """Make the system call `number`; `code` is the address of C's `syscall`. −1 if it failed."""

    def generate(context, builder, signature, arguments):
        kind = ir.FunctionType(I64, [I64], var_arg=True)
        function = builder.inttoptr(arguments[0], kind.as_pointer())
        return builder.call(function, arguments[1:])

    return types.int64(*[types.int64] * 7), generate


@intrinsic
def copy_bytes(context, to, origin, count):
    """Copy `count` bytes from one address to another; they do not overlap."""

    def generate(context, builder, signature, arguments):
        to, origin = (builder.inttoptr(each, I8.as_pointer()) for each in arguments[:2])
        cgutils.raw_memcpy(builder, to, origin, arguments[2], 1)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3), generate


@intrinsic
def crc32(context, code, before, memory, count):
    """zlib's CRC-32, at address `code`, of `count` bytes after those whose sum is `before`."""

    def generate(context, builder, signature, arguments):
        kind = ir.FunctionType(I64, [I64, I64, I32])
        function = builder.inttoptr(arguments[0], kind.as_pointer())
        return builder.call(function, [*arguments[1:3], builder.trunc(arguments[3], I32)])

    return types.int64(*[types.int64] * 4), generate
