"""Which bytes an expert is read from, and by whom: the model's own files, or repacked records.

Records are used when they are there and were made of the files that are there. What is found is
said in the reader's note.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from platformdirs import user_cache_path

from .checkpoint import Checkpoint, ExpertPart, Reader, RecordReader, Records, open_reader, places
from .checkpoint.records import NAME
from .errors import CheckpointError
from .paging.install import Switch

AUTO, OFF = "auto", "off"


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
    checkpoint: Checkpoint, switches: tuple[Switch, ...], kind: str, repacked: str = AUTO
) -> tuple[tuple[Switch, ...], Reader]:
    """The switches with their experts' tensors where they are best read, and what reads them.

    Args:
        kind: of the reader: pread, direct or mmap.
        repacked: where to look for records; see `record_files`.

    Raises:
        ReadFailed: a file cannot be opened.
        CheckpointError: the folder the user named holds no records of this model.
    """
    layers = layers_of(switches)
    files = [file for file in record_files(checkpoint.folder, repacked) if file.exists()]
    why_not = ""
    for file in files if layers else ():
        try:
            records = Records.open(file)
            reason = records.why_not(checkpoint.files, layers)
            why_not = why_not or (reason and f"the repacked experts in {file} are not used: "
                                  f"{reason}; repack the model")  # fmt: skip
        except CheckpointError as error:
            why_not = why_not or f"{error}; repack the model"
            continue
        if not reason:
            reader = open_reader(kind, [*checkpoint.files, file])
            moved = tuple(
                replace(switch, parts=records.parts(layer, switch.parts))
                for layer, switch in enumerate(switches)
            )
            note = "experts are repacked, one read each"
            return moved, RecordReader(reader, records, layers, note)
    if repacked not in (AUTO, OFF) and layers:
        raise CheckpointError(
            why_not or f"{repacked} holds no repacked experts: repack the model to it first"
        )
    reader = open_reader(kind, checkpoint.files)
    reader.note = "; ".join(text for text in (reader.note, why_not) if text)
    return switches, reader


def layers_of(switches: Sequence[Switch]) -> dict[str, tuple[ExpertPart, ...]]:
    """Each layer's path in the model and its experts' tensors."""
    return {switch.path: switch.parts for switch in switches}
