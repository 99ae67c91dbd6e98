"""Attention's inner loops for one token with tile registers (AMX).

One instruction multiplies 16 rows of 32 bfloat16 with 32 rows of 16: some twenty times as many
products a second as vectors make, so that a token waits for its keys and values only. Positions are
rows of the first operand, which are read where they are; query heads, 16 at a time, are the columns
of the second. Weights are transposed and values interleaved for the second product.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, register_jitable

from .compiled import Array
from .processor import HAS_TILES
from .reductions import exponential
from .simd import F32, I8, I16, Emitter, Value, constant, start_function, vector
from .tiles import LOWEST, transposed

HEADS = 16
"""Query heads, the lanes of a vector."""
ROW = 4 * HEADS
"""Bytes of a tile's row: a number for each head, or 32 bfloat16."""
POSITIONS = 16
STEP = 32
"""Positions, or coordinates of a key, of one multiplication."""
COLUMNS = 64
"""Columns of values whose sums are in tiles at a time."""
TILE_NBYTES = POSITIONS * ROW
SUMS, LEFT, RIGHT = (0, 1, 2, 3), (4, 5), (6, 7)
CONFIGURATION = 64
"""Bytes of a configuration: of how many rows (`POSITIONS`) and bytes each tile consists."""


def configurations() -> Array:
    """uint8 [POSITIONS, 64]: number r has tiles of r + 1 positions."""
    found = np.zeros((POSITIONS, CONFIGURATION), np.uint8)
    found[:, 0] = 1
    found[:, 16:32:2] = ROW
    found[:, 48:56] = POSITIONS
    for rows, each in enumerate(found, 1):
        each[[48 + tile for tile in SUMS + LEFT]] = rows
    return found


def fits_tiles(width: int, value_width: int, more: int) -> bool:
    """Whether tiles serve keys of two parts, and values, of these widths."""
    return width % STEP == 0 and value_width % COLUMNS == 0 and more % STEP == 0


@register_jitable
def attend_tiles(
    configurations: int, heads: int, keys: int, key_row: int, width: int, more_keys: int,
    more: int, values: int, value_row: int, value_width: int, count: int, queries: int,
    scores: int, packed: int, weights: int, tops: int, totals: int, factors: int, mixed: int,
    mixed_row: int, first: bool,
) -> None:  # fmt: skip
    """Add `count` keys and values to the running sums of `heads` query heads.

    Args:
        keys, more_keys, values: bfloat16, rows of [width], [more] and [value_width].
        key_row, value_row: bytes of a row of keys and values; of a head's sums `mixed_row`.
        queries: pairs of bfloat16, [groups of HEADS, words of a key, HEADS].
        tops, totals, factors: as in `tile_weights`, [groups × HEADS].
        first: whether there is nothing before; `scores`, `packed` and `weights` are scratch memory.
    """
    steps, words = -(-count // STEP), (width + more) // 2
    for head in range(0, heads, HEADS):
        last = head + HEADS >= heads
        tile_scores(
            configurations, keys, key_row, width, more_keys, 2 * more, more, count,
            queries + 4 * head * words, scores, values, 0 if head else value_row,
        )  # fmt: skip
        tile_weights(scores, steps, tops + 4 * head, totals + 4 * head, factors + 4 * head, weights)
        if head == 0:
            tile_values(values, value_row, count, value_width, packed)
        tile_mix(
            weights, packed, steps, value_width, min(HEADS, heads - head),
            mixed + head * mixed_row, mixed_row, 0 if first else factors + 4 * head, scores,
            keys + count * key_row, count * key_row // value_width if last else 0,
        )  # fmt: skip


def _tile(emit: Emitter, name: str, *arguments: Value | int) -> None:
    """An instruction on tiles; numbers are those of tiles."""
    values = [ir.Constant(I8, each) if isinstance(each, int) else each for each in arguments]
    emit.intrinsic(f"llvm.x86.{name}", ir.VoidType(), *values)


def _pointer(emit: Emitter, address: Value) -> Value:
    return emit.builder.inttoptr(address, I8.as_pointer())


def _load(emit: Emitter, tile: int, address: Value, stride: Value | int) -> None:
    stride = emit.integer(stride) if isinstance(stride, int) else stride
    _tile(emit, "tileloadd64", tile, _pointer(emit, address), stride)


def _store(emit: Emitter, tile: int, address: Value) -> None:
    _tile(emit, "tilestored64", tile, _pointer(emit, address), emit.integer(ROW))


def _own_function(name: str, numbers: int, write: Callable[..., None]) -> Any:
    """An intrinsic of int64 that calls a function of its own, written once for a module."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Sequence[Value]) -> Any:
        module = builder.module
        if not HAS_TILES:
            return context.get_dummy_value()
        if name not in module.globals:
            emit, values = start_function(module, name, numbers)
            write(emit, *values)
            emit.builder.ret_void()
        builder.call(module.globals[name], arguments)
        return context.get_dummy_value()

    return types.void(*[types.int64] * numbers), generate


def _configure(emit: Emitter, configurations: Value) -> None:
    whole = emit.at(configurations, CONFIGURATION * (POSITIONS - 1))
    _tile(emit, "ldtilecfg", _pointer(emit, whole))


@intrinsic
def configure(context, configurations):
    """Set the tiles up, of whole size."""

    def generate(context, builder, signature, arguments):
        if HAS_TILES:
            _configure(Emitter(builder), arguments[0])
        return context.get_dummy_value()

    return types.void(types.int64), generate


@intrinsic
def release(context):
    """Give the tiles up; their content costs time whenever the system changes threads."""

    def generate(context, builder, signature, arguments):
        if HAS_TILES:
            _tile(Emitter(builder), "tilerelease")
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def tile_queries(context, queries, heads, words, out):
    """Queries [heads, words] → [groups of HEADS, words, HEADS] at `out`.

    `words` are a multiple of 16. Lanes of missing heads have what memory has: no other sees them.
    """
    return _own_function("tile_queries", 4, _queries)


def _queries(emit: Emitter, queries: Value, heads: Value, words: Value, out: Value) -> None:
    builder = emit.builder
    stride = builder.shl(words, emit.integer(2))
    groups = builder.udiv(builder.add(heads, emit.integer(HEADS - 1)), emit.integer(HEADS))
    with emit.loop(groups) as group:
        offset = builder.mul(group, builder.mul(stride, emit.integer(HEADS)))
        start, to = emit.at(queries, offset), emit.at(out, offset)
        with emit.loop(builder.udiv(words, emit.integer(HEADS))) as block:
            at = emit.at(start, builder.mul(block, emit.integer(ROW)))
            rows = [
                emit.load(emit.at(at, builder.mul(stride, emit.integer(i))), F32, HEADS)
                for i in range(HEADS)
            ]
            into = emit.at(to, builder.mul(block, emit.integer(ROW * HEADS)))
            for i, row in enumerate(transposed(emit, rows)):
                emit.store(row, emit.at(into, ROW * i))


@intrinsic
def tile_scores(
    context, configurations, keys, key_row, width, more_keys, more_row, more, count, queries, out,
    ahead, ahead_row,
):  # fmt: skip
    """Keys of `count` positions × queries → float32 [positions, HEADS] at `out`.

    Rows up to a multiple of `STEP` get scores without weight. Rows at `ahead` are prefetched.

    Args:
        keys, more_keys: bfloat16 [width] and [more], in rows of so many bytes.
        queries: pairs of bfloat16, [(width + more) / 2, HEADS].
    """
    return _own_function("tile_scores", 12, _scores)


def _scores(
    emit: Emitter, configurations: Value, keys: Value, key_row: Value, width: Value,
    more_keys: Value, more_row: Value, more: Value, count: Value, queries: Value, out: Value,
    ahead: Value, ahead_row: Value,
) -> None:  # fmt: skip
    builder = emit.builder
    columns_after = emit.at(queries, builder.mul(width, emit.integer(ROW // 2)))
    parts = ((keys, key_row, width, queries), (more_keys, more_row, more, columns_after))
    lines = builder.udiv(builder.add(ahead_row, emit.integer(ROW - 1)), emit.integer(ROW))

    def blocks(first: Value, tiles: Sequence[int], rows: Value) -> None:
        with emit.loop(rows) as row, emit.loop(lines) as line:
            number = builder.add(first, row)
            start = emit.at(ahead, builder.mul(number, ahead_row))
            emit.prefetch(emit.at(start, builder.mul(line, emit.integer(ROW))), locality=1)
        for tile in tiles:
            _tile(emit, "tilezero", tile)
        for base, stride, size, columns in parts:
            start = emit.at(base, builder.mul(first, stride))
            apart = builder.mul(stride, emit.integer(POSITIONS))
            with emit.loop(builder.udiv(size, emit.integer(STEP))) as step:
                part = builder.mul(step, emit.integer(TILE_NBYTES))
                _load(emit, RIGHT[0], emit.at(columns, part), ROW)
                at = emit.at(start, builder.mul(step, emit.integer(2 * STEP)))
                for place, tile in enumerate(tiles):
                    left = LEFT[place % 2]
                    _load(emit, left, emit.at(at, builder.mul(apart, emit.integer(place))), stride)
                    _tile(emit, "tdpbf16ps", tile, left, RIGHT[0])
        to = emit.at(out, builder.mul(first, emit.integer(ROW)))
        for place, tile in enumerate(tiles):
            _store(emit, tile, emit.at(to, place * TILE_NBYTES))

    done = emit.integer(0)
    for tiles in (SUMS, SUMS[:1]):
        size = len(tiles) * POSITIONS
        times = builder.udiv(builder.sub(count, done), emit.integer(size))
        with emit.loop(times) as time:
            first = builder.add(done, builder.mul(time, emit.integer(size)))
            blocks(first, tiles, emit.integer(size))
        done = builder.add(done, builder.mul(times, emit.integer(size)))
    left = builder.sub(count, done)
    with builder.if_then(builder.icmp_signed(">", left, emit.integer(0))):
        number = builder.mul(builder.sub(left, emit.integer(1)), emit.integer(CONFIGURATION))
        _tile(emit, "ldtilecfg", _pointer(emit, emit.at(configurations, number)))
        blocks(done, SUMS[:1], left)
        _configure(emit, configurations)
    missing = builder.and_(builder.neg(count), emit.integer(STEP - 1))
    with emit.loop(missing) as row:
        at = builder.mul(builder.add(count, row), emit.integer(ROW))
        emit.store(constant(LOWEST, F32, HEADS), emit.at(out, at))


@intrinsic
def tile_weights(context, scores, steps, tops, totals, factors, weights):
    """Scores of `STEP` positions at a time → tiles of weights, bfloat16 [HEADS, STEP] each.

    Args:
        scores: [positions, HEADS], overwritten.
        tops, totals, factors: [HEADS], the running maxima and sums, and the factors of what is
            summed before.
    """
    return _own_function("tile_weights", 6, _weights)


def _weights(
    emit: Emitter, scores: Value, steps: Value, tops: Value, totals: Value, factors: Value,
    weights: Value,
) -> None:  # fmt: skip
    builder, wide = emit.builder, vector(F32, HEADS)
    positions = builder.mul(steps, emit.integer(STEP))
    before = emit.load(tops, F32, HEADS)
    best = emit.variable(wide, before)
    with emit.loop(positions) as position:
        found = emit.load(emit.at(scores, builder.mul(position, emit.integer(ROW))), F32, HEADS)
        builder.store(emit.call("llvm.maxnum", builder.load(best), found), best)
    top = builder.load(best)
    emit.store(top, tops)
    lost = exponential(emit, builder.fsub(before, top), HEADS)
    emit.store(lost, factors)
    added = emit.variable(wide, constant(0.0, F32, HEADS))

    with emit.loop(builder.lshr(positions, emit.integer(1))) as couple:
        at = emit.at(scores, builder.mul(couple, emit.integer(2 * ROW)))
        one, other = (
            exponential(emit, builder.fsub(emit.load(place, F32, HEADS), top), HEADS, terms=6)
            for place in (at, emit.at(at, ROW))
        )
        builder.store(builder.fadd(builder.load(added), builder.fadd(one, other)), added)
        to = emit.at(scores, builder.mul(couple, emit.integer(ROW)))
        emit.store(emit.as_pairs(one, other), to)
    more = builder.load(added)
    emit.store(emit.fma(emit.load(totals, F32, HEADS), lost, more), totals)
    with emit.loop(steps) as step:
        offset = builder.mul(step, emit.integer(TILE_NBYTES))
        start = emit.at(scores, offset)
        rows = [emit.load(emit.at(start, ROW * i), F32, HEADS) for i in range(POSITIONS)]
        for i, row in enumerate(transposed(emit, rows)):
            emit.store(row, emit.at(emit.at(weights, offset), ROW * i))


@intrinsic
def tile_values(context, values, value_row, count, width, out):
    """bfloat16 values [count, width] → tiles of pairs of positions at `out`.

    They are [steps of `STEP` positions, width / 16, 16 pairs]; missing positions repeat the last.
    Of 32 columns the first tile has four of every eight, the second the others.
    """
    return _own_function("tile_values", 5, _values)


def _values(
    emit: Emitter, values: Value, value_row: Value, count: Value, width: Value, out: Value
) -> None:
    builder, lanes = emit.builder, 2 * HEADS
    last = builder.sub(count, emit.integer(1))
    steps = builder.udiv(builder.add(count, emit.integer(STEP - 1)), emit.integer(STEP))
    halves = [
        [at for lane in range(0, lanes, 8) for i in range(start, start + 4)
         for at in (lane + i, lanes + lane + i)]
        for start in (0, 4)
    ]  # fmt: skip
    groups = builder.udiv(width, emit.integer(COLUMNS))
    step_nbytes = builder.mul(width, emit.integer(TILE_NBYTES // HEADS))
    with emit.loop(steps) as step, emit.loop(emit.integer(POSITIONS)) as couple:
        number = builder.add(
            builder.mul(step, emit.integer(STEP)), builder.shl(couple, emit.integer(1))
        )
        rows = []
        for n in (number, builder.add(number, emit.integer(1))):
            n = builder.select(builder.icmp_signed("<", n, last), n, last)
            rows.append(emit.at(values, builder.mul(n, value_row)))
        to = emit.at(emit.at(out, builder.mul(step, step_nbytes)),
                     builder.mul(couple, emit.integer(ROW)))  # fmt: skip
        with emit.loop(groups) as group:
            at = builder.mul(group, emit.integer(2 * COLUMNS))
            into = emit.at(to, builder.mul(group, emit.integer(len(SUMS) * TILE_NBYTES)))
            for tile in SUMS:
                source = emit.at(at, 2 * lanes * (tile // 2))
                one, other = (emit.load(emit.at(row, source), I16, lanes) for row in rows)
                both = emit.shuffle(one, other, halves[tile % 2])
                emit.store(both, emit.at(into, tile * TILE_NBYTES))


@intrinsic
def tile_mix(
    context, weights, values, steps, width, heads, mixed, mixed_row, factors, room, ahead, nbytes
):  # fmt: skip
    """mixed [heads, width] = mixed × factors + weights × values; without `factors`, 0, the product.

    Args:
        room: scratch memory of four tiles.
        ahead: memory of `nbytes` for each column that is prefetched.
    """
    return _own_function("tile_mix", 11, _mix)


def _mix(
    emit: Emitter, weights: Value, values: Value, steps: Value, width: Value, heads: Value,
    mixed: Value, mixed_row: Value, factors: Value, room: Value, ahead: Value, nbytes: Value,
) -> None:  # fmt: skip
    builder = emit.builder
    step_nbytes = builder.mul(width, emit.integer(TILE_NBYTES // HEADS))
    none = builder.icmp_signed("==", factors, emit.integer(0))
    fetched = builder.mul(nbytes, emit.integer(COLUMNS))
    with emit.loop(builder.udiv(width, emit.integer(COLUMNS))) as group:
        fetch = emit.at(ahead, builder.mul(group, fetched))
        with emit.loop(builder.udiv(fetched, emit.integer(ROW))) as line:
            emit.prefetch(emit.at(fetch, builder.mul(line, emit.integer(ROW))), locality=1)
        start = emit.at(values, builder.mul(group, emit.integer(len(SUMS) * TILE_NBYTES)))
        for tile in SUMS:
            _tile(emit, "tilezero", tile)
        with emit.loop(steps) as step:
            part = builder.mul(step, emit.integer(TILE_NBYTES))
            _load(emit, LEFT[0], emit.at(weights, part), ROW)
            at = emit.at(start, builder.mul(step, step_nbytes))
            for place, tile in enumerate(SUMS):
                right = RIGHT[place % 2]
                _load(emit, right, emit.at(at, place * TILE_NBYTES), ROW)
                _tile(emit, "tdpbf16ps", tile, LEFT[0], right)
        for place, tile in enumerate(SUMS):
            _store(emit, tile, emit.at(room, place * TILE_NBYTES))
        to = emit.at(mixed, builder.mul(group, emit.integer(4 * COLUMNS)))
        with emit.loop(heads) as head:
            at = emit.at(room, builder.mul(head, emit.integer(ROW)))
            found = [emit.load(emit.at(at, place * TILE_NBYTES), F32, HEADS) for place in range(4)]
            place = emit.at(to, builder.mul(head, mixed_row))
            columns = _in_order(emit, *found[:2]) + _in_order(emit, *found[2:])
            outs = [emit.at(place, 4 * HEADS * i) for i in range(4)]
            with builder.if_else(none) as (then, otherwise):
                with then:
                    for value, out in zip(columns, outs, strict=True):
                        emit.store(value, out)
                with otherwise:
                    which = emit.at(factors, builder.shl(head, emit.integer(2)))
                    factor = emit.splat(emit.load(which, F32, 1, align=4), HEADS)
                    for value, out in zip(columns, outs, strict=True):
                        emit.store(emit.fma(emit.load(out, F32, HEADS), factor, value), out)


def _in_order(emit: Emitter, low: Value, high: Value) -> list[Value]:
    """32 sums in the order of their columns, from two tiles of `tile_values`."""
    order = [at for lane in range(0, HEADS, 4) for start in (lane, HEADS + lane)
             for at in range(start, start + 4)]  # fmt: skip
    return [emit.shuffle(low, high, part) for part in (order[:HEADS], order[HEADS:])]
