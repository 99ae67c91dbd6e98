"""Packs columns of integers for a file: deflated differences, in the narrowest integers that fit.

Steps, layers and start times hardly change from row to row, so differences compress better, with
bytes of equal significance stored together. Unpacking never exceeds the length that the caller
allows.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Arrays = dict[str, npt.NDArray[Any]]
Columns = dict[str, npt.NDArray[np.int64]]

HEAD = 16
"""Bytes of the header: the number of values, and the bytes of each."""


def deflate(column: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """A column of integers as bytes: the header, and the deflated differences from 0 on."""
    values = column.astype(np.int64)
    steps = np.diff(values, prepend=0)
    size = next(n for n in (1, 2, 4, 8) if _fits(steps, n))
    planes = steps.astype(f"<i{size}").view(np.uint8).reshape(-1, size).T
    head = np.array([len(values), size], "<i8").tobytes()
    return np.frombuffer(head + zlib.compress(planes.tobytes(), 6), np.uint8)


def _fits(values: npt.NDArray[np.int64], size: int) -> bool:
    if not len(values):
        return True
    limit = np.iinfo(f"i{size}")
    return bool(limit.min <= values.min() and values.max() <= limit.max)


def length(name: str, data: npt.NDArray[Any]) -> int:
    """The number of values in a packed column's header.

    Raises:
        ValueError: not a packed column.
    """
    if data.dtype != np.uint8 or data.ndim != 1 or len(data) < HEAD:
        raise ValueError(f"`{name}` is not a packed column")
    count, size = np.frombuffer(data[:HEAD].tobytes(), "<i8").tolist()
    if count < 0 or size not in (1, 2, 4, 8):
        raise ValueError(f"the header of `{name}` has {count} values of {size} bytes")
    return int(count)


def inflate(name: str, data: npt.NDArray[Any], count: int) -> npt.NDArray[np.int64]:
    """The `count` values of a packed column.

    Raises:
        ValueError: not a packed column, or of another length.
    """
    if length(name, data) != count:
        raise ValueError(f"`{name}` has {length(name, data):,} values: {count:,} expected")
    raw = data.tobytes()
    size = int(np.frombuffer(raw[8:HEAD], "<i8")[0])
    decompressor = zlib.decompressobj()
    try:
        found = decompressor.decompress(raw[HEAD:], count * size + 1)
    except zlib.error as error:
        raise ValueError(f"`{name}` cannot be unpacked ({error})") from error
    if len(found) != count * size or not decompressor.eof:
        raise ValueError(f"`{name}` does not unpack to {count:,} values")
    planes = np.frombuffer(found, np.uint8).reshape(size, count)
    steps = np.ascontiguousarray(planes.T).view(f"<i{size}").ravel()
    return np.asarray(np.cumsum(steps, dtype=np.int64))


def columns_of(
    table: str, kind: np.dtype[np.void], arrays: Mapping[str, Any], most: int
) -> Columns | None:
    """The unpacked columns of a table; None if one is missing.

    Args:
        most: the most rows allowed.

    Raises:
        ValueError: more rows than that, or columns of different lengths.
    """
    packed = {name: arrays.get(f"{table}.{name}") for name in kind.names or ()}
    if any(column is None for column in packed.values()):
        return None
    whole = {name: column for name, column in packed.items() if column is not None}
    rows = length(f"{table}.{next(iter(whole))}", next(iter(whole.values())))
    if rows > most:
        raise ValueError(f"`{table}` has {rows:,} rows: at most {most:,} expected")
    return {name: inflate(f"{table}.{name}", column, rows) for name, column in whole.items()}


def table_of(kind: np.dtype[np.void], columns: Columns | None) -> npt.NDArray[np.void]:
    """Columns as one structured array; their values must fit its types. None gives an empty one."""
    if columns is None:
        return np.zeros(0, kind)
    names = kind.names or ()
    table = np.zeros(len(columns[names[0]]), kind)
    for name in names:
        table[name] = columns[name]
    return table
