"""Checks a KV cache from a file: kinds, shapes and counts, before any code relies on them.

mlx-lm builds what a file names, and compiled kernels write where a cache's counters point. So the
file's names are checked before mlx-lm sees them, and every part against the model's own, which a
forward pass showed when the model was loaded.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx_lm.models import cache as caches

from ..checkpoint.layout import read_header
from ..errors import CheckpointError, OptionError
from ..paging.probe import KVPart, kv_parts

NAME = re.compile(r"\d{1,4}(\.\d{1,2}){1,6}")
"""A number of a layer, then places in its state; mlx-lm makes lists as long as these say."""
MOST_LAYERS = 2048
FLOATS = (mx.float32, mx.float16, mx.bfloat16)


def check_file(path: Path) -> None:
    """Look at a file's header.

    Raises:
        CheckpointError: it is no safetensors file, is not whole, or names what no KV cache has.
    """
    for name in read_header(path).spans:
        if not NAME.fullmatch(name) or int(name.partition(".")[0]) >= MOST_LAYERS:
            raise CheckpointError(f"{name[:40]!r} is not the name of an array in a KV cache")


def check_parts(kv: Sequence[Any], wanted: Sequence[KVPart], tokens: int) -> None:
    """Compare a model's KV cache with what it should be after `tokens` tokens.

    Args:
        wanted: the model's own cache, part by part.

    Raises:
        OptionError: it is of another kind or size, or of a kind that is not known here.
    """
    if not wanted:
        raise OptionError("this model's KV cache cannot be checked, so it is not kept in files")
    parts = kv_parts(list(kv))
    if len(parts) != len(wanted):
        raise OptionError(f"the KV cache has {len(parts)} parts, and the model's {len(wanted)}")
    for number, (part, own) in enumerate(zip(parts, wanted, strict=True)):
        check = KINDS.get(type(part))
        if check is None:
            raise OptionError(
                f"part {number} of the KV cache is a {type(part).__name__}, which cannot be kept "
                "in a file"
            )
        try:
            right = check(part, own, tokens)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):
            right = False
        if not right:
            raise OptionError(
                f"part {number} of the KV cache does not fit the model after {tokens:,} tokens"
            )


def _plain(cache: Any, own: KVPart, tokens: int) -> bool:
    heads = _two(cache.keys, cache.values, own)
    return own.kind == "KVCache" and cache.offset == tokens <= heads


def _rotating(cache: Any, own: KVPart, tokens: int) -> bool:
    rows = _two(cache.keys, cache.values, own)
    numbers = (cache.offset, cache.keep, cache.max_size, cache._idx)
    return (
        own.kind in ("KVCache", "RotatingKVCache")  # the first with `max_kv_size`
        and all(type(each) is int for each in numbers)
        and cache.offset == tokens
        and 0 <= cache.keep < cache.max_size
        and 0 <= cache._idx <= rows
        and rows >= min(tokens, cache.max_size)
    )


def _quantised(cache: Any, own: KVPart, tokens: int) -> bool:
    bits, group = cache.bits, cache.group_size
    if bits not in (2, 3, 4, 5, 6, 8) or group not in (32, 64, 128) or own.kind != "KVCache":
        return False
    rows = set()
    for part, shape in zip((cache.keys, cache.values), own.shapes.values(), strict=True):
        width = shape[3]
        widths = (width * bits // 32, width // group, width // group)
        for array, wide in zip(part, widths, strict=True):
            if (*array.shape[:2], array.shape[3]) != (*shape[:2], wide):
                return False
            rows.add(array.shape[2])
        if part[0].dtype != mx.uint32 or not all(each.dtype in FLOATS for each in part[1:]):
            return False
    return len(rows) == 1 and cache.offset == tokens <= min(rows)


def _arrays(cache: Any, own: KVPart, tokens: int) -> bool:
    found = KVPart.of(cache)
    floats = all(each is None or each.dtype in FLOATS for each in cache.cache)
    rest = cache.left_padding is None and cache.lengths is None
    return own == found and floats and rest


def _two(keys: mx.array, values: mx.array, own: KVPart) -> int:
    """The rows of keys and values; -1 if they do not match the model's."""
    for part, shape in zip((keys, values), own.shapes.values(), strict=True):
        if len(part.shape) != 4 or part.dtype not in FLOATS:
            return -1
        if (*part.shape[:2], part.shape[3]) != (*shape[:2], shape[3]):
            return -1
    return int(keys.shape[2]) if keys.shape[2] == values.shape[2] else -1


KINDS = {
    caches.KVCache: _plain,
    caches.RotatingKVCache: _rotating,
    caches.QuantizedKVCache: _quantised,
    caches.ArraysCache: _arrays,
}
