"""`repack` rewrites a model's experts so that each is one read; `measure_disk` probes its disk.

Loading the model lazily finds the experts in its files, and `checkpoint` writes the records. This
module resolves the model, chooses the target and shows the progress.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ..checkpoint import Checkpoint, ExpertPart, write_records
from ..checkpoint.disk_probe import DiskTable, probe_disk
from ..checkpoint.model_folder import ModelFolder
from ..checkpoint.records import plan_records
from ..checkpoint.shard import check_whole, needed, write_shard
from ..distributed.hosts import MOST
from ..errors import OptionError
from ..formatting import size_words
from ..system.hub import resolve
from ..system.progress import Progress
from ..values import boolean, checked, path, text
from .choose_reader import AUTO, find_records, layers_of, record_files
from .open_checkpoint import open_model
from .spread import EVEN, placed


@dataclass(frozen=True)
class Repacked:
    """The result of a `repack`.

    Attributes:
        file: the file of records; `load` finds it by itself unless `folder` was passed.
        experts, nbytes: of the whole file.
        written: experts that this call wrote: fewer than all if it resumed an earlier call, and
            only the damaged ones if all were there.
        shard: `i/n` if only a rank's share was written, and `file` is its folder then; or "".
    """

    file: Path
    experts: int
    nbytes: int
    written: int
    shard: str = ""

    def __str__(self) -> str:
        """One line."""
        if self.shard:
            return (
                f"shard {self.shard}: {self.experts:,} experts and all that is not experts, "
                f"{size_words(self.nbytes)}, in {self.file}; copy it with holes (rsync -S)"
            )
        return (
            f"{self.experts:,} experts, {size_words(self.nbytes)}, one read each, in {self.file}; "
            f"{self.written:,} written now, all checked"
        )


@checked(
    model=path, folder=path, shard=text, placement=path, revision=text, trust_remote_code=boolean,
    quiet=boolean,
)  # fmt: skip
def repack(
    model: str | os.PathLike[str],
    folder: str | os.PathLike[str] | None = None,
    *,
    shard: str | None = None,
    placement: str = EVEN,
    revision: str | None = None,
    trust_remote_code: bool = False,
    quiet: bool = False,
) -> Repacked:
    """Rewrite the experts of `model` so that each is one read; the model's files stay unchanged.

    With `shard="1/4"` it writes a folder with the first of four ranks' experts and all that is not
    experts instead, in the model's own files, for a machine that `load(…, hosts=…)` uses.

    The records take as much disk space as the experts. If it is stopped or fails, the next call
    resumes; if all is done, the next call checks every record and rewrites damaged ones.

    Args:
        model: "demo", a folder, or a Hugging Face id.
        folder: where to write; by default beside the model, or in the cache folder if that is not
            writable. `load(..., repacked=folder)` looks there. With `shard` it must be named.
        shard: which rank's share, counted from 1, and of how many: `i/n`.
        placement: with `shard`, as in `load`: the loads must have the same.
        revision: a branch, tag or commit of a Hugging Face repository.
        trust_remote_code: allow the model folder's own Python code to run, if the model needs it.
        quiet: show no progress.

    Raises:
        RepackFailed: the disk is full, or a read or write failed; finished records are kept.
        ModelNotFound, CheckpointError, UnsupportedModel: as `load` raises them.
        OptionError: the model has no experts.
    """
    home = resolve(os.fspath(model), revision, quiet)
    check_whole(home)
    opened = ModelFolder(home, trusted=trust_remote_code)
    _, _, checkpoint, switches = open_model(opened)
    layers = layers_of(switches)
    if not layers:
        raise OptionError(f"{model} has no experts that are paged, so there is nothing to repack")
    if shard is not None:
        return _shard(opened, checkpoint, layers, folder, shard, placement, quiet)
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


def _shard(
    model: ModelFolder, checkpoint: Checkpoint, layers: dict[str, tuple[ExpertPart, ...]],
    folder: str | os.PathLike[str] | None, shard: str, placement: str, quiet: bool,
) -> Repacked:  # fmt: skip
    """Write one rank's share."""
    number, _, of = shard.partition("/")
    if not (number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of) <= MOST):
        raise OptionError(f"shard={shard!r} is no share: give i/n, as 1/4, with i from 1 to n")
    if folder is None:
        raise OptionError("a shard needs a folder of its own: give folder=… (--folder)")
    sizes = [parts[0].experts for parts in layers.values()]
    mine = [each == int(number) - 1 for each in placed(placement, sizes, int(of))]
    target = Path(os.fspath(folder)).expanduser()
    total = sum(size for each in needed(checkpoint, layers, mine).values() for size in _sizes(each))
    with (
        Progress(total=total, unit="B", unit_scale=True, leave=False, disable=quiet) as bar,
        model.view() as shown,
    ):
        numbers = int(number), int(of)
        nbytes = write_shard(target, shown, checkpoint, layers, mine, numbers, bar.update)
    experts = sum(int(each.sum()) for each in mine)
    return Repacked(target, experts, nbytes, experts, shard)


def _sizes(ranges: list[tuple[int, int]]) -> list[int]:
    return [end - begin for begin, end in ranges]


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
