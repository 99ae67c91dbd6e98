"""`repack` rewrites a model's experts so that each is one read; `measure_disk` probes its disk.

Loading the model lazily finds the experts in its files, and `checkpoint` writes the records. This
module resolves the model, chooses the target and shows the progress.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ..checkpoint import write_records
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
    """The result of a `repack`.

    Attributes:
        file: the file of records; `load` finds it by itself unless `folder` was passed.
        experts, nbytes: of the whole file.
        written: experts that this call wrote: fewer than all if it resumed an earlier call, and
            only the damaged ones if all were there.
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
    """Rewrite the experts of `model` so that each is one read; the model's files stay unchanged.

    The records take as much disk space as the experts. If it is stopped or fails, the next call
    resumes; if all is done, the next call checks every record and rewrites damaged ones.

    Args:
        model: "demo", a folder, or a Hugging Face id.
        folder: where to write; by default beside the model, or in the cache folder if that is not
            writable. `load(..., repacked=folder)` looks there.
        revision: a branch, tag or commit of a Hugging Face repository.
        trust_remote_code: allow the model folder's own Python code to run, if the model needs it.
        quiet: show no progress.

    Raises:
        RepackFailed: the disk is full, or a read or write failed; finished records are kept.
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
    # Each byte is written once and read back once; records of an earlier call are only read back.
    with Progress(total=2 * total, unit="B", unit_scale=True, leave=False, disable=quiet) as bar:
        records, written = write_records(target, checkpoint.files, layers, bar.update)
    experts = sum(plan.experts for plan in plans)
    return Repacked(records.file, experts, records.nbytes, written)


@checked(model=path)
def measure_disk(model: str | os.PathLike[str]) -> DiskTable:
    """Measure how fast the disk delivers experts of `model`, from the files that `load` would read.

    Raises:
        ReadFailed: a file cannot be read.
        ModelNotFound, CheckpointError, UnsupportedModel: as `load` raises them.
        OptionError: the model has no experts.
    """
    _, _, checkpoint, switches = open_model(ModelFolder(resolve(os.fspath(model))))
    if not switches:
        raise OptionError(f"{model} has no paged experts: no disk speed applies to it")
    records, _ = find_records(checkpoint, layers_of(switches))
    files = [records.file] if records else checkpoint.files
    largest = max(files, key=lambda file: file.stat().st_size)
    return probe_disk(largest, max(switch.expert_nbytes for switch in switches))


def _target(home: Path, where: str) -> Path:
    """The first file that exists already, or else the first that can be written."""
    found = record_files(home, where)
    there = [file for file in found if file.exists()]
    free = [file for file in found if os.access(file.parent, os.W_OK)]
    return [*there, *free, found[-1]][0]
