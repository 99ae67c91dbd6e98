"""From safetensors headers to the byte range of one expert's tensor.

Only headers are read here, never weights, and every range is checked against its file's size
before anyone may ask for it. What the tensors mean (which module they belong to, how they are
multiplied) is not known here: a caller names a tensor, or the tensors that stand for one.

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

from ..errors import CheckpointError, place
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
"""The limit the safetensors library itself sets on a header, in bytes."""


class ByteRange(NamedTuple):
    """`nbytes` bytes of `file` from `offset` on."""

    file: Path
    offset: int
    nbytes: int


@dataclass(frozen=True)
class TensorSpan:
    """One tensor on disk: its safetensors dtype name, its shape and where its bytes lie."""

    dtype: str
    shape: tuple[int, ...]
    bytes: ByteRange

    def view(self) -> ArrayView:
        """The tensor as it lies, to be moved about."""
        return ArrayView.of(self.bytes.file, self.bytes.offset, self.shape, ITEM_BYTES[self.dtype])


@dataclass(frozen=True)
class RecordSpan:
    """The experts of a layer as records of a file, all that is on disk of one side by side.

    Attributes:
        begin: the first byte of the first expert's record.
        stride: bytes from one record to the next.
        nbytes: bytes of a record that hold weights.
        names: of the tensors in it, in their order; nothing lies between them.
    """

    file: Path
    begin: int
    stride: int
    nbytes: int
    names: tuple[str, ...]

    def at(self, expert: int) -> ByteRange:
        """Where an expert's tensors lie."""
        return ByteRange(self.file, self.begin + expert * self.stride, self.nbytes)


@dataclass(frozen=True)
class ExpertPart:
    """One tensor of every expert of a layer, such as `gate_proj.scales`.

    Attributes:
        name: the tensor's name below the switch module.
        dtype: its safetensors dtype name, as the model wants it.
        view: [experts, …], where its elements lie.
        held: its bytes, expert by expert, when it is so small that it stays in RAM; else None.
        record: what it is part of on disk, when experts lie there as records; else None.
    """

    name: str
    dtype: str
    view: ArrayView
    held: bytes | None = None
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
        """`expert`'s bytes, where those of each lie in one range as they are wanted; else None."""
        piece = self._in_order
        if piece is None or not 0 <= expert < self.experts:
            return None
        return ByteRange(piece.file, piece.offset + expert * piece.strides[0], self.nbytes)

    @cached_property
    def _in_order(self) -> Piece | None:
        """What `range_of` takes every range from: looked at once, for it is asked at each read."""
        pieces = self.view.pieces
        whole = len(pieces) == 1 and pieces[0].shape == self.view.shape
        if whole and is_packed(self.shape, pieces[0].strides[1:], self.view.itemsize):
            return pieces[0]
        return None

    def row(self, expert: int) -> tuple[Piece, ...]:
        """The walks through the files that yield `expert`'s tensor."""
        if not 0 <= expert < self.experts:
            raise IndexError(f"{self.name} has experts 0 to {self.experts - 1}, not {expert}")
        return self.view.row(expert)

    def at(self, expert: int) -> ByteRange:
        """Where `expert`'s bytes lie, when they lie in one range as they are wanted.

        Raises:
            NotAddressable: they do not; `gather.read_expert` reads them all the same.
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
        identities: what each file was when its header was read.

    Args:
        folder: where they are.
        files: the shards, in the order in which they are read: of a tensor that two of them hold
            the last one's counts. Left out, all `model*.safetensors` of the folder.

    Raises:
        CheckpointError: no such file, or a header that its file does not bear out.
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
    """The tensors that a file says it holds, by name, and what the file was then."""

    spans: dict[str, TensorSpan]
    identity: Identity


def read_header(file: Path) -> Header:
    """Parse one file's header and check every range against the file.

    Raises:
        CheckpointError: unreadable, truncated, or ranges that do not fit.
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
        raise CheckpointError(f"{file} has a header that is not JSON: {error}") from error
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
        raise CheckpointError(f"{file}: the entry of {name!r} is malformed ({error})") from error
    if dtype not in ITEM_BYTES:
        raise CheckpointError(f"{file}: {name!r} has dtype {dtype!r}, which is not known here")
    wanted = math.prod(shape) * ITEM_BYTES[dtype]
    if begin < 0 or min(shape, default=0) < 0 or end - begin != wanted or base + end > size:
        raise CheckpointError(
            f"{file}: {name!r} claims bytes {begin} to {end} of {size - base} for {wanted} of "
            f"{dtype} {list(shape)}; the file is truncated or damaged, download or copy it again"
        )
    return TensorSpan(dtype, shape, ByteRange(file, base + begin, end - begin))
