"""The gated delta rule and the short convolution before it, for a few tokens or many.

A head keeps a matrix S [value width, key width]. A token decays it, corrects what it holds under
the token's key, and reads it with the token's query:

    S ← S·g;  S ← S + (v − S·k)·β kᵀ;  y = S·q

A row of S is read once: S·(g k) and S·(g q) are summed together, and y follows from both. A task is
a head and all tokens, whose matrix stays in the processor's cache.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic, register_jitable

from .arguments import float_at, int_at, put_float
from .compiled import Stage, run, task, work_memory
from .gating import COLUMNS, blocks_of, gate_values, sigmoid
from .kernel_chain import Link, link
from .linear import F32s
from .reductions import parts
from .simd import F32, Emitter, Value, constant, vector

EPSILON = 1e-6
"""Of the L2 norm of queries and keys."""
WIDE = 16
"""Lanes of the vectors; the processor's own are as wide or narrower."""

(NEW, NEW_STRIDE, PAST, TAPS, CHANNELS, CONVOLVED, CONVOLVED_STRIDE, LENGTH) = range(8)
(MIXED, MIXED_STRIDE, DECAY, DECAY_STRIDE, BETA, BETA_STRIDE, GATE, GATE_STRIDE, RATES, STEPS,
 STATE, SCRATCH, NORM, EPSILONS, OUT, HEADS, KEY_HEADS, KEY_WIDTH, VALUE_WIDTH,
 TOKENS) = range(20)  # fmt: skip


@intrinsic(prefer_literal=True)
def convolve(context, taps, new, new_stride, past, past_stride, weights, token, out, count):
    """out = silu(Σ taps · the token's and the previous rows), for `count` channels.

    Rows before the first of `new` are those of `past`, [taps − 1, …]; strides are bytes.
    """
    if not isinstance(taps, types.IntegerLiteral):
        return None
    many = taps.literal_value

    def generate(context, builder, signature, arguments):
        emit = Emitter(builder)
        new, new_stride, past, past_stride, weights, token, out, count = arguments[1:]
        rows = []
        for tap in range(many):
            number = builder.add(token, emit.integer(tap - many + 1))
            earlier = emit.at(
                past, builder.mul(builder.add(number, emit.integer(many - 1)), past_stride)
            )
            is_new = builder.icmp_signed(">=", number, emit.integer(0))
            row = builder.select(is_new, emit.at(new, builder.mul(number, new_stride)), earlier)
            rows.append((row, emit.at(weights, builder.mul(emit.integer(tap), past_stride))))
        for first, iterations, lanes in parts(emit, count, 8):
            with emit.loop(iterations) as iteration:
                place = builder.add(first, builder.mul(iteration, emit.integer(lanes)))
                at = builder.shl(place, emit.integer(2))
                total = constant(0.0, F32, lanes)
                for row, weight in rows:
                    x, w = (
                        emit.load(emit.at(base, at), F32, lanes, align=4) for base in (row, weight)
                    )
                    total = emit.fma(x, w, total)
                emit.store(builder.fmul(total, sigmoid(emit, total, lanes)), emit.at(out, at))
        return context.get_dummy_value()

    return types.void(taps, *[types.int64] * 8), generate


@lru_cache
def convolve_task(taps: int) -> int:
    """The kernel of a convolution over `taps` tokens; a task is a block of channels."""

    def kernel(arguments: int, block: int) -> None:
        channels, first = int_at(arguments, CHANNELS), block * COLUMNS
        count, at = min(channels - first, COLUMNS), 4 * first
        new, stride = int_at(arguments, NEW) + at, int_at(arguments, NEW_STRIDE)
        past, length = int_at(arguments, PAST) + at, int_at(arguments, LENGTH)
        for token in range(length):
            convolve(
                taps, new, stride, past, 4 * channels, int_at(arguments, TAPS) + at, token,
                int_at(arguments, CONVOLVED) + at + token * int_at(arguments, CONVOLVED_STRIDE),
                count,
            )  # fmt: skip
        for row in range(taps - 1):  # the last rows of both are the next token's past
            number = length - (taps - 1) + row
            source = new + number * stride if number >= 0 else past + 4 * channels * (row + length)
            target = past + 4 * channels * row
            for channel in range(count):
                put_float(target, channel, float_at(source, channel))

    return task(kernel)


def _load(emit: Emitter, base: Value, offset: Value, lanes: int) -> Value:
    return emit.load(emit.at(base, offset), F32, lanes, align=4)


@intrinsic
def product_of(context, a, b, count):
    """Σ a · b over `count` float32."""

    def generate(context, builder, signature, arguments):
        emit = Emitter(builder)
        a, b, count = arguments
        found = emit.variable(F32, constant(0.0, F32, 1))
        for first, iterations, lanes in parts(emit, count, WIDE):
            total = emit.variable(vector(F32, lanes), constant(0.0, F32, lanes))
            with emit.loop(iterations) as iteration:
                place = builder.add(first, builder.mul(iteration, emit.integer(lanes)))
                at = builder.shl(place, emit.integer(2))
                x, y = _load(emit, a, at, lanes), _load(emit, b, at, lanes)
                builder.store(emit.fma(x, y, builder.load(total)), total)
            whole = emit.total(builder.load(total), lanes)
            builder.store(builder.fadd(builder.load(found), whole), found)
        return builder.load(found)

    return types.float32(*[types.int64] * 3), generate


@intrinsic
def update_rows(context, state, rows, width, vectors, values, beta, overlap, out):
    """The delta rule for `rows` rows of a head's matrix; `out` gets S·q.

    Args:
        vectors: g, k, g·k and g·q, each [width], after each other.
        overlap: k·q.
    """

    def generate(context, builder, signature, arguments):
        emit = Emitter(builder)
        state, rows, width, vectors, values, beta, overlap, out = arguments
        step = builder.shl(width, emit.integer(2))
        bases = [emit.at(vectors, builder.mul(step, emit.integer(n))) for n in range(4)]
        decay, key, decayed_key, decayed_query = bases
        with emit.loop(rows) as row:
            line = emit.at(state, builder.mul(row, step))
            sums = [emit.variable(F32, constant(0.0, F32, 1)) for _ in range(2)]
            for first, iterations, lanes in parts(emit, width, WIDE):
                totals = [
                    emit.variable(vector(F32, lanes), constant(0.0, F32, lanes)) for _ in range(2)
                ]
                with emit.loop(iterations) as iteration:
                    place = builder.add(first, builder.mul(iteration, emit.integer(lanes)))
                    at = builder.shl(place, emit.integer(2))
                    part = _load(emit, line, at, lanes)
                    for base, total in zip((decayed_key, decayed_query), totals, strict=True):
                        more = emit.fma(part, _load(emit, base, at, lanes), builder.load(total))
                        builder.store(more, total)
                for total, found in zip(totals, sums, strict=True):
                    whole = emit.total(builder.load(total), lanes)
                    builder.store(builder.fadd(builder.load(found), whole), found)
            at_row = builder.shl(row, emit.integer(2))
            value = _load(emit, values, at_row, 1)
            change = builder.fmul(builder.fsub(value, builder.load(sums[0])), beta)
            for first, iterations, lanes in parts(emit, width, WIDE):
                many = emit.splat(change, lanes)
                with emit.loop(iterations) as iteration:
                    place = builder.add(first, builder.mul(iteration, emit.integer(lanes)))
                    at = builder.shl(place, emit.integer(2))
                    kept = builder.fmul(_load(emit, line, at, lanes), _load(emit, decay, at, lanes))
                    emit.store(emit.fma(many, _load(emit, key, at, lanes), kept), emit.at(line, at))
            read = emit.fma(change, overlap, builder.load(sums[1]))
            emit.store(read, emit.at(out, at_row))
        return context.get_dummy_value()

    integers = [types.int64] * 5
    return types.void(*integers, types.float32, types.float32, types.int64), generate


@register_jitable
def _decay(rate: float, x: float) -> Any:
    """e^(−rate · softplus(x))."""
    soft = x if x > types.float32(20.0) else types.float32(math.log1p(math.exp(x)))
    return types.float32(math.exp(-rate * soft))


@lru_cache
def delta_task(by_column: int, swish: int) -> int:
    """The kernel of `DeltaRule`; a task is a value head and all tokens.

    Args:
        by_column: 1 if each column of a head's matrix decays by itself, 0 if all do alike.
        swish: 1 if the output is scaled by its gate's swish, 0 by its sigmoid.
    """

    def kernel(arguments: int, head: int) -> None:
        width, wide = int_at(arguments, KEY_WIDTH), int_at(arguments, VALUE_WIDTH)
        heads, key_heads = int_at(arguments, HEADS), int_at(arguments, KEY_HEADS)
        state = int_at(arguments, STATE) + 4 * head * wide * width
        scratch = int_at(arguments, SCRATCH) + 4 * head * (5 * width + wide)
        decay, key = scratch, scratch + 4 * width
        decayed_key, decayed_query = scratch + 8 * width, scratch + 12 * width
        query, read = scratch + 16 * width, scratch + 20 * width
        key_head = head // (heads // key_heads)
        rate = float_at(int_at(arguments, RATES), head)
        epsilon = float_at(int_at(arguments, EPSILONS), 0)
        norm_epsilon = float_at(int_at(arguments, EPSILONS), 1)
        for token in range(int_at(arguments, TOKENS)):
            mixed = int_at(arguments, MIXED) + token * int_at(arguments, MIXED_STRIDE)
            q = mixed + 4 * key_head * width
            k = q + 4 * key_heads * width
            v = mixed + 4 * (2 * key_heads * width + head * wide)
            at = int_at(arguments, DECAY) + token * int_at(arguments, DECAY_STRIDE)
            b = int_at(arguments, BETA) + token * int_at(arguments, BETA_STRIDE)
            z = int_at(arguments, GATE) + token * int_at(arguments, GATE_STRIDE) + 4 * head * wide
            root = types.float32(1 / math.sqrt(width))
            q_scale = types.float32(
                root * root / math.sqrt(product_of(q, q, width) / width + epsilon)
            )
            k_scale = types.float32(root / math.sqrt(product_of(k, k, width) / width + epsilon))
            common = types.float32(0.0)
            if by_column == 0:
                step = float_at(int_at(arguments, STEPS), head)
                common = _decay(rate, float_at(at, head) + step)
            for i in range(width):
                g = common
                if by_column == 1:
                    place = head * width + i
                    g = _decay(
                        rate, float_at(at, place) + float_at(int_at(arguments, STEPS), place)
                    )
                put_float(decay, i, g)
                put_float(key, i, float_at(k, i) * k_scale)
                put_float(query, i, float_at(q, i) * q_scale)
                put_float(decayed_key, i, g * float_at(key, i))
                put_float(decayed_query, i, g * float_at(query, i))
            beta = types.float32(1.0 / (1.0 + math.exp(-float_at(b, head))))
            overlap = product_of(key, query, width)
            update_rows(state, wide, width, scratch, v, beta, overlap, read)
            scale = types.float32(1 / math.sqrt(product_of(read, read, wide) / wide + norm_epsilon))
            for i in range(wide):
                weight = float_at(int_at(arguments, NORM), i)
                put_float(read, i, float_at(read, i) * scale * weight)
            out = int_at(arguments, OUT) + 4 * (token * heads + head) * wide
            gate_values(swish, z, read, out, wide)

    return task(kernel)


class Convolution:
    """A causal convolution of each channel over a few tokens, and silu.

    Args:
        taps: float32 [taps, channels], the last of them the token's own.
    """

    def __init__(self, taps: F32s) -> None:
        self.taps = np.ascontiguousarray(taps)
        self.channels = self.taps.shape[1]
        self.code = convolve_task(len(self.taps))

    def link(self, x: F32s, out: F32s) -> Link:
        """x [channels] → out [channels] as a link; set `PAST` of its arguments before it runs."""
        made = link(self.code, blocks_of(self.channels), *self._arguments(x, 0, 0, out, 0, 1))
        return made._replace(memory=(*made.memory, x, out))

    def run(self, x: F32s, past: int, out: F32s) -> None:
        """x [tokens, channels] → out [tokens, channels], slices of contiguous rows.

        Args:
            past: address of the rows before, [taps − 1, channels], which are replaced.
        """
        made = link(
            self.code, blocks_of(self.channels),
            *self._arguments(x, x.strides[0], past, out, out.strides[0], len(x)),
        )  # fmt: skip
        run(made.arguments, x.nbytes * len(self.taps), Stage(made.code, made.tasks))

    def _arguments(
        self, x: F32s, stride: int, past: int, out: F32s, out_stride: int, tokens: int
    ) -> list[F32s | int]:
        return [
            int(x.ctypes.data), stride, past, self.taps, self.channels, int(out.ctypes.data),
            out_stride, tokens,
        ]  # fmt: skip


class DeltaRule:
    """The gated delta rule over heads, the norm of what is read, and the gate on it.

    Args:
        heads, key_heads, width, wide: value heads and key heads, and their widths.
        rates: float32 [heads], how fast a head forgets.
        steps: float32 [heads], or [heads × width] if each column decays by itself.
        norm: float32 [wide], with `epsilon`.
        swish: whether the gate is a swish, not a sigmoid.
    """

    def __init__(
        self, heads: int, key_heads: int, width: int, wide: int, rates: F32s, steps: F32s,
        norm: F32s, epsilon: float, swish: bool,
    ) -> None:  # fmt: skip
        self.heads = heads
        self._sizes = heads, key_heads, width, wide
        self._code = delta_task(int(steps.size > heads), int(swish))
        self._rates, self._steps, self._norm = rates, steps, norm
        self._epsilons = np.array([EPSILON / width, epsilon], np.float32)
        self._scratch = work_memory(heads * (5 * width + wide))
        self.nbytes = 4 * heads * width * wide

    def link(self, mixed: F32s, decay: F32s, beta: F32s, gate: F32s, out: F32s) -> Link:
        """One token as a link of a chain; set `STATE` of its arguments before it runs.

        Args:
            mixed: queries and keys [key heads, width], values [heads, wide], after the convolution.
            decay, beta: [heads or heads × width], [heads].
            gate, out: [heads, wide].
        """
        rows = mixed, decay, beta, gate
        made = self._link([(each, 0) for each in rows], 0, out, 1)
        return made._replace(memory=(*made.memory, *rows))

    def run(self, mixed: F32s, decay: F32s, beta: F32s, gate: F32s, state: int, out: F32s) -> None:
        """As `link` for tokens in rows; `state` is the address of [heads, wide, width]."""
        rows = [(each, each.strides[0]) for each in (mixed, decay, beta, gate)]
        made = self._link(rows, state, out, len(out))
        run(made.arguments, self.nbytes * len(out), Stage(made.code, made.tasks))

    def _link(self, rows: list[tuple[F32s, int]], state: int, out: F32s, tokens: int) -> Link:
        places = [int(each) for row, stride in rows for each in (row.ctypes.data, stride)]
        return link(
            self._code, self.heads, *places, self._rates, self._steps, state, self._scratch,
            self._norm, self._epsilons, out, *self._sizes, tokens,
        )  # fmt: skip


def state_places(links: int) -> list[int]:
    """Which argument of each link is the address of its state: convolutions, then the rule."""
    return [PAST] * (links - 1) + [STATE]
