"""One pass over a token's log-probabilities: its rank, the entropy, and the n likeliest tokens.

NumPy would take a pass for each, and a sort: milliseconds for a vocabulary of 150,000. Here a
block of the row stays in the processor's cache while it is looked at in all ways.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from .arguments import float_at
from .compiled import ORDERED, cached
from .reductions import exponential, largest, parts
from .simd import F32, I32, Emitter, constant, vector

BLOCK = 64
"""Tokens that are looked at together: one that holds none of the likeliest is read as vectors."""
LANES = 8
ROWS = 64
"""Rows that are allocated together."""
FAINT = -32.0
"""A block of smaller log-probabilities is no part of the entropy: a million of them add 4e-7."""
LEAST = -87.0
"""Smaller ones count as this, so that a probability of 0 times infinity is 0."""


@intrinsic
def entropy_of(context, base, count):
    """−Σ e^x · x of `count` float32 at `base`."""

    def generate(context, builder, signature, arguments):
        emit = Emitter(builder)
        base, count = arguments
        found = emit.variable(F32, constant(0.0, F32, 1))
        for first, iterations, lanes in parts(emit, count, LANES):
            total = emit.variable(vector(F32, lanes), constant(0.0, F32, lanes))
            with emit.loop(iterations) as iteration:
                place = builder.add(first, builder.mul(iteration, emit.integer(lanes)))
                at = emit.at(base, builder.shl(place, emit.integer(2)))
                x = emit.load(at, F32, lanes, align=4)
                x = emit.call("llvm.maxnum", x, constant(LEAST, F32, lanes))
                product = builder.fmul(exponential(emit, x, lanes), x)
                builder.store(builder.fsub(builder.load(total), product), total)
            more = emit.total(builder.load(total), lanes)
            builder.store(builder.fadd(builder.load(found), more), found)
        return builder.load(found)

    return types.float32(types.int64, types.int64), generate


@intrinsic
def above(context, base, count, limit, equal):
    """How many of `count` float32 at `base` exceed `limit`, or equal it if `equal` is not 0."""

    def generate(context, builder, signature, arguments):
        emit = Emitter(builder)
        base, count, limit, equal = arguments
        too = builder.icmp_unsigned("!=", equal, emit.integer(0))
        found = emit.variable(I32, constant(0, I32, 1))
        for first, iterations, lanes in parts(emit, count, LANES):
            whole = vector(I32, lanes)
            number = emit.variable(whole, constant(0, I32, lanes))
            with emit.loop(iterations) as iteration:
                place = builder.add(first, builder.mul(iteration, emit.integer(lanes)))
                at = emit.at(base, builder.shl(place, emit.integer(2)))
                x, least = emit.load(at, F32, lanes, align=4), emit.splat(limit, lanes)
                more = builder.zext(builder.fcmp_ordered(">", x, least), whole)
                same = builder.zext(builder.fcmp_ordered(">=", x, least), whole)
                one = builder.select(too, same, more)
                builder.store(builder.add(builder.load(number), one), number)
            total = builder.load(number)
            for lane in range(lanes):
                one = total
                if lanes > 1:
                    one = builder.extract_element(total, ir.Constant(I32, lane))
                builder.store(builder.add(builder.load(found), one), found)
        return builder.load(found)

    return types.int32(types.int64, types.int64, types.float32, types.int64), generate


@lru_cache
def likeliest_loop() -> Any:
    """The compiled pass: (log-probabilities, token, n, numbers, ids, row of both)."""

    def run(
        x: npt.NDArray[np.float32], token: int, n: int, all_numbers: npt.NDArray[np.float32],
        all_ids: npt.NDArray[np.int32], row: int,
    ) -> None:  # fmt: skip
        numbers, ids = all_numbers[row], all_ids[row]
        base, count, chosen = x.ctypes.data, len(x), x[token]
        first = 3 + n
        rank, entropy, found, worst = 1, 0.0, 0, np.float32(-np.inf)
        for start in range(0, count, BLOCK):
            size, at = min(BLOCK, count - start), base + 4 * start
            most = largest(at, size)
            if not most < chosen:
                before = min(max(token - start, 0), size)
                rank += above(at, before, chosen, 1)
                rank += above(at + 4 * before, size - before, chosen, 0)
            if most > FAINT:
                entropy += entropy_of(at, size)
            if n == 0 or not most > worst:
                continue
            for i in range(size):
                value = float_at(at, i)
                if not value > worst:
                    continue
                place = min(found, n - 1)
                while place > 0 and value > numbers[first + place - 1]:
                    numbers[first + place] = numbers[first + place - 1]
                    ids[3 + place] = ids[3 + place - 1]
                    place -= 1
                numbers[first + place], ids[3 + place] = value, start + i
                found = min(found + 1, n)
                if found == n:
                    worst = numbers[first + n - 1]
        for place in range(found, n):
            numbers[first + place], ids[3 + place] = np.nan, -1
        numbers[0], ids[1], numbers[2] = chosen, rank, max(entropy, 0.0)

    row, number, out = types.float32[::1], types.int64, types.float32[:, ::1]
    signature = types.void(row, number, number, out, types.int32[:, ::1], number)
    return cached(
        lambda cache: njit(
            signature, nogil=True, cache=cache, fastmath=ORDERED, error_model="numpy",
            boundscheck=False,
        )(run)
    )  # fmt: skip


class Likeliest:
    """What log-probabilities say of a token, and which `n` are the largest."""

    def __init__(self, n: int) -> None:
        self._n = n
        self._place = ROWS
        self._run = likeliest_loop()

    def __call__(self, x: npt.NDArray[np.float32], token: int) -> npt.NDArray[np.int32]:
        """`numbers` of `events.Predicted`; of equal log-probabilities the smaller id comes first.

        Args:
            x: float32 [vocabulary], contiguous; no NaN.
            token: an index of `x`.

        Returns:
            int32 [1, 3 + 2 n].
        """
        if self._place == ROWS:  # a slice of several rows costs less than a row of its own
            self._place, self._ids = 0, np.zeros((ROWS, 3 + 2 * self._n), np.int32)
            self._numbers = self._ids.view(np.float32)
        at = self._place
        self._place += 1
        self._run(x, token, self._n, self._numbers, self._ids, at)
        return self._ids[at : at + 1]
