"""Attention of one new token over the KV cache.

A task is a chunk of the cache of one key head: the scores of all query heads that share it, their
exponentials and the weighted sum of the values. The thread that finishes a head's last chunk
combines them. Keys and values are read in place: [heads, room, width], one row per token.
"""

from __future__ import annotations

import math
import weakref
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numba import types
from numba.extending import register_jitable

from .arguments import float_at, increment, int_at, put_float, put_int
from .compiled import RUNNING, Array, Prepared, Stage, address, task, threads, work_memory
from .formats import ITEM_BYTES, plain
from .kernel_chain import Chain, Link, link
from .linear import F32s
from .reductions import blend, exponentials, largest
from .rows import LANES, dots

CHUNK = 128
"""The least tokens per task; more for long contexts, so that combining stays cheap."""
TASKS_PER_THREAD = 8

(QUERIES, KEYS, VALUES, KEY_HEAD, VALUE_HEAD, TOKENS, SHARED, WIDTH, VALUE_WIDTH, LENGTH, CHUNKS,
 SCORES, TOPS, SUMS, PARTS, OUT, DONE, SINKS) = range(18)  # fmt: skip
SPREAD = 8


@dataclass(frozen=True)
class Cached:
    """Keys or values of the tokens so far.

    Attributes:
        memory: [heads, tokens, width], float32, float16 or bfloat16 (as uint16). A head's rows
            are contiguous; heads may be further apart, as in a cache with spare capacity.
        kind: "f32", "f16" or "bf16".
        address: of the memory.
    """

    memory: Array
    kind: str
    address: int = field(init=False)

    def __post_init__(self) -> None:
        row = self.memory.shape[2] * ITEM_BYTES[self.kind]
        if self.memory.strides[1:] != (row, ITEM_BYTES[self.kind]):
            raise ValueError(f"rows have strides {self.memory.strides[1:]} in place of {row}")
        object.__setattr__(self, "address", int(self.memory.ctypes.data))


(FOUND, HEADS, KV_HEADS, HEAD_WIDTH, HEAD_WIDE, SCALE, AT, TO_KEYS, TO_VALUES, KEY_STEP,
 VALUE_STEP) = range(11)  # fmt: skip
"""Arguments of `append_kv_task`; steps are bytes from head to head."""


@lru_cache
def append_kv_task() -> int:
    """The kernel of `AppendKV`; a task is a key head and its share of the queries."""

    def kernel(arguments: int, head: int) -> None:
        heads, kv_heads = int_at(arguments, HEADS), int_at(arguments, KV_HEADS)
        width, wide = int_at(arguments, HEAD_WIDTH), int_at(arguments, HEAD_WIDE)
        found, scale = int_at(arguments, FOUND), float_at(int_at(arguments, SCALE), 0)
        shared = heads // kv_heads * width
        for place in range(head * shared, (head + 1) * shared):
            put_float(found, place, float_at(found, place) * scale)
        key = found + 4 * (heads * width + head * width)
        value = found + 4 * ((heads + kv_heads) * width + head * wide)
        at = 4 * int_at(arguments, AT)
        to_key = int_at(arguments, TO_KEYS) + head * int_at(arguments, KEY_STEP) + at * width
        to_value = int_at(arguments, TO_VALUES) + head * int_at(arguments, VALUE_STEP) + at * wide
        for i in range(width):
            put_float(to_key, i, float_at(key, i))
        for i in range(wide):
            put_float(to_value, i, float_at(value, i))

    return task(kernel)


class AppendKV:
    """Writes a token's keys and values into the cache, and scales its queries for `attend`.

    Args:
        found: float32, the token's queries, keys and values in one array: [heads + key heads,
            width], [key heads, value width].
        scale: factor of the scores.

    Attributes:
        link: the link of the chain; call `append_to` before it runs.
    """

    def __init__(
        self, found: F32s, heads: int, kv_heads: int, width: int, wide: int, scale: float
    ) -> None:
        parameters = np.array([scale], np.float32)
        self.link = link(
            append_kv_task(),
            kv_heads,
            found,
            heads,
            kv_heads,
            width,
            wide,
            parameters,
            0,
            0,
            0,
            0,
            0,
        )
        self._keys: weakref.ref[Cached] | None = None  # weak: freed with a run

    def append_to(self, keys: Cached, values: Cached, at: int) -> None:
        """Write the next token as number `at` of `keys` and `values`, both float32."""
        self.link.arguments[AT] = at
        if self._keys is None or keys is not self._keys():
            self._keys = weakref.ref(keys)
            self.link.arguments[TO_KEYS:] = (
                keys.address, values.address, keys.memory.strides[0], values.memory.strides[0]
            )  # fmt: skip


@lru_cache
def attention_task(kind: str, lanes: int = LANES) -> int:
    """The kernel for keys and values of type `kind`."""
    name, nbytes = plain(kind).name, ITEM_BYTES[kind]

    def kernel(arguments: int, number_of_task: int) -> None:
        chunks, shared = int_at(arguments, CHUNKS), int_at(arguments, SHARED)
        head = number_of_task // chunks
        chunk = number_of_task - head * chunks
        length, width, wide = (
            int_at(arguments, LENGTH), int_at(arguments, WIDTH), int_at(arguments, VALUE_WIDTH)
        )  # fmt: skip
        first = chunk * length
        count = min(int_at(arguments, TOKENS) - first, length)
        keys = int_at(arguments, KEYS) + head * int_at(arguments, KEY_HEAD) + first * width * nbytes
        values = (
            int_at(arguments, VALUES) + head * int_at(arguments, VALUE_HEAD) + first * wide * nbytes
        )
        row = number_of_task * shared
        scores = int_at(arguments, SCORES) + 4 * row * length
        queries = int_at(arguments, QUERIES) + 4 * head * shared * width
        dots(name, lanes, count, keys, width * nbytes, 0, 0, 0, shared, queries, 4 * width, 0, 0,
             width, scores, 4 * length)  # fmt: skip
        for g in range(shared):
            top = largest(scores + 4 * g * length, count)
            put_float(int_at(arguments, TOPS), row + g, top)
            put_float(
                int_at(arguments, SUMS), row + g, exponentials(scores + 4 * g * length, count, top)
            )
        blend(kind, shared, values, wide * nbytes, scores, 4 * length, count, wide,
              int_at(arguments, PARTS) + 4 * row * wide, 4 * wide)  # fmt: skip
        if increment(int_at(arguments, DONE), SPREAD * head) == chunks - 1:
            for g in range(shared):
                _combine(arguments, head, g)
            put_int(int_at(arguments, DONE), SPREAD * head, 0)  # for the next token

    return task(kernel)


@register_jitable
def _combine(arguments: int, head: int, g: int) -> None:
    """Combine the chunks of one query head, with its sink if there is one."""
    chunks, shared = int_at(arguments, CHUNKS), int_at(arguments, SHARED)
    wide, tops, sums = (
        int_at(arguments, VALUE_WIDTH),
        int_at(arguments, TOPS),
        int_at(arguments, SUMS),
    )
    first = head * chunks * shared + g
    query = head * shared + g
    sink = int_at(arguments, SINKS)
    top = float_at(sink, query) if sink != 0 else float_at(tops, first)
    for chunk in range(chunks):
        top = max(top, float_at(tops, first + chunk * shared))
    total = math.exp(float_at(sink, query) - top) if sink != 0 else types.float32(0.0)
    for chunk in range(chunks):
        place = first + chunk * shared
        total += float_at(sums, place) * math.exp(float_at(tops, place) - top)
    for column in range(wide):
        found = types.float32(0.0)
        for chunk in range(chunks):
            place = first + chunk * shared
            weight = math.exp(float_at(tops, place) - top)
            found += weight * float_at(int_at(arguments, PARTS), place * wide + column)
        put_float(int_at(arguments, OUT), query * wide + column, found / total)


def _prepared(
    kind: str, heads: int, kv_heads: int, width: int, wide: int, length: int, chunks: int
) -> Prepared:
    """The kernel for `chunks` chunks of `length` tokens."""
    shared, rows = heads // kv_heads, heads * chunks
    sizes = [rows * length, rows, rows, rows * wide]
    scratch, counters = work_memory(sum(sizes)), np.zeros(SPREAD * kv_heads, np.int64)
    arguments = np.zeros(SINKS + 1, np.int64)
    arguments[SHARED : CHUNKS + 1] = shared, width, wide, length, chunks
    arguments[SCORES : PARTS + 1] = np.cumsum([0, *sizes[:-1]]) * 4 + address(scratch)
    arguments[DONE] = address(counters)
    return Prepared(
        arguments, (QUERIES, OUT), 2 * rows * length * (width + wide),
        Stage(attention_task(kind), kv_heads * chunks), memory=[scratch, counters],
    )  # fmt: skip


_kept = lru_cache(maxsize=64)(_prepared)
"""For `attend`, which runs one call at a time."""


def _split(tokens: int, kv_heads: int) -> tuple[int, int]:
    """The length and number of chunks; both change in steps, so a kernel serves many tokens."""
    most = max(1, TASKS_PER_THREAD * threads() // kv_heads)
    length = CHUNK * max(1, -(-tokens // (most * CHUNK)))
    return length, -(-tokens // length)


def _shapes(heads: int, keys: Cached, values: Cached) -> tuple[str, int, int, int, int]:
    kv_heads, _, width = keys.memory.shape
    return keys.kind, heads, kv_heads, width, values.memory.shape[2]


def _reads(keys: Cached, values: Cached) -> tuple[int, int, int, int]:
    """Addresses of keys and values, and the strides of their heads."""
    return keys.address, values.address, keys.memory.strides[0], values.memory.strides[0]


def attend(
    queries: F32s,
    keys: Cached,
    values: Cached,
    scale: float,
    sinks: F32s | None = None,
    tokens: int | None = None,
) -> F32s:
    """Attention of one token: queries [heads, width] → [heads, value width].

    Query head h reads key head h // (heads / key heads). `sinks` [heads] are additional scores
    without a value. The first `tokens` keys and values are read, by default all.

    Raises:
        ValueError: the shapes do not fit each other.
    """
    heads, width = queries.shape
    kv_heads, room, key_width = keys.memory.shape
    tokens = room if tokens is None else tokens
    if heads % kv_heads or key_width != width or keys.kind != values.kind or tokens > room:
        raise ValueError(f"queries {queries.shape} do not fit keys {keys.memory.shape}")
    out = np.empty((heads, values.memory.shape[2]), np.float32)
    scaled = queries * np.float32(scale)
    with RUNNING:
        prepared = _kept(*_shapes(heads, keys, values), *_split(tokens, kv_heads))
        prepared.arguments[KEYS : TOKENS + 1] = *_reads(keys, values), tokens
        prepared.arguments[SINKS] = address(sinks)
        prepared.run(scaled, out)
    return out


class Attend:
    """`attend` in a chain.

    Args:
        queries: float32, the token's scaled queries [heads × width]; more may follow them.
        out: float32 [heads × value width].
        sinks: as in `attend`.
    """

    def __init__(self, queries: F32s, out: F32s, heads: int, sinks: F32s | None = None) -> None:
        self._heads, self._sinks = heads, address(sinks)
        self._queries, self._out = address(queries), address(out)
        memory = (queries, out) if sinks is None else (queries, out, sinks)
        self.link = Link(0, np.zeros(1, np.int64), 0, memory)
        self._keys: weakref.ref[Cached] | None = None  # weak: freed with a run
        self._served = range(0)  # numbers of tokens that the prepared kernel serves
        self._prepared: Prepared | None = None

    def over(self, keys: Cached, values: Cached, tokens: int, chain: Chain, place: int) -> None:
        """Make link number `place` of `chain` attend over `tokens` tokens; `RUNNING` is locked."""
        known = self._keys is not None and keys is self._keys()
        if not known or tokens not in self._served or self._prepared is None:
            length, chunks = _split(tokens, keys.memory.shape[0])
            prepared = _prepared(*_shapes(self._heads, keys, values), length, chunks)
            prepared.arguments[KEYS:TOKENS] = _reads(keys, values)
            prepared.arguments[[QUERIES, OUT, SINKS]] = self._queries, self._out, self._sinks
            code, tasks = prepared.stages[1]
            chain.replace(place, code, prepared.address, tasks)
            self._keys, self._prepared = weakref.ref(keys), prepared
            self._served = range((chunks - 1) * length + 1, chunks * length + 1)
        self._prepared.arguments[TOKENS] = tokens
