"""Chooses the source of expert weights (the model's files or repacked records) and the reader.

Repacked records are used if they exist and match the model's files. The user chooses the reader,
or a probe of the disk does. The reader's note says what was found.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from platformdirs import user_cache_path

from ..checkpoint import (
    Checkpoint,
    ExpertPart,
    Reader,
    RecordReader,
    Records,
    open_reader,
    record_paths,
)
from ..checkpoint.disk_probe import known_disk
from ..checkpoint.records import NAME
from ..errors import CheckpointError, ReadFailed
from ..options import LoadOptions
from ..paging.install import MoeSwitch
from ..system.interrupt import deferred

AUTO, OFF = "auto", "off"
LARGE = 1_000_000_000
"""The disk is probed if the experts take this many bytes; fewer may fit in the page cache."""
THREADS = 4
"""Default number of parallel reads."""


class Reads(NamedTuple):
    """How experts are read.

    Attributes:
        switches: the model's switches; their parts point to the chosen files.
        threads: number of parallel reads.
        rate: bytes per second that the probe measured; 0 without a probe.
    """

    switches: tuple[MoeSwitch, ...]
    reader: Reader
    threads: int
    rate: float = 0.0


def record_files(folder: Path, where: str = AUTO) -> list[Path]:
    """Files that may hold the repacked experts of the model in `folder`, the preferred one first.

    Args:
        where: the user's folder, `auto` or `off`.
    """
    if where == OFF:
        return []
    if where != AUTO:
        return [Path(where).expanduser() / NAME]
    return record_paths(folder, user_cache_path("outlier_jupyter") / "repacked")


def open_experts(
    checkpoint: Checkpoint, switches: tuple[MoeSwitch, ...], options: LoadOptions, undo: ExitStack
) -> Reads:
    """Open the best source of expert weights.

    Args:
        options: `reader`, `read_threads` and `repacked` are used; with the reader `auto` the disk
            is probed if the experts are large.
        undo: closes what is opened.

    Raises:
        ReadFailed: a file cannot be opened.
        CheckpointError: the folder in `repacked` holds no records of this model.
    """
    layers, repacked = layers_of(switches), options.repacked
    records, reason = find_records(checkpoint, layers, repacked)
    if records is None and repacked not in (AUTO, OFF) and layers:
        raise CheckpointError(
            reason or f"{repacked} holds no repacked experts: repack the model to it first"
        )
    kind, chosen, why, rate = _choose(
        options.reader, [records.file] if records else checkpoint.files, switches
    )
    note = "; ".join(text for text in (reason, why) if text)
    threads = options.read_threads or chosen
    with deferred():
        reader = open_reader(kind, [*checkpoint.files, *([records.file] if records else ())])
        undo.callback(reader.close)
    if records is None:
        reader.note = "; ".join(text for text in (note, reader.note) if text)
        return Reads(switches, reader, threads, rate)
    moved = tuple(
        replace(switch, parts=records.parts(layer, switch.parts))
        for layer, switch in enumerate(switches)
    )
    return Reads(moved, RecordReader(reader, records, layers, note), threads, rate)


def find_records(
    checkpoint: Checkpoint, layers: dict[str, tuple[ExpertPart, ...]], where: str = AUTO
) -> tuple[Records | None, str]:
    """The records of this model or None, and a note: that they are used, or why not."""
    why_not = ""
    for file in record_files(checkpoint.folder, where) if layers else ():
        try:
            if not file.exists():
                continue
            records = Records.open(file)
            reason = records.mismatch(checkpoint.files, layers)
        except (CheckpointError, OSError) as error:
            why_not = why_not or f"{error}; repack the model"
            continue
        if not reason:
            return records, "experts are repacked, one read each"
        reason = f"the repacked experts in {file} are not used: {reason}; repack the model"
        why_not = why_not or reason
    return None, why_not


def _choose(
    kind: str, files: Sequence[Path], switches: Sequence[MoeSwitch]
) -> tuple[str, int, str, float]:
    """The reader, the number of threads, the reason, and bytes per second for `auto`."""
    if kind != AUTO:
        return kind, THREADS, "", 0.0
    total = sum(switch.experts * switch.expert_nbytes for switch in switches)
    if total < LARGE:
        return "pread", THREADS, "", 0.0
    try:
        found = known_disk(files, max(switch.expert_nbytes for switch in switches))
    except ReadFailed as error:
        return "pread", THREADS, f"the disk could not be probed: {error}", 0.0
    return found.reader, found.threads, found.why(), 1e6 * found.speed(found.reader)


def layers_of(switches: Sequence[MoeSwitch]) -> dict[str, tuple[ExpertPart, ...]]:
    """Each layer's path in the model → its experts' tensors."""
    return {switch.path: switch.parts for switch in switches}
