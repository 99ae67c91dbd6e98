"""A rank's share of a model as a folder: the dense part and the rank's experts, and nothing else.

Each file keeps its name, header and offsets. The bytes of other ranks' experts are left out: the
files have holes there, which take no room on disk (file systems of Linux and macOS know holes;
`cp --sparse`, `rsync -S` and `tar -S` keep them). A manifest says which experts are there.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import CheckpointError, OptionError, RepackFailed, brief, place
from ..system.files import regular, write, write_by
from .array_views import Piece
from .layout import ByteRange, Checkpoint
from .records import Layers

MANIFEST = "outlier-shard.json"
CHUNK = 1 << 24
"""Bytes copied at once."""
Mine = Sequence[npt.NDArray[np.bool_]]
"""For each layer the experts of one rank, bool [experts]."""


class Shard(NamedTuple):
    """What a manifest says: the share `number` of `of`, from 1, and its experts, layer by layer."""

    number: int
    of: int
    experts: list[list[int]]

    @property
    def words(self) -> str:
        """Such as "shard 1 of 4"."""
        return f"shard {self.number} of {self.of}"


def shard_of(folder: Path) -> Shard | None:
    """The shard in `folder`; None where a whole model is.

    Raises:
        CheckpointError: the manifest is damaged.
    """
    file = folder / MANIFEST
    if not file.exists():
        return None
    try:
        found = json.loads(regular(file).read_text())
        experts = [[int(expert) for expert in layer] for layer in found["experts"]]
        return Shard(int(found["number"]), int(found["of"]), experts)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"{place(file)} is damaged ({brief(error)}): write the shard again with repack"
        ) from error


def check_whole(folder: Path) -> None:
    """Raises OptionError: the folder has one rank's share alone, and no ranks are used."""
    if shard := shard_of(folder):
        raise OptionError(
            f"{place(folder)} has {shard.words} alone: load it with hosts, a rank for each shard"
        )


def check_share(folder: Path, mine: Mine) -> None:
    """Raises OptionError: the folder lacks experts of this rank."""
    shard = shard_of(folder)
    if shard is None:
        return
    there = [set(layer) for layer in shard.experts]
    if len(there) != len(mine) or any(
        not set(np.flatnonzero(each).tolist()) <= layer
        for each, layer in zip(mine, there, strict=True)
    ):
        raise OptionError(
            f"{place(folder)} has {shard.words} alone, without all experts of this rank: use "
            f"{shard.of} hosts, this one as number {shard.number}, and the same placement"
        )


def write_shard(
    target: Path, shown: Path, checkpoint: Checkpoint, layers: Layers, mine: Mine,
    shard: tuple[int, int], each: Callable[[int], object] = lambda nbytes: None,
) -> int:  # fmt: skip
    """Write a rank's share to the folder `target`, which is new or an earlier shard's.

    Args:
        shown: the folder of the model's files as mlx-lm sees it.
        shard: its number from 1, and of how many.
        each: called with the number of bytes copied.

    Returns:
        The bytes of weights written.

    Raises:
        RepackFailed: the disk is full or fails, or another folder is there.
    """
    if target.exists() and any(target.iterdir()) and not (target / MANIFEST).exists():
        raise RepackFailed(f"{place(target)} is no shard's folder and not empty: name another one")
    about = {
        "number": shard[0], "of": shard[1],
        "experts": [np.flatnonzero(layer).tolist() for layer in mine],
    }  # fmt: skip
    ranges = needed(checkpoint, layers, mine)
    total = 0
    try:
        target.mkdir(parents=True, exist_ok=True)
        # Until its last file is written, the folder is no model.
        (target / "config.json").unlink(missing_ok=True)
        write(target / MANIFEST, json.dumps(about), RepackFailed, "the shard's manifest")
        for file in checkpoint.files:
            total += _copy(file, target / file.name, ranges.get(file, []), each)
        weights = {file.name for file in checkpoint.files}
        for file in sorted(shown.iterdir(), key=lambda file: file.name == "config.json"):
            if file.is_dir():
                shutil.copytree(file, target / file.name, dirs_exist_ok=True)
            elif file.name not in weights:
                shutil.copyfile(file, target / file.name)
    except OSError as error:
        raise RepackFailed(
            f"the shard could not be written to {place(target)} ({brief(error)}): make room or "
            "name another folder, and repack again"
        ) from error
    return total


def needed(checkpoint: Checkpoint, layers: Layers, mine: Mine) -> dict[Path, list[tuple[int, int]]]:
    """The byte ranges [begin, end) of each file that a rank needs, sorted and without overlaps."""
    experts: dict[Path, list[tuple[int, int]]] = {}
    found: dict[Path, list[tuple[int, int]]] = {}
    for parts, own in zip(layers.values(), mine, strict=True):
        for part in parts:
            size = part.view.itemsize
            for piece in part.view.pieces:
                experts.setdefault(piece.file, []).append(_hull(piece, 0, piece.shape[0], size))
                for at in range(piece.shape[0]):
                    if part.in_memory is not None or own[piece.at[0] + at]:
                        found.setdefault(piece.file, []).append(_hull(piece, at, 1, size))
    for file in checkpoint.files:
        found.setdefault(file, []).append((0, _header_end(file)))
    of_experts = {file: merged(each) for file, each in experts.items()}
    for span in checkpoint.spans.values():
        where = span.bytes
        if not _overlap(where, of_experts.get(where.file, [])):
            found.setdefault(where.file, []).append((where.offset, where.offset + where.nbytes))
    return {file: merged(each) for file, each in found.items()}


def merged(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Sorted, with those that touch or overlap joined."""
    found: list[tuple[int, int]] = []
    for begin, end in sorted(ranges):
        if found and begin <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        elif end > begin:
            found.append((begin, end))
    return found


def _hull(piece: Piece, at: int, count: int, itemsize: int) -> tuple[int, int]:
    """The bytes from the first to the last element of `count` rows of a piece."""
    low = high = piece.offset + at * piece.strides[0]
    for extent, stride in zip((count, *piece.shape[1:]), piece.strides, strict=True):
        low += min(0, (extent - 1) * stride)
        high += max(0, (extent - 1) * stride)
    return low, high + itemsize


def _overlap(where: ByteRange, ranges: Sequence[tuple[int, int]]) -> bool:
    end = where.offset + where.nbytes
    return any(begin < end and where.offset < stop for begin, stop in ranges)


def _header_end(file: Path) -> int:
    with file.open("rb") as stream:
        return 8 + int.from_bytes(stream.read(8), "little")


def _copy(
    source: Path, to: Path, ranges: Sequence[tuple[int, int]], each: Callable[[int], object]
) -> int:
    """Copy the ranges to the same places of a new file of the same size; the bytes copied."""
    with source.open("rb") as reading:

        def copy(writing: BinaryIO) -> None:
            writing.truncate(source.stat().st_size)
            for begin, end in ranges:
                reading.seek(begin)
                writing.seek(begin)
                for at in range(begin, end, CHUNK):
                    size = min(CHUNK, end - at)
                    if writing.write(reading.read(size)) < size:
                        raise RepackFailed(f"{place(source)} has become shorter: copy it again")
                    each(size)

        write_by(to, copy, RepackFailed, "the shard")
    return sum(end - begin for begin, end in ranges)
