"""Reads safetensors headers, and finds the byte range of one expert's tensor.

Only headers are read here, never weights, and every range is checked against its file's size first.
This module does not know what the tensors mean (their module, their arithmetic).

The format: eight bytes, little-endian, the header's length; then JSON of name → dtype, shape
and [begin, end) from the end of the header (safetensors documentation, "Format").
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import index
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import CheckpointError, brief, place, shown
from ..system.files import regular
from .array_views import ArrayView, NotAddressable, Piece, is_packed
from .file_identity import Identity, identity

ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "F8_E4M3FNUZ": 1, "F8_E5M2FNUZ": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4,
    "U64": 8, "I64": 8, "F64": 8, "C64": 8,
}  # fmt: skip
MAX_HEADER = 100_000_000
"""The safetensors library's own limit on a header, in bytes."""


class ByteRange(NamedTuple):
    """`nbytes` bytes of `file` from `offset` on."""

    file: Path
    offset: int
    nbytes: int


@dataclass(frozen=True)
class TensorSpan:
    """One tensor on disk: its safetensors dtype name, its shape and its byte range."""

    dtype: str
    shape: tuple[int, ...]
    bytes: ByteRange

    def view(self) -> ArrayView:
        """The tensor as an `ArrayView`."""
        return ArrayView.of(self.bytes.file, self.bytes.offset, self.shape, ITEM_BYTES[self.dtype])


@dataclass(frozen=True)
class RecordSpan:
    """The experts of a layer as records of a file; a record has all tensors of one expert.

    Attributes:
        begin: the first byte of the first expert's record.
        stride: bytes from one record to the next.
        nbytes: bytes of a record that hold weights.
        names: names of the tensors in a record, in order and without gaps.
    """

    file: Path
    begin: int
    stride: int
    nbytes: int
    names: tuple[str, ...]

    def at(self, expert: int) -> ByteRange:
        """The byte range of an expert's tensors."""
        return ByteRange(self.file, self.begin + expert * self.stride, self.nbytes)


@dataclass(frozen=True)
class ExpertPart:
    """One tensor of every expert of a layer, such as `gate_proj.scales`.

    Attributes:
        name: the tensor's name below the switch module.
        dtype: its safetensors dtype name, in the form that the model uses.
        view: [experts, …], where its elements are on disk.
        in_memory: all experts' bytes in order, if they are so few that they stay in RAM; else None.
        record: the records that it is part of, if experts are stored as records; else None.
    """

    name: str
    dtype: str
    view: ArrayView
    in_memory: bytes | None = None
    record: RecordSpan | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one expert's tensor."""
        return self.view.shape[1:]

    @property
    def experts(self) -> int:
        """How many experts there are."""
        return self.view.shape[0]

    @cached_property
    def nbytes(self) -> int:
        """Bytes of one expert's tensor."""
        return math.prod(self.shape) * self.view.itemsize

    def range_of(self, expert: int) -> ByteRange | None:
        """The bytes of `expert`, if each expert's are contiguous and in order; else None."""
        piece = self._in_order
        if piece is None or not 0 <= expert < self.experts:
            return None
        return ByteRange(piece.file, piece.offset + expert * piece.strides[0], self.nbytes)

    @cached_property
    def _in_order(self) -> Piece | None:
        """The contiguous experts, cached because every read calls `range_of`."""
        pieces = self.view.pieces
        whole = len(pieces) == 1 and pieces[0].shape == self.view.shape
        if whole and is_packed(self.shape, pieces[0].strides[1:], self.view.itemsize):
            return pieces[0]
        return None

    def row(self, expert: int) -> tuple[Piece, ...]:
        """The pieces of the files that make up `expert`'s tensor."""
        if not 0 <= expert < self.experts:
            raise IndexError(f"{self.name} has experts 0 to {self.experts - 1}, not {expert}")
        return self.view.row(expert)

    def at(self, expert: int) -> ByteRange:
        """The byte range of `expert`, if its bytes are contiguous and in order.

        Raises:
            NotAddressable: they are not; `read_expert` can read them.
        """
        pieces = self.row(expert)
        if len(pieces) != 1 or not is_packed(
            pieces[0].shape, pieces[0].strides, self.view.itemsize
        ):
            raise NotAddressable(f"expert {expert} of {self.name} is not one range of bytes")
        return ByteRange(pieces[0].file, pieces[0].offset, self.nbytes)


class Checkpoint:
    """The headers of a model's shards.

    Attributes:
        files: the shards, by name.
        spans: their tensors, by name.
        identities: each file's identity when its header was read.

    Args:
        folder: the model's folder.
        files: the shards in reading order: of a tensor in two of them the last one counts. By
            default all `model*.safetensors` of the folder.

    Raises:
        CheckpointError: there are no shards, or a header does not match its file.
    """

    def __init__(self, folder: Path, files: Sequence[Path] | None = None) -> None:
        self.folder = folder
        found = folder.glob("model*.safetensors") if files is None else files
        self.files = sorted(found)
        if not self.files:
            raise CheckpointError(
                f"{place(folder)} holds no model*.safetensors: name a folder with a model in it"
            )
        self.spans: dict[str, TensorSpan] = {}
        self.identities: dict[Path, Identity] = {}
        for file in files or self.files:
            spans, self.identities[file] = read_header(file)
            self.spans.update(spans)


class Header(NamedTuple):
    """The tensors listed in a file's header, by name, and the file's identity then."""

    spans: dict[str, TensorSpan]
    identity: Identity


def read_header(file: Path) -> Header:
    """Parse one file's header and check every range against the file.

    Raises:
        CheckpointError: the file is unreadable or truncated, or its ranges do not fit.
    """
    try:
        with regular(file).open("rb") as stream:
            found = identity(stream.fileno())
            size = found.nbytes
            start = stream.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            if not 2 <= length <= min(size - 8, MAX_HEADER):
                raise CheckpointError(
                    f"{file} is not a whole safetensors file: its header should be {length} bytes "
                    f"long and the file has {size}; download or copy it again"
                )
            header = json.loads(stream.read(length))
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} has a header that is not JSON: {brief(error)}") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{file} has a header that is no table of tensors: download it again")
    header.pop("__metadata__", None)
    spans = {name: _span(file, 8 + length, size, name, entry) for name, entry in header.items()}
    return Header(spans, found)


def _span(file: Path, base: int, size: int, name: str, entry: Any) -> TensorSpan:
    try:
        dtype, shape = str(entry["dtype"]), tuple(map(index, entry["shape"]))
        begin, end = map(index, entry["data_offsets"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{file}: the entry of {shown(name)} is malformed ({brief(error)}); download it again"
        ) from error
    if dtype not in ITEM_BYTES:
        raise CheckpointError(
            f"{file}: {shown(name)} has dtype {shown(dtype)}, which is not known here"
        )
    wanted = math.prod(shape) * ITEM_BYTES[dtype]
    if begin < 0 or min(shape, default=0) < 0 or end - begin != wanted or base + end > size:
        numbers = f"{shown(begin, 20)} to {shown(end, 20)} of {size - base} for {shown(wanted, 20)}"
        raise CheckpointError(
            f"{file}: {shown(name)} claims bytes {numbers} of {dtype} {shown(list(shape))}; the "
            "file is truncated or damaged, download or copy it again"
        )
    return TensorSpan(dtype, shape, ByteRange(file, base + begin, end - begin))
