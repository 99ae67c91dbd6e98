"""`repack`: a model's experts rewritten so that each is one straight read; and its disk measured.

Where experts lie in the model's files is known from loading it lazily; how records are written is
the checkpoint room's. Here are names, the place, the progress, and what is said of it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ..checkpoint import Records, write_records
from ..checkpoint.disk_probe import DiskTable, probe_disk
from ..checkpoint.model_folder import ModelFolder
from ..checkpoint.records import plan_records
from ..errors import OptionError
from ..formatting import size_words
from ..system.hub import resolve
from ..system.progress import Progress
from ..values import boolean, checked, path, text
from .choose_reader import AUTO, find_records, layers_of, record_files
from .open_checkpoint import open_model


@dataclass(frozen=True)
class Repacked:
    """What came of a `repack`.

    Attributes:
        file: holds the records; `load` finds it by itself unless a folder was named.
        experts, nbytes: all that are in it.
        written: experts that this call wrote: fewer than all if it went on with an earlier one, and
            those that were damaged if all were there.
    """

    file: Path
    experts: int
    nbytes: int
    written: int

    def __str__(self) -> str:
        """One line."""
        return (
            f"{self.experts:,} experts, {size_words(self.nbytes)}, one read each, in {self.file}; "
            f"{self.written:,} written now, all checked"
        )


@checked(model=path, folder=path, revision=text, trust_remote_code=boolean, quiet=boolean)
def repack(
    model: str | os.PathLike[str],
    folder: str | os.PathLike[str] | None = None,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    quiet: bool = False,
) -> Repacked:
    """Rewrite the experts of `model` so that each is read in one piece; the model stays as it is.

    It takes as much room again as the experts. Stopped or failed, it goes on when called again;
    called again when it is done, it checks every record and mends those that are damaged.

    Args:
        model: "demo", a folder, or a Hugging Face id.
        folder: where to write; left out, beside the model, or in the cache folder where that cannot
            be written. `load(..., repacked=folder)` looks there.
        revision: a branch, tag or commit of a Hugging Face repository.
        trust_remote_code: run the code that the model's folder brings, where it needs that.
        quiet: show no progress.

    Raises:
        RepackFailed: no room, or a read or write failed: what was done is kept.
        ModelNotFound, CheckpointError, UnsupportedModel: as `load` raises them.
        OptionError: the model has no experts.
    """
    home = resolve(os.fspath(model), revision, quiet)
    _, _, checkpoint, switches = open_model(ModelFolder(home, trusted=trust_remote_code))
    layers = layers_of(switches)
    if not layers:
        raise OptionError(f"{model} has no experts that are paged, so there is nothing to repack")
    target = _target(home, AUTO if folder is None else os.fspath(folder))
    plans = plan_records(layers)
    total = sum(plan.nbytes * plan.experts for plan in plans)
    if not quiet:
        Progress.write(f"repacking {size_words(total)} of experts to {target}")
    # Each byte is written once and read back once; what was done earlier is read back alone.
    with Progress(total=2 * total, unit="B", unit_scale=True, leave=False, disable=quiet) as bar:
        records, written = write_records(target, checkpoint.files, layers, bar.update)
    return _told(records, written)


@checked(model=path)
def measure_disk(model: str | os.PathLike[str]) -> DiskTable:
    """How fast the disk gives experts of `model`, from where `load` would read them.

    Raises:
        ReadFailed: a file cannot be read.
        ModelNotFound, CheckpointError, UnsupportedModel: as `load` raises them.
        OptionError: the model has no experts.
    """
    _, _, checkpoint, switches = open_model(ModelFolder(resolve(os.fspath(model))))
    if not switches:
        raise OptionError(f"{model} has no experts that are paged, so there is nothing to read")
    records, _ = find_records(checkpoint, layers_of(switches))
    files = [records.file] if records else checkpoint.files
    largest = max(files, key=lambda file: file.stat().st_size)
    return probe_disk(largest, max(switch.expert_nbytes for switch in switches))


def _target(home: Path, where: str) -> Path:
    """The first place that is there already, or else that can be written."""
    found = record_files(home, where)
    there = [file for file in found if file.exists()]
    free = [file for file in found if os.access(file.parent, os.W_OK)]
    return [*there, *free, found[-1]][0]


def _told(records: Records, written: int) -> Repacked:
    experts = sum(plan.experts for plan in records.plans)
    return Repacked(records.file, experts, records.nbytes, written)
