"""Attention over the KV cache: one token or many, causal, with sinks and a sliding window.

Keys and values are read tile by tile and unpacked once for all query heads that share them; scores
exist for one tile at a time, beside a running maximum and sum (flash attention). The work is cut
into items: a key head, a block of tokens and, for one token, a chunk of the cache. A task is a
thread's turn, which takes items until none is left; so its scratch memory is its own. The turn that
finishes the last chunk of a head combines its chunks.
"""

from __future__ import annotations

import math
import weakref
from functools import lru_cache
from typing import Any

import numpy as np
from numba import types
from numba.extending import register_jitable

from .append_kv import Cached
from .arguments import float_at, increment, int_at, put_float, put_int
from .compiled import NO_ROWS, RUNNING, Prepared, Stage, address, task, threads, work_memory
from .few_rows import FEW, attend_few
from .formats import ITEM_BYTES
from .kernel_chain import Link
from .linear import F32s
from .processor import LANES
from .reductions import blend
from .tiles import LOWEST, PANEL, pack_keys, pack_values, pairs, product, store_as, weigh

TILE = 128
"""Positions of the cache that are unpacked at a time."""
BLOCK_ROWS = 128
"""Rows of queries, tokens × the heads that share a key head, from which a block has enough."""
CHUNKS_PER_THREAD = 16
"""Chunks of the cache for one token, of all key heads; each has at least a tile."""
EVERYTHING = 1 << 62
"""The window of attention without one."""
SPREAD = 8

(MORE_QUERIES, MORE_KEYS, MORE, QUERIES, TOKEN_STEP, KEYS, VALUES, KEY_STEP, VALUE_STEP, BEFORE,
 TOKENS, WINDOW, KV_HEADS, SHARED,
 WIDTH, VALUE_WIDTH, BLOCK, BLOCKS, CHUNKS, SCALE, SINKS, OUT, OUT_STEP, PARTS, COUNTERS, WORKERS,
 SCRATCH, SCRATCH_STEP, KEYS_AT, VALUES_AT, SCORES_AT, MIXED_AT, STATE_AT) = range(33)  # fmt: skip
"""Steps are bytes; places (`_AT`) are bytes in a turn's scratch memory, which the queries begin."""


@lru_cache
def attention_task(kind: str) -> int:
    """The kernel for keys and values of type `kind`."""
    nbytes, each = ITEM_BYTES[kind], 2 if pairs(kind) else 1

    def kernel(arguments: int, turn: int) -> None:
        counters = int_at(arguments, COUNTERS)
        kv_heads, shared = int_at(arguments, KV_HEADS), int_at(arguments, SHARED)
        width, wide = int_at(arguments, WIDTH), int_at(arguments, VALUE_WIDTH)
        before, window = int_at(arguments, BEFORE), int_at(arguments, WINDOW)
        size, blocks = int_at(arguments, BLOCK), int_at(arguments, BLOCKS)
        key_row, value_row, words = width * nbytes, wide * nbytes, width // each
        mixed_row, row_bytes = -(-wide // PANEL) * PANEL * 4, 4 * (words + int_at(arguments, MORE))
        queries = int_at(arguments, SCRATCH) + turn * int_at(arguments, SCRATCH_STEP)
        packed_keys = queries + int_at(arguments, KEYS_AT)
        packed_values = queries + int_at(arguments, VALUES_AT)
        scores = queries + int_at(arguments, SCORES_AT)
        mixed = queries + int_at(arguments, MIXED_AT)
        tops = queries + int_at(arguments, STATE_AT)
        height = max(size * shared, FEW)
        totals, factors = tops + 4 * height, tops + 8 * height
        few = each == 2 and size == 1 and shared <= FEW and width % 4 == 0 and wide % PANEL == 0
        length, chunks = _split(arguments)
        item = increment(counters, 0)
        while item < kv_heads * blocks * chunks:
            pair, chunk = item // chunks, item % chunks
            block, head = blocks - 1 - pair // kv_heads, pair % kv_heads  # the longest first
            token = block * size
            rows = min(size, int_at(arguments, TOKENS) - token) * shared
            _begin(arguments, head, token, rows, each == 2, queries, tops, totals)
            if few:
                _queries_in_lanes(queries, rows, words, packed_keys)
            first = max(0, before + token + 1 - window) + chunk * length
            last = min(before + token + rows // shared, first + length)
            keys = int_at(arguments, KEYS) + head * int_at(arguments, KEY_STEP)
            values = int_at(arguments, VALUES) + head * int_at(arguments, VALUE_STEP)
            for start in range(first, last, TILE):
                count = min(TILE, last - start)
                key, value = keys + start * key_row, values + start * value_row
                if few:
                    attend_few(kind, rows, key, value, key_row, value_row, count, packed_keys,
                               scores, packed_values, tops, totals, factors, mixed, mixed_row,
                               start == first)  # fmt: skip
                    continue
                pack_keys(kind, key, key_row, count, width, packed_keys)
                product(kind, rows, queries, row_bytes, words, packed_keys, -(-count // PANEL),
                        scores, 4 * TILE, 0, value)  # fmt: skip
                _add_scores(arguments, start, count, rows, queries, tops, value)
                weigh(kind, rows, shared, scores, 4 * TILE, count, before + token + 1 - start,
                      window, tops, totals, factors)  # fmt: skip
                pack_values(kind, value, value_row, count, wide, packed_values)
                product(kind, rows, scores, 4 * TILE, -(-count // each), packed_values,
                        mixed_row // (4 * PANEL), mixed, mixed_row,
                        0 if start == first else factors, key + TILE * key_row)  # fmt: skip
            _end(arguments, head, token, rows, chunk, chunks, mixed, tops, totals)
            if chunks > 1 and increment(counters, SPREAD * (2 + head)) == chunks - 1:
                _combine(arguments, head, chunks, scores)
            item = increment(counters, 0)
        _end_turn(counters, int_at(arguments, WORKERS))

    return task(kernel)


@register_jitable
def _end_turn(counters: int, turns: int) -> None:
    """The last of all turns sets the counters back."""
    if increment(counters, SPREAD) == turns - 1:
        put_int(counters, 0, 0)
        put_int(counters, SPREAD, 0)


@register_jitable
def _begin(
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
    for row in range(rows):
        query_head = head * shared + row % shared
        source = int_at(arguments, QUERIES) + 4 * query_head * width
        source += (token + row // shared) * int_at(arguments, TOKEN_STEP)
        if paired:
            store_as("bf16", source, width, scale, queries + 2 * width * row)
        else:
            to = queries + 4 * (width + more) * row
            store_as("f32", source, width, scale, to)
            if more != 0:
                source = int_at(arguments, MORE_QUERIES) + 4 * query_head * more
                store_as("f32", source, more, scale, to + 4 * width)
    height = max(int_at(arguments, BLOCK) * shared, FEW)
    for row in range(max(rows, FEW)):
        put_float(tops, row, types.float32(LOWEST))
        put_float(totals, row, types.float32(0.0))
        put_float(tops, 3 * height + row, types.float32(1.0))


@register_jitable
def _add_scores(
    arguments: int, start: int, count: int, rows: int, queries: int, tops: int, ahead: int
) -> None:
    """Add the scores of the second part of float32 queries and keys, if any, to the first's."""
    width, more = int_at(arguments, WIDTH), int_at(arguments, MORE)
    if more == 0:
        return
    key = int_at(arguments, MORE_KEYS) + 4 * start * more
    packed = queries + int_at(arguments, KEYS_AT) + 4 * TILE * width
    ones = tops + 12 * max(int_at(arguments, BLOCK) * int_at(arguments, SHARED), FEW)
    pack_keys("f32", key, 4 * more, count, more, packed)
    product("f32", rows, queries + 4 * width, 4 * (width + more), more, packed,
            -(-count // PANEL), queries + int_at(arguments, SCORES_AT), 4 * TILE, ones,
            ahead)  # fmt: skip


@register_jitable
def _queries_in_lanes(queries: int, rows: int, words: int, to: int) -> None:
    """Queries [rows, words] → [words, FEW]; the heads that are missing are 0."""
    for word in range(words):
        for row in range(FEW):
            value = types.float32(0.0)
            if row < rows:
                value = float_at(queries, words * row + word)
            put_float(to, FEW * word + row, value)


@register_jitable
def _end(
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
def _split(arguments: int) -> tuple[int, int]:
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
def _combine(arguments: int, head: int, chunks: int, weights: int) -> None:
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


def _prepared(
    kind: str, heads: int, kv_heads: int, width: int, wide: int, tokens: int, scale: float,
    more: int = 0,
) -> Prepared:  # fmt: skip
    """The kernel for queries of `tokens` tokens; the caller sets the addresses and positions."""
    shared, workers = heads // kv_heads, threads()
    block = min(tokens, -(-BLOCK_ROWS // shared))
    rows, wide_columns = max(block * shared, FEW), -(-wide // PANEL) * PANEL
    # The scratch memory of a turn: queries, keys, values, scores, weighted values, three states
    # and ones.
    sizes = [rows * (width + more), (width + more) * TILE, TILE * wide_columns,
             rows * TILE + PANEL, rows * wide_columns, 4 * rows]  # fmt: skip
    starts = np.cumsum([0, *(-(-size // LANES) * LANES for size in sizes)]) * 4
    chunks = max(1, CHUNKS_PER_THREAD * workers // kv_heads) if tokens == 1 else 1
    parts = kv_heads * chunks * shared * (wide + 2) if tokens == 1 else 0
    scratch = work_memory(workers * int(starts[-1]) // 4 + parts + LANES)
    counters, factor = np.zeros(SPREAD * (2 + kv_heads), np.int64), np.array([scale], np.float32)
    arguments = np.zeros(STATE_AT + 1, np.int64)
    begin = -(-address(scratch) // (4 * LANES)) * 4 * LANES  # vectors within cache lines
    arguments[MORE] = more
    arguments[TOKENS:SINKS] = (
        tokens, EVERYTHING, kv_heads, shared, width, wide, block, -(-tokens // block), chunks,
        address(factor),
    )  # fmt: skip
    arguments[PARTS:SCRATCH_STEP] = (
        begin + workers * starts[-1], address(counters), workers, begin
    )  # fmt: skip
    arguments[SCRATCH_STEP:] = starts[-1], *starts[1:-1]
    arguments[[TOKEN_STEP, OUT_STEP]] = 4 * heads * width, 4 * heads * wide
    nbytes = max(2 * rows * TILE, 1 << 20)  # unknown; a second thread pays from a few tiles on
    return Prepared(
        arguments, (-1, -1), nbytes, Stage(attention_task(kind), workers),
        memory=[scratch, counters, factor],
    )  # fmt: skip


def _over(keys: Cached, values: Cached) -> tuple[int, int, int, int]:
    """Addresses of keys and values, and the strides of their heads."""
    return keys.address, values.address, keys.memory.strides[0], values.memory.strides[0]


def attend(
    queries: F32s,
    keys: Cached,
    values: Cached,
    scale: float,
    sinks: F32s | None = None,
    tokens: int | None = None,
    window: int = EVERYTHING,
) -> F32s:
    """Causal attention of a cache's last tokens: [rows, heads, width] → [rows, heads, value width].

    Query head h reads key head h // (heads / key heads). A token sees itself and what is before it.

    Args:
        queries: float32; each row's heads are contiguous, rows may be further apart.
        sinks: [heads], additional scores without a value.
        tokens: how many keys and values are read, by default all; the last ones are the queries'.
        window: how many positions a token sees, its own included.

    Raises:
        ValueError: the shapes do not fit each other.
    """
    rows, heads, width = queries.shape
    kv_heads, room, key_width = keys.memory.shape
    tokens = room if tokens is None else tokens
    fits = key_width == width and keys.kind == values.kind and rows <= tokens <= room
    if heads % kv_heads or not fits or width % 2:
        raise ValueError(f"queries {queries.shape} do not fit keys {keys.memory.shape}")
    out = np.empty((rows, heads, values.memory.shape[2]), np.float32)
    with RUNNING:
        prepared = _prepared(keys.kind, heads, kv_heads, width, out.shape[2], rows, scale)
        arguments = prepared.arguments
        arguments[KEYS : BEFORE + 1] = *_over(keys, values), tokens - rows
        arguments[[TOKEN_STEP, WINDOW, SINKS]] = queries.strides[0], window, address(sinks)
        arguments[[QUERIES, OUT]] = queries.ctypes.data, address(out)
        prepared.run(NO_ROWS, NO_ROWS)
    return out


class Attend:
    """One token's attention in a chain.

    Args:
        queries: float32, the token's queries [heads × width]; more may follow them.
        out: float32 [heads × value width].
        scale, sinks, window: as in `attend`.
        kind: of the cache.
        more: float32 [heads × some width], a second part of the queries, for keys that all heads
            share and float32 caches.

    Attributes:
        link: the link of the chain; call `over` before it runs.
    """

    def __init__(
        self, queries: F32s, out: F32s, heads: int, kv_heads: int, width: int, kind: str,
        scale: float, sinks: F32s | None = None, window: int = EVERYTHING,
        more: F32s | None = None,
    ) -> None:  # fmt: skip
        size = 0 if more is None else more.size // heads
        prepared = _prepared(kind, heads, kv_heads, width, out.size // heads, 1, scale, size)
        arguments = prepared.arguments
        arguments[[QUERIES, OUT, SINKS, WINDOW]] = (
            address(queries), address(out), address(sinks), window
        )  # fmt: skip
        arguments[MORE_QUERIES] = address(more)
        code, tasks = prepared.stages[1]
        used = (each for each in (queries, out, sinks, more) if each is not None)
        memory = (*prepared.memory, *used)
        self.link = Link(code, arguments, tasks, memory)
        self._keys: weakref.ref[Cached] | None = None  # weak: freed with a run

    def over(self, keys: Cached, values: Cached, tokens: int, more: Cached | None = None) -> None:
        """Attend over the first `tokens` keys and values, the token's own the last of them.

        Args:
            more: the second part of the keys.
        """
        if self._keys is None or keys is not self._keys():
            self.link.arguments[MORE_KEYS] = 0 if more is None else more.address
            self.link.arguments[KEYS:BEFORE] = _over(keys, values)
            self._keys = weakref.ref(keys)
        self.link.arguments[BEFORE] = tokens - 1
