"""Which bytes an expert is read from, and by whom: the model's own files, or repacked records.

Records are used when they are there and were made of the files that are there. What is found is
said in the reader's note. Who reads is the user's choice, or that of a probe of the disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from platformdirs import user_cache_path

from ..checkpoint import Checkpoint, ExpertPart, Reader, RecordReader, Records, open_reader, places
from ..checkpoint.disk_probe import known_disk
from ..checkpoint.records import NAME
from ..errors import CheckpointError, ReadFailed
from ..options import LoadOptions
from ..paging.install import Switch
from ..system.interrupt import deferred

AUTO, OFF = "auto", "off"
LARGE = 1_000_000_000
"""Bytes of experts from which on the disk is probed: what is less, the page cache may hold."""
THREADS = 4
"""How many reads are under way at once where nobody has said."""


class Reads(NamedTuple):
    """How experts are read.

    Attributes:
        switches: with their experts' tensors where they are best read.
        threads: how many reads to have under way at once.
        rate: bytes a second that the probe found the disk to give so; 0 where it was not probed.
    """

    switches: tuple[Switch, ...]
    reader: Reader
    threads: int
    rate: float = 0.0


def record_files(folder: Path, where: str = AUTO) -> list[Path]:
    """Where the repacked experts of the model in `folder` may be, the best place first.

    Args:
        where: a folder of the user's, `auto` or `off`.
    """
    if where == OFF:
        return []
    if where != AUTO:
        return [Path(where).expanduser() / NAME]
    return places(folder, user_cache_path("outlier_jupyter") / "repacked")


def open_experts(
    checkpoint: Checkpoint, switches: tuple[Switch, ...], asked: LoadOptions, undo: ExitStack
) -> Reads:
    """Find the best place to read experts from, and open it.

    Args:
        asked: `reader`, where auto has the disk probed if the experts are large; `read_threads`,
            where None leaves it to that; `repacked`, where to look for records.
        undo: what is opened is closed with it.

    Raises:
        ReadFailed: a file cannot be opened.
        CheckpointError: the folder the user named holds no records of this model.
    """
    layers, repacked = layers_of(switches), asked.repacked
    records, said = find_records(checkpoint, layers, repacked)
    if records is None and repacked not in (AUTO, OFF) and layers:
        raise CheckpointError(
            said or f"{repacked} holds no repacked experts: repack the model to it first"
        )
    kind, chosen, why, rate = _choose(
        asked.reader, [records.file] if records else checkpoint.files, switches
    )
    note = "; ".join(text for text in (said, why) if text)
    threads = asked.read_threads or chosen
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
    """The records of this model, if there are any, and what is to be said of them."""
    why_not = ""
    for file in record_files(checkpoint.folder, where) if layers else ():
        try:
            if not file.exists():
                continue
            records = Records.open(file)
            reason = records.why_not(checkpoint.files, layers)
        except (CheckpointError, OSError) as error:
            why_not = why_not or f"{error}; repack the model"
            continue
        if not reason:
            return records, "experts are repacked, one read each"
        said = f"the repacked experts in {file} are not used: {reason}; repack the model"
        why_not = why_not or said
    return None, why_not


def _choose(
    kind: str, files: Sequence[Path], switches: Sequence[Switch]
) -> tuple[str, int, str, float]:
    """A reader, a number of threads, why, and bytes a second, for what `auto` stands for."""
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


def layers_of(switches: Sequence[Switch]) -> dict[str, tuple[ExpertPart, ...]]:
    """Each layer's path in the model and its experts' tensors."""
    return {switch.path: switch.parts for switch in switches}
