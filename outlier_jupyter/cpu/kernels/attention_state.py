"""What a turn of attention keeps of its queries, and how chunks of the cache are combined.

All is read from and written to the kernel's arguments and a turn's scratch memory.
"""

from __future__ import annotations

import math
from typing import Any

from numba import types
from numba.extending import register_jitable

from .arguments import float_at, increment, int_at, put_float, put_int
from .few_rows import FEW
from .reductions import blend
from .tile_registers import HEADS
from .tiles import LOWEST, PANEL, store_as

TILE = 128
"""Positions of the cache that are multiplied at a time."""
SPREAD = 8

(MORE_QUERIES, MORE_KEYS, MORE, QUERIES, TOKEN_STEP, KEYS, VALUES, KEY_STEP, VALUE_STEP, BEFORE,
 TOKENS, WINDOW, KV_HEADS, SHARED,
 WIDTH, VALUE_WIDTH, BLOCK, BLOCKS, CHUNKS, SCALE, SINKS, OUT, OUT_STEP, PARTS, COUNTERS, WORKERS,
 SCRATCH, SCRATCH_STEP, KEYS_AT, VALUES_AT, SCORES_AT, MIXED_AT, STATE_AT,
 TILES) = range(34)  # fmt: skip
"""Steps are bytes; places (`_AT`) are bytes in a turn's scratch memory, which the queries begin."""


@register_jitable
def end_turn(counters: int, turns: int) -> None:
    """The last of all turns sets the counters back."""
    if increment(counters, SPREAD) == turns - 1:
        put_int(counters, 0, 0)
        put_int(counters, SPREAD, 0)


@register_jitable
def begin(
    arguments: int, head: int, token: int, rows: int, paired: bool, queries: int, tops: int,
    totals: int,
) -> None:  # fmt: skip
    """Scale the queries of one block as they are multiplied, and set the rows' states."""
    shared, width, more = (
        int_at(arguments, SHARED),
        int_at(arguments, WIDTH),
        int_at(arguments, MORE),
    )
    scale = float_at(int_at(arguments, SCALE), 0)
    size = 2 if paired else 4
    for row in range(rows):
        query_head = head * shared + row % shared
        source = int_at(arguments, QUERIES) + 4 * query_head * width
        source += (token + row // shared) * int_at(arguments, TOKEN_STEP)
        to = queries + size * (width + more) * row
        _store_query(source, width, scale, paired, to)
        if more != 0:
            source = int_at(arguments, MORE_QUERIES) + 4 * query_head * more
            _store_query(source, more, scale, paired, to + size * width)
    height = whole_rows(int_at(arguments, BLOCK) * shared)
    for row in range(height):
        put_float(tops, row, types.float32(LOWEST))
        put_float(totals, row, types.float32(0.0))
        put_float(tops, 3 * height + row, types.float32(1.0))


@register_jitable
def _store_query(source: int, width: int, scale: float, paired: bool, to: int) -> None:
    if paired:
        store_as("bf16", source, width, scale, to)
    else:
        store_as("f32", source, width, scale, to)


@register_jitable
def places(arguments: int, queries: int) -> tuple[int, int, int, int, int, int, int]:
    """Where a turn's keys, values, scores and sums are, and its rows' maxima, totals and factors.

    After the factors are as many ones.
    """
    tops = queries + int_at(arguments, STATE_AT)
    size = 4 * whole_rows(int_at(arguments, BLOCK) * int_at(arguments, SHARED))
    return (
        queries + int_at(arguments, KEYS_AT), queries + int_at(arguments, VALUES_AT),
        queries + int_at(arguments, SCORES_AT), queries + int_at(arguments, MIXED_AT),
        tops, tops + size, tops + 2 * size,
    )  # fmt: skip


@register_jitable
def whole_rows(rows: int) -> int:
    """`rows`, filled up to whole vectors of query heads."""
    return -(-rows // HEADS) * HEADS


@register_jitable
def queries_in_lanes(queries: int, rows: int, words: int, to: int) -> None:
    """Queries [rows, words] → [words, FEW]; the heads that are missing are 0."""
    for word in range(words):
        for row in range(FEW):
            value = types.float32(0.0)
            if row < rows:
                value = float_at(queries, words * row + word)
            put_float(to, FEW * word + row, value)


@register_jitable
def end(
    arguments: int, head: int, token: int, rows: int, chunk: int, chunks: int, mixed: int,
    tops: int, totals: int,
) -> None:  # fmt: skip
    """Write the results of one block, or what one chunk adds to them."""
    shared, wide = int_at(arguments, SHARED), int_at(arguments, VALUE_WIDTH)
    mixed_row = -(-wide // PANEL) * PANEL * 4
    for row in range(rows):
        weight = types.float32(1.0)
        if chunks == 1:
            query_head = head * shared + row % shared
            to = int_at(arguments, OUT) + 4 * query_head * wide
            to += (token + row // shared) * int_at(arguments, OUT_STEP)
            weight = _share(arguments, query_head, float_at(tops, row), float_at(totals, row))
        else:
            to = _part(arguments, head, chunk, row) + 8
            put_float(to - 8, 0, float_at(tops, row))
            put_float(to - 8, 1, float_at(totals, row))
        store_as("f32", mixed + row * mixed_row, wide, weight, to)


@register_jitable
def split(arguments: int) -> tuple[int, int]:
    """The length of a chunk, and the number of chunks."""
    before, most = int_at(arguments, BEFORE), int_at(arguments, CHUNKS)
    first = max(0, before + 1 - int_at(arguments, WINDOW))
    span = before + int_at(arguments, TOKENS) - first
    if most == 1:
        return span, 1
    length = TILE * -(-span // (most * TILE))
    return length, -(-span // length)


@register_jitable
def _share(arguments: int, query_head: int, top: float, total: float) -> Any:
    """The factor of a sum of values weighted by e^(score − top), of which `total` is the sum."""
    sinks = int_at(arguments, SINKS)
    if sinks == 0:
        return types.float32(1.0) / total
    sink = float_at(sinks, query_head)
    most = max(top, sink)
    mine = types.float32(math.exp(top - most))
    return mine / (total * mine + types.float32(math.exp(sink - most)))


@register_jitable
def _part(arguments: int, head: int, chunk: int, row: int) -> Any:
    """Where a row's maximum, sum and weighted values of one chunk are."""
    place = (head * int_at(arguments, CHUNKS) + chunk) * int_at(arguments, SHARED) + row
    return int_at(arguments, PARTS) + place * (4 * int_at(arguments, VALUE_WIDTH) + 8)


@register_jitable
def combine(arguments: int, head: int, chunks: int, weights: int) -> None:
    """Combine the chunks of one key head's queries; `weights` is scratch memory."""
    for row in range(int_at(arguments, SHARED)):
        _combine_row(arguments, head, row, chunks, weights)
    put_int(int_at(arguments, COUNTERS), SPREAD * (2 + head), 0)  # for the next token


@register_jitable
def _combine_row(arguments: int, head: int, row: int, chunks: int, weights: int) -> None:
    wide, query_head = int_at(arguments, VALUE_WIDTH), head * int_at(arguments, SHARED) + row
    top = types.float32(LOWEST)
    for chunk in range(chunks):
        top = max(top, float_at(_part(arguments, head, chunk, row), 0))
    total = types.float32(0.0)
    for chunk in range(chunks):
        part = _part(arguments, head, chunk, row)
        weight = types.float32(math.exp(float_at(part, 0) - top))
        total += weight * float_at(part, 1)
        put_float(weights, chunk, weight)
    share = _share(arguments, query_head, top, total)
    for chunk in range(chunks):
        put_float(weights, chunk, float_at(weights, chunk) * share)
    first = _part(arguments, head, 0, row)
    blend("f32", 1, first + 8, _part(arguments, head, 1, row) - first, weights, 0, chunks, wide,
          int_at(arguments, OUT) + 4 * query_head * wide, 0)  # fmt: skip
