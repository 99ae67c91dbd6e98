"""Attention over the KV cache: one token or many, causal, with sinks and a sliding window.

Keys and values are read tile by tile for all query heads that share them; scores exist for one tile
at a time, beside a running maximum and sum (flash attention). The work is cut into items: a key
head, a block of tokens and, for one token, a chunk of the cache. A task is a thread's turn, which
takes items until none is left; so its scratch memory is its own. The turn that finishes the last
chunk of a head combines its chunks.

One token's tile is multiplied with tile registers where there are some, or with query heads as the
lanes of vectors if they fit; else, and in prompts, its keys and values are unpacked to panels.
"""

from __future__ import annotations

import weakref
from functools import lru_cache
from typing import Any

import numpy as np
from numba.extending import register_jitable

from .append_kv import Cached
from .arguments import increment, int_at
from .attention_state import (
    BEFORE,
    BLOCK,
    BLOCKS,
    COUNTERS,
    KEY_STEP,
    KEYS,
    KV_HEADS,
    MORE,
    MORE_KEYS,
    MORE_QUERIES,
    OUT,
    OUT_STEP,
    PARTS,
    QUERIES,
    SCRATCH,
    SCRATCH_STEP,
    SHARED,
    SINKS,
    SPREAD,
    TILE,
    TILES,
    TOKEN_STEP,
    TOKENS,
    VALUE_STEP,
    VALUE_WIDTH,
    VALUES,
    WIDTH,
    WINDOW,
    WORKERS,
    begin,
    combine,
    end,
    end_turn,
    places,
    queries_in_lanes,
    split,
    whole_rows,
)
from .compiled import NO_ROWS, RUNNING, Prepared, Stage, address, task, threads, work_memory
from .few_rows import FEW, attend_few
from .formats import ITEM_BYTES
from .kernel_chain import Link
from .linear import F32s
from .processor import LANES, tiles_permitted
from .tile_registers import (
    attend_tiles,
    configurations,
    configure,
    fits_tiles,
    release,
    tile_queries,
)
from .tiles import PANEL, pack_keys, pack_values, pairs, product, weigh

BLOCK_ROWS = 128
"""Rows of queries, tokens × the heads that share a key head, from which a block has enough."""
CHUNKS_PER_THREAD = 16
"""Chunks of the cache for one token, of all key heads; each has at least a tile."""
EVERYTHING = 1 << 62
"""The window of attention without one."""


@lru_cache
def attention_task(kind: str) -> int:
    """The kernel for keys and values of type `kind`."""
    nbytes, paired, attend_panels = ITEM_BYTES[kind], pairs(kind), _panels(kind)

    def kernel(arguments: int, turn: int) -> None:
        counters = int_at(arguments, COUNTERS)
        kv_heads, shared = int_at(arguments, KV_HEADS), int_at(arguments, SHARED)
        width, wide = int_at(arguments, WIDTH), int_at(arguments, VALUE_WIDTH)
        before, window = int_at(arguments, BEFORE), int_at(arguments, WINDOW)
        size, blocks = int_at(arguments, BLOCK), int_at(arguments, BLOCKS)
        more, tiles = int_at(arguments, MORE), int_at(arguments, TILES)
        key_row, value_row, words = width * nbytes, wide * nbytes, (width + more) // 2
        mixed_row = -(-wide // PANEL) * PANEL * 4
        queries = int_at(arguments, SCRATCH) + turn * int_at(arguments, SCRATCH_STEP)
        in_lanes, room, scores, mixed, tops, totals, factors = places(arguments, queries)
        few = paired and size == 1 and tiles == 0 and more == 0 and shared <= FEW
        few = few and width % 4 == 0 and wide % PANEL == 0
        if tiles != 0:
            configure(tiles)
        length, chunks = split(arguments)
        item = increment(counters, 0)
        while item < kv_heads * blocks * chunks:
            pair, chunk = item // chunks, item % chunks
            block, head = blocks - 1 - pair // kv_heads, pair % kv_heads  # the longest first
            token = block * size
            rows = min(size, int_at(arguments, TOKENS) - token) * shared
            begin(arguments, head, token, rows, paired, queries, tops, totals)
            if few:
                queries_in_lanes(queries, rows, words, in_lanes)
            elif tiles != 0:
                tile_queries(queries, rows, words, in_lanes)
            first = max(0, before + token + 1 - window) + chunk * length
            last = min(before + token + rows // shared, first + length)
            keys = int_at(arguments, KEYS) + head * int_at(arguments, KEY_STEP)
            values = int_at(arguments, VALUES) + head * int_at(arguments, VALUE_STEP)
            for start in range(first, last, TILE):
                count = min(TILE, last - start)
                key, value = keys + start * key_row, values + start * value_row
                rest = int_at(arguments, MORE_KEYS) + start * more * nbytes
                if tiles != 0:
                    attend_tiles(tiles, rows, key, key_row, width, rest, more, value, value_row,
                                 wide, count, in_lanes, scores, room, room + 2 * TILE * wide,
                                 tops, totals, factors, mixed, mixed_row,
                                 start == first)  # fmt: skip
                elif few:
                    attend_few(kind, rows, key, value, key_row, value_row, count, in_lanes,
                               scores, room, tops, totals, factors, mixed, mixed_row,
                               start == first)  # fmt: skip
                else:
                    attend_panels(arguments, start, count, rows, before + token + 1, key, rest,
                                  value, queries, start == first)  # fmt: skip
            end(arguments, head, token, rows, chunk, chunks, mixed, tops, totals)
            if chunks > 1 and increment(counters, SPREAD * (2 + head)) == chunks - 1:
                combine(arguments, head, chunks, scores)
            item = increment(counters, 0)
        if tiles != 0:
            release()
        end_turn(counters, int_at(arguments, WORKERS))

    return task(kernel)


def _panels(kind: str) -> Any:
    """The function that adds a tile of any number of queries, keys and values unpacked."""
    nbytes, each = ITEM_BYTES[kind], 2 if pairs(kind) else 1

    @register_jitable
    def attend_panels(
        arguments: int, start: int, count: int, rows: int, after: int, key: int, rest: int,
        value: int, queries: int, first: bool,
    ) -> None:  # fmt: skip
        width, wide, more = (
            int_at(arguments, WIDTH), int_at(arguments, VALUE_WIDTH), int_at(arguments, MORE)
        )  # fmt: skip
        keys, values, scores, mixed, tops, totals, factors = places(arguments, queries)
        ones, shared = factors + (factors - totals), int_at(arguments, SHARED)
        row, panels = 4 // each * (width + more), -(-count // PANEL)
        pack_keys(kind, key, width * nbytes, count, width, keys)
        product(kind, rows, queries, row, width // each, keys, panels, scores, 4 * TILE, 0, value)
        if more != 0:
            pack_keys(kind, rest, more * nbytes, count, more, keys)
            product(kind, rows, queries + 4 // each * width, row, more // each, keys, panels,
                    scores, 4 * TILE, ones, value)  # fmt: skip
        weigh(kind, rows, shared, scores, 4 * TILE, count, after - start,
              int_at(arguments, WINDOW), tops, totals, factors)  # fmt: skip
        columns = -(-wide // PANEL)
        pack_values(kind, value, wide * nbytes, count, wide, values)
        product(kind, rows, scores, 4 * TILE, -(-count // each), values, columns, mixed,
                4 * PANEL * columns, 0 if first else factors,
                key + TILE * width * nbytes)  # fmt: skip

    return attend_panels


def _prepared(
    kind: str, heads: int, kv_heads: int, width: int, wide: int, tokens: int, scale: float,
    more: int = 0,
) -> Prepared:  # fmt: skip
    """The kernel for queries of `tokens` tokens; the caller sets the addresses and positions."""
    shared, workers = heads // kv_heads, threads()
    block = min(tokens, -(-BLOCK_ROWS // shared))
    rows, wide_columns = whole_rows(block * shared), -(-wide // PANEL) * PANEL
    # The scratch memory of a turn: queries, keys, values, scores, weighted values, three states
    # and ones.
    sizes = [rows * (width + more), (width + more) * TILE, TILE * wide_columns,
             rows * TILE + PANEL, rows * wide_columns, 4 * rows]  # fmt: skip
    starts = np.cumsum([0, *(-(-size // LANES) * LANES for size in sizes)]) * 4
    chunks = max(1, CHUNKS_PER_THREAD * workers // kv_heads) if tokens == 1 else 1
    parts = kv_heads * chunks * shared * (wide + 2) if tokens == 1 else 0
    scratch = work_memory(workers * int(starts[-1]) // 4 + parts + LANES)
    counters, factor = np.zeros(SPREAD * (2 + kv_heads), np.int64), np.array([scale], np.float32)
    arguments = np.zeros(TILES + 1, np.int64)
    begin = -(-address(scratch) // (4 * LANES)) * 4 * LANES  # vectors within cache lines
    arguments[MORE] = more
    arguments[TOKENS:SINKS] = (
        tokens, EVERYTHING, kv_heads, shared, width, wide, block, -(-tokens // block), chunks,
        address(factor),
    )  # fmt: skip
    arguments[PARTS:SCRATCH_STEP] = (
        begin + workers * starts[-1], address(counters), workers, begin
    )  # fmt: skip
    arguments[SCRATCH_STEP:TILES] = starts[-1], *starts[1:-1]
    set_up = None
    if tokens == 1 and pairs(kind) and tiles_permitted() and fits_tiles(width, wide, more):
        set_up = configurations()
        arguments[TILES] = address(set_up)
    arguments[[TOKEN_STEP, OUT_STEP]] = 4 * heads * width, 4 * heads * wide
    nbytes = max(2 * rows * TILE, 1 << 20)  # unknown; a second thread pays from a few tiles on
    return Prepared(
        arguments, (-1, -1), nbytes, Stage(attention_task(kind), workers),
        memory=[scratch, counters, factor, *(() if set_up is None else (set_up,))],
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
