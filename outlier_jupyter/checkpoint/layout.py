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
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import CheckpointError

ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4,
    "U64": 8, "I64": 8, "F64": 8,
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


@dataclass(frozen=True)
class ExpertPart:
    """One tensor of every expert of a layer, such as `gate_proj.scales`.

    `spans` is either one span, stacked along a first axis of experts, or one span per expert.

    Attributes:
        name: the tensor's name below the switch module.
        dtype: its safetensors dtype name.
        shape: the shape of one expert's tensor.
        experts: how many experts the spans hold.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    experts: int
    spans: tuple[TensorSpan, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of one expert's tensor."""
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]

    def at(self, expert: int) -> ByteRange:
        """Where `expert`'s bytes lie."""
        if not 0 <= expert < self.experts:
            raise IndexError(f"{self.name} has experts 0 to {self.experts - 1}, not {expert}")
        if len(self.spans) > 1:
            return self.spans[expert].bytes
        file, offset, _ = self.spans[0].bytes
        return ByteRange(file, offset + expert * self.nbytes, self.nbytes)


class Checkpoint:
    """The headers of a folder's `model*.safetensors`, the files mlx-lm itself would load.

    Raises:
        CheckpointError: no such file, or a header that its file does not bear out.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = sorted(folder.glob("model*.safetensors"))
        if not self.files:
            raise CheckpointError(
                f"{folder} holds no model*.safetensors: name a folder with a model in it"
            )
        self.spans: dict[str, TensorSpan] = {}
        for file in self.files:
            self.spans.update(read_header(file))

    def stacked(self, name: str, tensor: str) -> ExpertPart | None:
        """The part whose experts lie in one tensor, `tensor`; None when there is none."""
        span = self.spans.get(tensor)
        if span is None or not span.shape:
            return None
        return ExpertPart(name, span.dtype, span.shape[1:], span.shape[0], (span,))

    def single(self, name: str, tensors: Sequence[str]) -> ExpertPart | None:
        """The part whose experts lie in a tensor each; None unless every one is there."""
        spans = tuple(self.spans[t] for t in tensors if t in self.spans)
        if not spans or len(spans) != len(tensors):
            return None
        kinds = {(s.dtype, s.shape) for s in spans}
        if len(kinds) > 1:
            raise CheckpointError(
                f"the experts behind {name} differ in dtype or shape ({sorted(kinds)[:2]}): "
                "they must all be alike to share slots"
            )
        dtype, shape = kinds.pop()
        if len(spans) == 1:
            span = spans[0]
            spans = (TensorSpan(dtype, (1, *shape), span.bytes),)
        return ExpertPart(name, dtype, shape, len(tensors), spans)


def read_header(file: Path) -> dict[str, TensorSpan]:
    """Parse one file's header and check every range against the file.

    Raises:
        CheckpointError: unreadable, truncated, or ranges that do not fit.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
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
    except ValueError as error:
        raise CheckpointError(f"{file} has a header that is not JSON: {error}") from error
    header.pop("__metadata__", None)
    return {name: _span(file, 8 + length, size, name, entry) for name, entry in header.items()}


def _span(file: Path, base: int, size: int, name: str, entry: Any) -> TensorSpan:
    try:
        dtype, shape = str(entry["dtype"]), tuple(int(n) for n in entry["shape"])
        begin, end = (int(n) for n in entry["data_offsets"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{file}: the entry of {name} is malformed ({error})") from error
    if dtype not in ITEM_BYTES:
        raise CheckpointError(f"{file}: {name} has dtype {dtype}, which is not known here")
    wanted = math.prod(shape) * ITEM_BYTES[dtype]
    if begin < 0 or min(shape, default=0) < 0 or end - begin != wanted or base + end > size:
        raise CheckpointError(
            f"{file}: {name} claims bytes {begin} to {end} of {size - base} for {wanted} bytes of "
            f"{dtype} {list(shape)}; the file is truncated or damaged, download or copy it again"
        )
    return TensorSpan(dtype, shape, ByteRange(file, base + begin, end - begin))
