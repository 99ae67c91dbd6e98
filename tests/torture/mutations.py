"""Changes of inputs that keep their form: of bytes, JSON, safetensors files, packed columns."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from random import Random
from typing import Any

Mutation = Callable[[bytes, Random], bytes]

INTEGERS = (
    0, 1, -1, 2, 127, 128, 255, 256, 32767, 2**15, 65535, 2**31 - 1, -(2**31), 2**31, 2**32 - 1,
    2**53, 2**53 + 1, 2**62, 2**63 - 1, -(2**63), 2**63, 2**64, 10**30,
)  # fmt: skip
TEXTS = (
    "", "x", "\ud800", "\0", "../../etc/passwd", "/dev/zero", "F32", "U8", "I16", "a" * 5000, "NaN",
    "<script>", "\u202e", "__proto__", "-", "--", "{", "'", '"', "~nobody/",
)  # fmt: skip
ODD: tuple[Any, ...] = (None, True, False, 0.5, -0.0, 1e308, float("nan"), float("inf"), [], {},
                        [[]], {"a": 1})  # fmt: skip


def any_value(rng: Random) -> Any:
    """A number, text or container from the lists above."""
    return rng.choice(rng.choice((INTEGERS, TEXTS, ODD)))


def bytes_changed(data: bytes, rng: Random) -> bytes:
    """Bytes overwritten, inserted, removed, repeated, or cut off."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(out) + 1)
        what = rng.randrange(7)
        if what == 0 and out:
            out[at % len(out)] ^= 1 << rng.randrange(8)
        elif what == 1 and out:
            out[at % len(out)] = rng.randrange(256)
        elif what == 2:
            out[at:at] = rng.randbytes(rng.randrange(1, 9))
        elif what == 3:
            del out[at : at + rng.randrange(1, 17)]
        elif what == 4:
            size = rng.choice((1, 2, 4, 8))
            out[at : at + size] = (rng.choice(INTEGERS) % 2 ** (8 * size)).to_bytes(size, "little")
        elif what == 5:
            out[at:at] = out[rng.randrange(len(out) + 1) :][: rng.randrange(1, 64)]
        elif rng.random() < 0.2:
            del out[at:]
    return bytes(out)


def json_changed(value: Any, rng: Random, depth: int = 0) -> Any:
    """A JSON value with one thing changed, somewhere within it."""
    if rng.random() < 0.15 or depth > 8:
        return any_value(rng)
    if isinstance(value, dict) and value:
        keys = list(value)
        key, what = rng.choice(keys), rng.random()
        out = dict(value)
        if what < 0.1:
            del out[key]
        elif what < 0.15:
            out[str(rng.choice(TEXTS))] = any_value(rng)
        elif what < 0.2:
            out[key] = out[rng.choice(keys)]
        else:
            out[key] = json_changed(value[key], rng, depth + 1)
        return out
    if isinstance(value, list) and value:
        at, what = rng.randrange(len(value)), rng.random()
        rows = list(value)
        if what < 0.1:
            del rows[at]
        elif what < 0.25:
            rows[at:at] = [rows[rng.randrange(len(rows))]] * rng.choice((1, 2, 50))
        else:
            rows[at] = json_changed(rows[at], rng, depth + 1)
        return rows
    if isinstance(value, str) and rng.random() < 0.5:
        changed = bytes_changed(value.encode("utf-8", "replace"), rng)
        return changed.decode("utf-8", "replace")
    if type(value) is int and rng.random() < 0.5:
        return value + rng.choice((-1, 1, 2, -value - 1, value))
    return any_value(rng)


def json_text_changed(data: bytes, rng: Random) -> bytes:
    """A JSON file with one thing changed; bytes, if it is none or now and then."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return bytes_changed(data, rng)
    if rng.random() < 0.1:
        return bytes_changed(data, rng)
    if rng.random() < 0.01:
        return b"[" * 200_000
    return json.dumps(json_changed(value, rng)).encode("utf-8", "replace")


def parts(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and data of a safetensors file.

    Raises:
        ValueError: it is none.
    """
    if len(data) < 8:
        raise ValueError("no header")
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    if not isinstance(header, dict):
        raise ValueError("no table")
    return header, data[8 + size :]


def joined(header: dict[str, Any], content: bytes) -> bytes:
    """A safetensors file."""
    text = json.dumps(header).encode("utf-8", "replace")
    return struct.pack("<Q", len(text)) + text + content


def safetensors_changed(data: bytes, rng: Random) -> bytes:
    """A safetensors file with another header, other bytes, or other numbers in a packed column."""
    try:
        header, content = parts(data)
    except (ValueError, RecursionError):
        return bytes_changed(data, rng)
    what = rng.random()
    if what < 0.1:
        return bytes_changed(data, rng)
    if what < 0.25:
        return joined(json_changed(header, rng) or {}, content)
    if what < 0.5 and isinstance(about := header.get("__metadata__"), dict) and about:
        key = rng.choice(sorted(map(str, about)))
        try:
            value = json.dumps(json_changed(json.loads(about[key]), rng))
        except (ValueError, TypeError, RecursionError, KeyError):
            value = str(any_value(rng))
        return joined({**header, "__metadata__": {**about, key: value}}, content)
    return tensor_changed(header, content, rng)


def tensor_changed(header: dict[str, Any], content: bytes, rng: Random) -> bytes:
    """The file with one tensor's bytes changed; a packed column's numbers stay packed."""
    try:
        tensors = {name: (content[slice(*entry["data_offsets"])], entry)
                   for name, entry in header.items() if name != "__metadata__"}  # fmt: skip
        name = rng.choice(sorted(tensors))
        value, entry = tensors[name]
        if "." in name and rng.random() < 0.9:
            value = column_changed(value, rng)
            entry = entry | {"shape": [len(value)]}
        else:
            size = len(value)
            value = bytes_changed(value, rng)
            value = value[:size].ljust(size, b"\0")
        tensors[name] = (value, entry)
        if rng.random() < 0.05:
            del tensors[rng.choice(sorted(tensors))]
        out, begin, whole = {}, 0, b""
        for each, (value, entry) in tensors.items():
            out[each] = entry | {"data_offsets": [begin, begin + len(value)]}
            begin, whole = begin + len(value), whole + value
    except (TypeError, KeyError, IndexError, ValueError, AttributeError):
        return joined(header, bytes_changed(content, rng))
    if "__metadata__" in header:
        out["__metadata__"] = header["__metadata__"]
    return joined(out, whole)


def column_changed(value: bytes, rng: Random) -> bytes:
    """A packed column with other numbers, another length, or another head."""
    try:
        count, size = struct.unpack("<qq", value[:16])
        planes = bytearray(zlib.decompressobj().decompress(value[16:], 1 << 20))
    except (struct.error, zlib.error):
        return bytes_changed(value, rng)
    what = rng.random()
    if what < 0.1:
        count = rng.choice((count + 1, count - 1, 2**31, 2**62, -1, 0)) % 2**63
    elif what < 0.15:
        size = rng.choice((0, 1, 2, 4, 8, 16, 2**40))
    elif what < 0.2:
        planes += bytes(1 << 20)
    else:
        planes = bytearray(bytes_changed(bytes(planes), rng))
        if rng.random() < 0.8:  # the same length: other numbers
            planes = planes[: count * size].ljust(max(0, min(count * size, 1 << 20)), b"\0")
    return struct.pack("<qq", count, size) + zlib.compress(bytes(planes), 1)


def manifest_changed(data: bytes, rng: Random) -> bytes:
    """A file of records with another manifest, whose length and checksum are right again."""
    if len(data) < 20 or rng.random() < 0.15:
        return bytes_changed(data, rng)
    size = struct.unpack("<Q", data[-20:-12])[0]
    text, records = data[-20 - size : -20], data[: -20 - size]
    text = json_text_changed(text, rng)
    return records + text + struct.pack("<QI8s", len(text), zlib.crc32(text), data[-8:])
