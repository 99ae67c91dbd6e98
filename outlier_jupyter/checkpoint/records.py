"""The file of repacked experts: one record per expert with all its tensors, read at once.

    record of expert 0, first layer | … | manifest as JSON | its length, its CRC-32, "outlrec1"

A record has its tensors without gaps, those whose size has the largest power of two first, and ends
on a page. So each tensor of whole sectors begins on a sector, and a direct read goes directly into
the slots. The manifest comes last: a file that has one is complete. It has name, size and time of
the shards and a CRC-32 of every record. `repack` writes the file.
"""

from __future__ import annotations

import ctypes
import json
import os
import struct
import threading
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from operator import index
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, ReadFailed, brief
from ..system.files import regular
from .array_views import ArrayView, Piece, packed
from .expert_reader import read_expert
from .file_identity import Identity
from .layout import ByteRange, ExpertPart, RecordSpan
from .readers import PAGE, KernelReadable, Reader

NAME = "experts.repacked"
"""The file's name, in the model's folder or wherever it may be written."""
FOOTER = struct.Struct("<QI8s")
MAGIC = b"outlrec1"

Source = list[list[Any]]
"""[name, bytes, modification time in ns] of each shard that records were made from."""
Layers = Mapping[str, Sequence[ExpertPart]]
"""A layer's path in the model → its experts' tensors."""


@dataclass(frozen=True)
class RecordLayout:
    """The place of one layer's records in the file.

    Attributes:
        path: the layer's path in the model.
        begin: the first byte of the first expert's record.
        stride: bytes from one record to the next.
        nbytes: bytes of a record that hold weights.
        parts: (name, dtype, shape) of each tensor of an expert, in the record's order.
    """

    path: str
    experts: int
    begin: int
    stride: int
    nbytes: int
    parts: list[list[Any]]

    def record(self, file: Path, expert: int) -> ByteRange:
        """The byte range of an expert's weights."""
        return ByteRange(file, self.begin + expert * self.stride, self.nbytes)


def in_record(parts: Iterable[ExpertPart]) -> list[ExpertPart]:
    """The tensors of a record, ordered by the largest power of two in their size, up to a page."""
    read = [part for part in parts if part.in_memory is None and part.nbytes]
    return sorted(read, key=lambda part: -min(part.nbytes & -part.nbytes, PAGE))


def plan_records(layers: Layers) -> list[RecordLayout]:
    """Lay out a file of records."""
    begin, plans = 0, []
    for path, parts in layers.items():
        stored = in_record(parts)
        nbytes = sum(part.nbytes for part in stored)
        stride = -(-nbytes // PAGE) * PAGE
        tensors = [[part.name, part.dtype, list(part.shape)] for part in stored]
        plans.append(RecordLayout(path, parts[0].experts, begin, stride, nbytes, tensors))
        begin += stride * parts[0].experts
    return plans


def source_of(shards: Iterable[Path]) -> Source:
    """Name, size and time of the shards, by which a manifest recognises them."""
    stats = [(shard.name, shard.stat()) for shard in sorted(shards)]
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]


@dataclass(frozen=True)
class Records:
    """A complete file of records and its manifest.

    Attributes:
        sums: for each layer, the CRC-32 of each record's weights.
    """

    file: Path
    source: Source
    plans: list[RecordLayout]
    sums: list[list[int]]

    @property
    def nbytes(self) -> int:
        """Bytes of all records."""
        last = self.plans[-1]
        return last.begin + last.stride * last.experts

    @staticmethod
    def open(file: Path) -> Records:
        """Read the manifest.

        Raises:
            CheckpointError: the file is incomplete, or not a file of records.
        """
        try:
            size = regular(file).stat().st_size
            with file.open("rb") as stream:
                stream.seek(max(0, size - FOOTER.size))
                end = stream.read(FOOTER.size)
                length, crc, magic = FOOTER.unpack(end) if len(end) == FOOTER.size else (0, 0, b"")
                if magic != MAGIC or length > size - FOOTER.size:
                    raise CheckpointError(f"{file} is not a whole file of repacked experts")
                stream.seek(size - FOOTER.size - length)
                text = stream.read(length)
        except OSError as error:
            raise CheckpointError(f"{file} cannot be read: {error.strerror or error}") from error
        if zlib.crc32(text) != crc:
            raise CheckpointError(f"{file} has a damaged manifest")
        records = _parse_manifest(file, text)
        if records.nbytes != size - FOOTER.size - length:
            raise CheckpointError(f"{file} is cut short: it has {size} bytes")
        return records

    def trailer(self) -> bytes:
        """Manifest and footer, as they end the file."""
        plans = [asdict(plan) for plan in self.plans]
        text = json.dumps({"source": self.source, "plans": plans, "sums": self.sums}).encode()
        return text + FOOTER.pack(len(text), zlib.crc32(text), MAGIC)

    def mismatch(self, shards: Iterable[Path], layers: Layers) -> str:
        """Why these records are not of a model's experts; "" if they are."""
        if self.source != source_of(shards):
            return "the model's files have changed since"
        if self.plans != plan_records(layers):
            return "the model's experts are used in another form now"
        return ""

    def parts(self, layer: int, parts: Sequence[ExpertPart]) -> tuple[ExpertPart, ...]:
        """The tensors `parts` of a layer, in the same order, with their places in the records."""
        plan, begin = self.plans[layer], self.plans[layer].begin
        found: dict[str, ExpertPart] = {}
        inside = in_record(parts)
        names = tuple(part.name for part in inside)
        span = RecordSpan(self.file, begin, plan.stride, plan.nbytes, names)
        for part in inside:
            shape, itemsize = part.view.shape, part.view.itemsize
            strides = (plan.stride, *packed(shape, itemsize)[1:])
            piece = Piece((0,) * len(shape), shape, self.file, begin, strides)
            view = ArrayView(shape, itemsize, (piece,))
            found[part.name] = ExpertPart(part.name, part.dtype, view, record=span)
            begin += part.nbytes
        return tuple(found.get(part.name, part) for part in parts)


def _parse_manifest(file: Path, text: bytes) -> Records:
    """Parse a manifest.

    Raises:
        CheckpointError: it is not a manifest, or lacks a sum.
    """
    try:
        manifest = json.loads(text)
        plans = [RecordLayout(**plan) for plan in manifest["plans"]]
        records = Records(file, manifest["source"], plans, manifest["sums"])
        counts = [[index(n) for n in (p.experts, p.begin, p.stride, p.nbytes)] for p in plans]
        whole = all(min(numbers) >= 0 and numbers[0] > 0 for numbers in counts)
        summed = [all(0 <= index(crc) < 1 << 32 for crc in crcs) for crcs in records.sums]
        right = [
            each and len(crcs) == plan.experts
            for each, crcs, plan in zip(summed, records.sums, plans, strict=True)
        ]
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} has a damaged manifest ({brief(error)})") from error
    if not (plans and whole and all(right)):
        raise CheckpointError(f"{file} has a damaged manifest: not every record has its sum")
    return records


class RecordReader:
    """Reads records with another reader, and checks each record's sum on its first read.

    Damaged or unreadable records are read from the shards instead, and reported in `note`.

    Args:
        reader: has the records' file and the shards open.
        layers: the experts' tensors in the shards.

    Attributes:
        inner: the reader that makes its reads.
        damaged: (path of the layer, expert) of records that are read from the shards.
    """

    def __init__(self, reader: Reader, records: Records, layers: Layers, note: str) -> None:
        self.name = reader.name
        self.damaged: set[tuple[str, int]] = set()
        self.inner = reader
        self._file = records.file
        self._note, self._damage = note, ""
        self._lock = threading.Lock()
        self._layers = [in_record(parts) for parts in layers.values()]
        self._paths = list(layers)
        self._sums = {
            plan.record(records.file, expert).offset: (layer, expert, crc)
            for layer, (plan, sums) in enumerate(zip(records.plans, records.sums, strict=True))
            for expert, crc in enumerate(sums)
        }
        self._unchecked = set(self._sums)

    @property
    def note(self) -> str:
        """That records are read, which are damaged, and what the reader that reads them notes."""
        return "; ".join(filter(None, (self._note, self._damage, self.inner.note)))

    @note.setter
    def note(self, note: str) -> None:
        """Set what it begins with."""
        self._note = note

    def read(self, where: ByteRange, into: memoryview) -> None:
        if where.file == self._file:
            self.scatter(where, [into])
        else:
            self.inner.read(where, into)

    def scatter(self, where: ByteRange, into: Sequence[memoryview]) -> None:
        if where.file != self._file:
            self.inner.scatter(where, into)
            return
        layer, expert, crc = self._sums[where.offset]
        if (self._paths[layer], expert) not in self.damaged:
            try:
                self.inner.scatter(where, into)
            except ReadFailed:
                pass
            else:
                if where.offset not in self._unchecked or checksum(into) == crc:
                    self._unchecked.discard(where.offset)
                    return
            self._report_damaged(self._paths[layer], expert)
        parts = self._layers[layer]
        views = dict(zip((part.name for part in parts), into, strict=True))
        read_expert(self.inner, parts, expert, views.__getitem__)

    def _report_damaged(self, path: str, expert: int) -> None:
        with self._lock:
            self.damaged.add((path, expert))
            count = len(self.damaged)
            path, expert = min(self.damaged)
            self._damage = (
                f"{count} of them damaged (such as expert {expert} of {path}), "
                "and read from the model's own files: repack the model to mend that"
            )

    def kernel_readable(self, where: ByteRange) -> KernelReadable | None:
        """With a sum to check for a record on its first read; None for a damaged one."""
        found = self.inner.kernel_readable(where)
        if where.file == self._file and found is not None:
            layer, expert, crc = self._sums[where.offset]
            if (self._paths[layer], expert) in self.damaged:
                return None
            if where.offset in self._unchecked:
                return found._replace(checksum=crc)
        return found

    def changed(self, before: Mapping[Path, Identity] | None = None) -> str:
        return self.inner.changed(before)

    def buffer_nbytes(self) -> int:
        return self.inner.buffer_nbytes()

    def close(self) -> None:
        self.inner.close()


@lru_cache
def crc_code() -> int:
    """The address of zlib's `crc32`, for compiled code; 0 where it cannot be had."""
    try:
        function = ctypes.CDLL(getattr(zlib, "__file__", None)).crc32
    except (AttributeError, OSError):  # built into the interpreter, without the name
        return 0
    return ctypes.cast(function, ctypes.c_void_p).value or 0


def checksum(views: Iterable[memoryview]) -> int:
    """The CRC-32 of the views' bytes, one after the other, without the interpreter's lock."""
    crc = 0
    for view in views:
        crc = zlib.crc32(view, crc)
    return crc


def record_paths(folder: Path, cache: Path) -> list[Path]:
    """Where the records of the model in `folder` may be: there, or in its own cache folder."""
    own = f"{zlib.crc32(os.fsencode(folder.resolve())):08x}-{folder.resolve().name}"
    return [folder / NAME, cache / own / NAME]
