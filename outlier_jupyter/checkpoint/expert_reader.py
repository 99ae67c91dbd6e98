"""Reads one expert's tensors into the caller's memory, whatever their layout on disk.

Contiguous bytes are read directly into their place, adjacent ranges with one read. Other layouts
(transposed, interleaved, side by side with another tensor's) are read in bands of a few megabytes
into one buffer per thread and copied from there; tensors that share bytes share the read.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from weakref import WeakSet

import numpy as np

from ..system.huge_pages import buffer
from .array_views import Piece, Shape, is_packed, packed
from .layout import ByteRange, ExpertPart, RecordSpan
from .readers import PAGE, Reader

BAND_NBYTES = 4 << 20
"""Bytes of a band, which is read at once and then copied in order: a buffer per thread."""


class CopiedRange(NamedTuple):
    """Bytes of `part` that go unchanged to `begin` in its memory."""

    where: ByteRange
    part: str
    begin: int


class Walk(NamedTuple):
    """Elements of `part` to be copied one by one: a box with its strides in the file and in memory.

    Attributes:
        source: the box in the file; `source.at` is unused.
        begin, strides: the box in the part's memory, in bytes.
    """

    part: str
    itemsize: int
    source: Piece
    begin: int
    strides: Shape

    @property
    def slowest(self) -> int:
        """The axis with the largest stride in the file."""
        strides = self.source.strides
        return max(range(len(strides)), key=lambda axis: strides[axis])

    @property
    def track(self) -> tuple[Path, int, int]:
        """What walks in the same bands share: file, stride and length of an axis."""
        axis = self.slowest
        return self.source.file, self.source.strides[axis], self.source.shape[axis]


def read_expert(
    reader: Reader,
    parts: Sequence[ExpertPart],
    expert: int,
    memory: Callable[[str], memoryview],
) -> int:
    """Read `expert` of every part into `memory(part's name)`; return the bytes of the expert.

    Raises:
        ReadFailed: from the reader.
    """
    # Called once per part: a bank that stages its rows returns new memory each time.
    rows = {part.name: memory(part.name) for part in parts}
    walks: list[Walk] = []
    ranges: list[CopiedRange] = []
    record: RecordSpan | None = None
    for part in parts:
        if part.in_memory is not None:
            rows[part.name][:] = part.in_memory[expert * part.nbytes : (expert + 1) * part.nbytes]
            continue
        if part.record is not None:
            record = part.record
            continue
        where = part.range_of(expert)
        if where is not None:
            ranges.append(CopiedRange(where, part.name, 0))
            continue
        for copy in _copies(part, expert):
            if isinstance(copy, Walk):
                walks.append(copy)
            else:
                ranges.append(copy)
    if record is not None:
        reader.scatter(record.at(expert), [rows[name] for name in record.names])
    for run in _runs(ranges):
        views = [rows[name][begin : begin + where.nbytes] for where, name, begin in run]
        (file, offset, _), last = run[0].where, run[-1].where
        if len(run) == 1:
            reader.read(last, views[0])
        else:
            reader.scatter(ByteRange(file, offset, last.offset + last.nbytes - offset), views)
    for together in _sharing_bytes(walks):
        _copy_in_bands(reader, together, rows)
    return sum(part.nbytes for part in parts)


def _copies(part: ExpertPart, expert: int) -> Iterator[CopiedRange | Walk]:
    itemsize = part.view.itemsize
    whole = packed(part.shape, itemsize)
    for piece in part.row(expert):
        begin = sum(n * stride for n, stride in zip(piece.at, whole, strict=True))
        if is_packed(piece.shape, piece.strides, itemsize) and is_packed(
            piece.shape, whole, itemsize
        ):
            nbytes = itemsize * math.prod(piece.shape)
            yield CopiedRange(ByteRange(piece.file, piece.offset, nbytes), part.name, begin)
        else:
            yield Walk(part.name, itemsize, piece, begin, whole)


def _runs(ranges: list[CopiedRange]) -> Iterator[list[CopiedRange]]:
    """Group ranges that are adjacent in a file."""
    ranges.sort(key=lambda copy: (str(copy.where.file), copy.where.offset))
    run: list[CopiedRange] = []
    for copy in ranges:
        if run:
            file, offset, nbytes = run[-1].where
            if copy.where[:2] != (file, offset + nbytes):
                yield run
                run = []
        run.append(copy)
    if run:
        yield run


def _sharing_bytes(walks: list[Walk]) -> Iterator[list[Walk]]:
    """Group walks that go through the same bytes in the same steps."""
    walks.sort(key=lambda walk: (*map(str, walk.track), walk.source.offset))
    together: list[Walk] = []
    for walk in walks:
        if together:
            first = together[0]
            step = first.track[1]
            near = walk.source.offset - first.source.offset < step
            if walk.track != first.track or not near:
                yield together
                together = []
        together.append(walk)
    if together:
        yield together


def _copy_in_bands(reader: Reader, walks: list[Walk], rows: Mapping[str, memoryview]) -> None:
    file, step, count = walks[0].track
    low = min(walk.source.offset for walk in walks)
    high = max(_end(walk) for walk in walks)  # of the first step
    height = max(1, BAND_NBYTES // step)
    for first in range(0, count, height):
        steps = min(height, count - first)
        begin, end = low + first * step, high + (first + steps - 1) * step
        band = _buffer(end - begin)
        reader.read(ByteRange(file, begin, end - begin), band)
        for walk in walks:
            _copy(walk, band, begin, first, steps, rows[walk.part])


def _end(walk: Walk) -> int:
    """The end of the walk's first step along its slowest axis, in bytes of the file."""
    reach = sum(
        (n - 1) * stride
        for axis, (n, stride) in enumerate(zip(walk.source.shape, walk.source.strides, strict=True))
        if axis != walk.slowest
    )
    return walk.source.offset + reach + walk.itemsize


def _copy(
    walk: Walk, band: memoryview, begin: int, first: int, steps: int, into: memoryview
) -> None:
    axis = walk.slowest
    shape = (*walk.source.shape[:axis], steps, *walk.source.shape[axis + 1 :])
    dtype = np.dtype(f"u{walk.itemsize}")
    source = np.ndarray(
        shape,
        dtype,
        band,
        walk.source.offset + first * walk.source.strides[axis] - begin,
        walk.source.strides,
    )
    target = np.ndarray(shape, dtype, into, walk.begin + first * walk.strides[axis], walk.strides)
    np.copyto(target, source)


class _Buffer:
    """A thread's memory for bands, freed when the thread ends and counted until then."""

    def __init__(self, nbytes: int) -> None:
        self.memory = buffer(nbytes)


_buffers = threading.local()
_alive: WeakSet[_Buffer] = WeakSet()


def buffers_nbytes() -> int:
    """Bytes of all threads' band buffers."""
    return sum(len(buffer.memory) for buffer in list(_alive))


def release_buffers() -> None:
    """Free the band buffers; a thread that is copying keeps its own until it is done."""
    for each in list(_alive):
        each.memory = buffer(0)


def _buffer(nbytes: int) -> memoryview:
    """Page-aligned memory of this thread, kept for its next copy."""
    kept: _Buffer | None = getattr(_buffers, "kept", None)
    memory = kept.memory if kept is not None else memoryview(b"")
    if len(memory) < nbytes:
        kept = _buffers.kept = _Buffer(-(-nbytes // PAGE) * PAGE)
        _alive.add(kept)
        memory = kept.memory
    return memory[:nbytes]
