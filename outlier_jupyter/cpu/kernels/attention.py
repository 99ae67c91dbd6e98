"""Attention of one new token over the KV cache.

A task is a stretch of the cache of one head of keys: the scores of all query heads that share
it, their exponentials and the blend of the values. The thread that finishes a head's last stretch
joins them. Keys and values are read where they lie, [heads, room, width], one row a token.
"""

from __future__ import annotations

import math
import weakref
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numba import types
from numba.extending import register_jitable

from .arguments import add_done, put, put_whole, real, whole
from .compiled import RUNNING, Array, Prepared, Stage, address, task, threads, work_memory
from .formats import ITEM_BYTES, plain
from .kernel_chain import Chain, Link, link
from .linear import F32s
from .reductions import blend, exponentials, largest
from .rows import LANES, dots

STRETCH = 128
"""Tokens of a task, at least; more for long contexts, so that joining stays cheap."""
TASKS_PER_THREAD = 8

(QUERIES, KEYS, VALUES, KEY_HEAD, VALUE_HEAD, TOKENS, SHARED, WIDTH, VALUE_WIDTH, LENGTH, STRETCHES,
 SCORES, TOPS, SUMS, PARTS, OUT, DONE, SINKS) = range(18)  # fmt: skip
SPREAD = 8


@dataclass(frozen=True)
class Cached:
    """Keys or values of the tokens so far.

    Attributes:
        memory: [heads, tokens, width], float32, float16 or bfloat16 (as uint16). A head's rows
            lie one after the other; heads may be further apart, as in a cache with room to grow.
        kind: "f32", "f16" or "bf16".
        address: where the memory begins.
    """

    memory: Array
    kind: str
    address: int = field(init=False)

    def __post_init__(self) -> None:
        row = self.memory.shape[2] * ITEM_BYTES[self.kind]
        if self.memory.strides[1:] != (row, ITEM_BYTES[self.kind]):
            raise ValueError(f"rows {self.memory.strides[1:]} bytes apart, not {row}, are not read")
        object.__setattr__(self, "address", int(self.memory.ctypes.data))


(FOUND, HEADS, KV_HEADS, HEAD_WIDTH, HEAD_WIDE, SCALE, AT, TO_KEYS, TO_VALUES, KEY_STEP,
 VALUE_STEP) = range(11)  # fmt: skip
"""Of `keep_task`; steps are bytes from head to head."""


@lru_cache
def keep_task() -> int:
    """The kernel of `Keep`; a task is a head of keys, and its share of the queries."""

    def kernel(arguments: int, head: int) -> None:
        heads, kv_heads = whole(arguments, HEADS), whole(arguments, KV_HEADS)
        width, wide = whole(arguments, HEAD_WIDTH), whole(arguments, HEAD_WIDE)
        found, scale = whole(arguments, FOUND), real(whole(arguments, SCALE), 0)
        shared = heads // kv_heads * width
        for place in range(head * shared, (head + 1) * shared):
            put(found, place, real(found, place) * scale)
        key = found + 4 * (heads * width + head * width)
        value = found + 4 * ((heads + kv_heads) * width + head * wide)
        at = 4 * whole(arguments, AT)
        to_key = whole(arguments, TO_KEYS) + head * whole(arguments, KEY_STEP) + at * width
        to_value = whole(arguments, TO_VALUES) + head * whole(arguments, VALUE_STEP) + at * wide
        for i in range(width):
            put(to_key, i, real(key, i))
        for i in range(wide):
            put(to_value, i, real(value, i))

    return task(kernel)


class Keep:
    """Writes a token's keys and values into their cache, and scales its queries for `attend`.

    Args:
        found: float32, the token's queries, keys and values one after the other: [heads + heads of
            keys, width], [heads of keys, width of a value].
        scale: what scores are multiplied with.

    Attributes:
        link: what does it, once `into` has said where to.
    """

    def __init__(
        self, found: F32s, heads: int, kv_heads: int, width: int, wide: int, scale: float
    ) -> None:
        parameters = np.array([scale], np.float32)
        self.link = link(
            keep_task(), kv_heads, found, heads, kv_heads, width, wide, parameters, 0, 0, 0, 0, 0
        )
        self._keys: weakref.ref[Cached] | None = None  # a run's, which may end

    def into(self, keys: Cached, values: Cached, at: int) -> None:
        """The next token is number `at` of these, both float32."""
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
        stretches, shared = whole(arguments, STRETCHES), whole(arguments, SHARED)
        head = number_of_task // stretches
        stretch = number_of_task - head * stretches
        length, width, wide = (
            whole(arguments, LENGTH), whole(arguments, WIDTH), whole(arguments, VALUE_WIDTH)
        )  # fmt: skip
        first = stretch * length
        count = min(whole(arguments, TOKENS) - first, length)
        keys = whole(arguments, KEYS) + head * whole(arguments, KEY_HEAD) + first * width * nbytes
        values = (
            whole(arguments, VALUES) + head * whole(arguments, VALUE_HEAD) + first * wide * nbytes
        )
        row = number_of_task * shared
        scores = whole(arguments, SCORES) + 4 * row * length
        queries = whole(arguments, QUERIES) + 4 * head * shared * width
        dots(name, lanes, count, keys, width * nbytes, 0, 0, 0, shared, queries, 4 * width, 0, 0,
             width, scores, 4 * length)  # fmt: skip
        for g in range(shared):
            top = largest(scores + 4 * g * length, count)
            put(whole(arguments, TOPS), row + g, top)
            put(whole(arguments, SUMS), row + g, exponentials(scores + 4 * g * length, count, top))
        blend(kind, shared, values, wide * nbytes, scores, 4 * length, count, wide,
              whole(arguments, PARTS) + 4 * row * wide, 4 * wide)  # fmt: skip
        if add_done(whole(arguments, DONE), SPREAD * head) == stretches - 1:
            for g in range(shared):
                _join(arguments, head, g)
            put_whole(whole(arguments, DONE), SPREAD * head, 0)  # for the next token

    return task(kernel)


@register_jitable
def _join(arguments: int, head: int, g: int) -> None:
    """Put the stretches of one query head together, with its sink, if there is one."""
    stretches, shared = whole(arguments, STRETCHES), whole(arguments, SHARED)
    wide, tops, sums = whole(arguments, VALUE_WIDTH), whole(arguments, TOPS), whole(arguments, SUMS)
    first = head * stretches * shared + g
    query = head * shared + g
    sink = whole(arguments, SINKS)
    top = real(sink, query) if sink != 0 else real(tops, first)
    for stretch in range(stretches):
        top = max(top, real(tops, first + stretch * shared))
    total = math.exp(real(sink, query) - top) if sink != 0 else types.float32(0.0)
    for stretch in range(stretches):
        place = first + stretch * shared
        total += real(sums, place) * math.exp(real(tops, place) - top)
    for column in range(wide):
        found = types.float32(0.0)
        for stretch in range(stretches):
            place = first + stretch * shared
            weight = math.exp(real(tops, place) - top)
            found += weight * real(whole(arguments, PARTS), place * wide + column)
        put(whole(arguments, OUT), query * wide + column, found / total)


def _prepared(
    kind: str, heads: int, kv_heads: int, width: int, wide: int, length: int, stretches: int
) -> Prepared:
    """The kernel for stretches of a length."""
    shared, rows = heads // kv_heads, heads * stretches
    sizes = [rows * length, rows, rows, rows * wide]
    scratch, counters = work_memory(sum(sizes)), np.zeros(SPREAD * kv_heads, np.int64)
    arguments = np.zeros(SINKS + 1, np.int64)
    arguments[SHARED : STRETCHES + 1] = shared, width, wide, length, stretches
    arguments[SCORES : PARTS + 1] = np.cumsum([0, *sizes[:-1]]) * 4 + address(scratch)
    arguments[DONE] = address(counters)
    return Prepared(
        arguments, (QUERIES, OUT), 2 * rows * length * (width + wide),
        Stage(attention_task(kind), kv_heads * stretches), memory=[scratch, counters],
    )  # fmt: skip


_kept = lru_cache(maxsize=64)(_prepared)
"""For `attend`, whose callers take turns."""


def _split(tokens: int, kv_heads: int) -> tuple[int, int]:
    """How long a stretch is, and how many there are; in steps, to serve many tokens."""
    most = max(1, TASKS_PER_THREAD * threads() // kv_heads)
    length = STRETCH * max(1, -(-tokens // (most * STRETCH)))
    return length, -(-tokens // length)


def _shapes(heads: int, keys: Cached, values: Cached) -> tuple[str, int, int, int, int]:
    kv_heads, _, width = keys.memory.shape
    return keys.kind, heads, kv_heads, width, values.memory.shape[2]


def _reads(keys: Cached, values: Cached) -> tuple[int, int, int, int]:
    """Where keys and values are, and how far their heads are apart."""
    return keys.address, values.address, keys.memory.strides[0], values.memory.strides[0]


def attend(
    queries: F32s,
    keys: Cached,
    values: Cached,
    scale: float,
    sinks: F32s | None = None,
    tokens: int | None = None,
) -> F32s:
    """Attention of one token: queries [heads, width] → [heads, width of a value].

    Query head h reads head h // (heads / heads of keys); `sinks` [heads] are further scores that
    no value answers. Of keys and values the first `tokens` are read; left out, all.

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
        queries: float32, the token's, scaled, [heads × width], and whatever follows.
        out: float32 [heads × width of a value].
        sinks: as in `attend`.
    """

    def __init__(self, queries: F32s, out: F32s, heads: int, sinks: F32s | None = None) -> None:
        self._heads, self._sinks = heads, address(sinks)
        self._queries, self._out = address(queries), address(out)
        memory = (queries, out) if sinks is None else (queries, out, sinks)
        self.link = Link(0, np.zeros(1, np.int64), 0, memory)
        self._keys: weakref.ref[Cached] | None = None  # a run's, which may end
        self._served = range(0)  # how many tokens what is made ready is for
        self._prepared: Prepared | None = None

    def over(self, keys: Cached, values: Cached, tokens: int, chain: Chain, place: int) -> None:
        """Link number `place` of `chain` attends over so many tokens; with `RUNNING` held."""
        known = self._keys is not None and keys is self._keys()
        if not known or tokens not in self._served or self._prepared is None:
            length, stretches = _split(tokens, keys.memory.shape[0])
            prepared = _prepared(*_shapes(self._heads, keys, values), length, stretches)
            prepared.arguments[KEYS:TOKENS] = _reads(keys, values)
            prepared.arguments[[QUERIES, OUT, SINKS]] = self._queries, self._out, self._sinks
            code, tasks = prepared.stages[1]
            chain.replace(place, code, prepared.address, tasks)
            self._keys, self._prepared = weakref.ref(keys), prepared
            self._served = range((stretches - 1) * length + 1, stretches * length + 1)
        self._prepared.arguments[TOKENS] = tokens
