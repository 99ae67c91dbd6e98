"""Causal attention of a prompt's tokens, over the cache and the prompt up to each token.

A task is a few tokens of one key head: the scores of all query heads that share it, up to the last
of these tokens; positions that a token must not see get the weight 0. The prompt is processed in
parts, so that scores take bounded memory.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numba import types
from numba.extending import register_jitable

from .arguments import float_at, int_at, put_float
from .attention import Cached
from .compiled import Stage, address, run, task
from .formats import ITEM_BYTES, plain
from .linear import F32s
from .reductions import blend, exponentials, largest
from .rows import LANES, dots

TOKENS_OF_TASK = 8
SCORES_BYTES = 1 << 25
"""Memory for the scores of one part of a prompt."""

(QUERIES, KEYS, VALUES, KEY_HEAD, VALUE_HEAD, BEFORE, SHARED, WIDTH, VALUE_WIDTH, LENGTH, BLOCKS,
 SCORES, ROOM, OUT, SINKS) = range(15)  # fmt: skip


@lru_cache
def prefill_attention_task(kind: str, lanes: int = LANES) -> int:
    """The kernel for keys and values of type `kind`."""
    name, nbytes = plain(kind).name, ITEM_BYTES[kind]

    def kernel(arguments: int, number_of_task: int) -> None:
        blocks, shared = int_at(arguments, BLOCKS), int_at(arguments, SHARED)
        length, room = int_at(arguments, LENGTH), int_at(arguments, ROOM)
        width, wide = int_at(arguments, WIDTH), int_at(arguments, VALUE_WIDTH)
        head = number_of_task // blocks
        first = (number_of_task - head * blocks) * TOKENS_OF_TASK
        last = min(length, first + TOKENS_OF_TASK)
        row, rows = (head * length + first) * shared, (last - first) * shared
        count = int_at(arguments, BEFORE) + last
        keys = int_at(arguments, KEYS) + head * int_at(arguments, KEY_HEAD)
        values = int_at(arguments, VALUES) + head * int_at(arguments, VALUE_HEAD)
        scores = int_at(arguments, SCORES) + 4 * row * room
        queries = int_at(arguments, QUERIES) + 4 * row * width
        dots(name, lanes, count, keys, width * nbytes, 0, 0, 0, rows, queries, 4 * width, 0, 0,
             width, scores, 4 * room)  # fmt: skip
        for token in range(first, last):
            for g in range(shared):
                at = scores + 4 * ((token - first) * shared + g) * room
                seen = int_at(arguments, BEFORE) + token + 1
                _weigh(at, seen, count, int_at(arguments, SINKS), head * shared + g)
        blend(kind, rows, values, wide * nbytes, scores, 4 * room, count, wide,
              int_at(arguments, OUT) + 4 * row * wide, 4 * wide)  # fmt: skip

    return task(kernel)


@register_jitable
def _weigh(scores: int, seen: int, count: int, sinks: int, head: int) -> None:
    """Replace scores by weights that sum to 1, or less with a sink; masked ones are 0."""
    top = largest(scores, seen)
    total = types.float32(0.0)
    if sinks != 0:
        top = max(top, float_at(sinks, head))
        total = types.float32(math.exp(float_at(sinks, head) - top))
    total += exponentials(scores, seen, top)
    part = types.float32(1.0) / total
    for t in range(seen):
        put_float(scores, t, float_at(scores, t) * part)
    for t in range(seen, count):
        put_float(scores, t, types.float32(0.0))


def attend_causal(
    queries: F32s, keys: Cached, values: Cached, scale: float, sinks: F32s | None = None
) -> F32s:
    """Attention of a cache's last tokens, [tokens, heads, width] → [tokens, heads, value width].

    Raises:
        ValueError: the shapes do not fit each other.
    """
    tokens, heads, width = queries.shape
    kv_heads, cached, _ = keys.memory.shape
    wide = values.memory.shape[2]
    if heads % kv_heads or keys.memory.shape[2] != width or cached < tokens:
        raise ValueError(f"queries {queries.shape} do not fit keys {keys.memory.shape}")
    shared = heads // kv_heads
    out = np.empty((tokens, heads, wide), np.float32)
    code, start = prefill_attention_task(keys.kind), 0
    while start < tokens:
        most = max(1, SCORES_BYTES // (4 * heads * cached))
        length = min(tokens - start, most)
        before = cached - tokens + start
        room = before + length
        # Key heads first, so that a task's queries are contiguous.
        part = queries[start : start + length].reshape(length, kv_heads, shared, width)
        scaled = np.ascontiguousarray(part.transpose(1, 0, 2, 3)) * np.float32(scale)
        found = np.empty((kv_heads, length, shared, wide), np.float32)
        scores = np.empty((heads * length, room), np.float32)
        blocks = -(-length // TOKENS_OF_TASK)
        arguments = np.array(
            [
                scaled.ctypes.data, keys.memory.ctypes.data, values.memory.ctypes.data,
                keys.memory.strides[0], values.memory.strides[0], before, shared, width, wide,
                length, blocks, scores.ctypes.data, room, found.ctypes.data, address(sinks),
            ],
            np.int64,
        )  # fmt: skip
        run(arguments, scores.nbytes * 4, Stage(code, kv_heads * blocks))
        out[start : start + length] = found.transpose(1, 0, 2, 3).reshape(length, heads, wide)
        start += length
    return out
