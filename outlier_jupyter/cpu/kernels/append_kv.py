"""Keys and values in the cache's own memory, and the kernel that appends a token's to them."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from .arguments import int_at
from .compiled import Array, task
from .formats import ITEM_BYTES
from .kernel_chain import link
from .linear import F32s
from .tiles import store_as


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


FOUND, KV_HEADS, WIDTH, VALUE_WIDTH, AT, TO_KEYS, TO_VALUES, KEY_STEP, VALUE_STEP = range(9)
"""Arguments of `append_kv_task`; steps are bytes from head to head."""


@lru_cache
def append_kv_task(kind: str) -> int:
    """The kernel of `AppendKV`; a task is a key head."""
    nbytes = ITEM_BYTES[kind]

    def kernel(arguments: int, head: int) -> None:
        kv_heads = int_at(arguments, KV_HEADS)
        width, wide = int_at(arguments, WIDTH), int_at(arguments, VALUE_WIDTH)
        key = int_at(arguments, FOUND) + 4 * head * width
        value = int_at(arguments, FOUND) + 4 * (kv_heads * width + head * wide)
        at = nbytes * int_at(arguments, AT)
        to_key = int_at(arguments, TO_KEYS) + head * int_at(arguments, KEY_STEP) + at * width
        to_value = int_at(arguments, TO_VALUES) + head * int_at(arguments, VALUE_STEP) + at * wide
        store_as(kind, key, width, np.float32(1.0), to_key)
        store_as(kind, value, wide, np.float32(1.0), to_value)

    return task(kernel)


class AppendKV:
    """Writes a token's keys and values into the cache.

    Args:
        found: float32, the token's keys [key heads, width], then its values [key heads, wide].
        kind: of the cache.

    Attributes:
        link: the link of the chain; call `append_to` before it runs.
    """

    def __init__(self, found: F32s, kv_heads: int, width: int, wide: int, kind: str) -> None:
        self.link = link(
            append_kv_task(kind), kv_heads, found, kv_heads, width, wide, 0, 0, 0, 0, 0
        )
        self._keys: weakref.ref[Cached] | None = None  # weak: freed with a run

    def append_to(self, keys: Cached, values: Cached, at: int) -> None:
        """Write the next token as number `at` of `keys` and `values`."""
        self.link.arguments[AT] = at
        if self._keys is None or keys is not self._keys():
            self._keys = weakref.ref(keys)
            self.link.arguments[TO_KEYS:] = (
                keys.address, values.address, keys.memory.strides[0], values.memory.strides[0]
            )  # fmt: skip
