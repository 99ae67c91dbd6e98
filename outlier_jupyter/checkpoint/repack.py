"""Repacks a model's experts as records, one read each; an interrupted repack can be resumed.

Records are written to a partial file, layer by layer: first a layer's bytes reach the disk, then a
line with its checksums reaches a journal. A resumed repack continues after the last such line. All
records are read back past the page cache and compared with the checksums before the file gets its
manifest and its name. The shards are only read.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar

from ..errors import CheckpointError, ReadFailed, RepackFailed
from ..system.files import sync_folder
from ..system.huge_pages import buffer
from ..system.interrupt import deferred
from .expert_reader import read_expert
from .readers import PAGE, Reader, open_reader
from .records import Layers, RecordLayout, Records, checksum, in_record, plan_records, source_of

THREADS = 4
"""Experts processed at once, each in its own memory."""
SPARE = 64 << 20
"""Bytes left free on the disk."""

Result = TypeVar("Result")
Each = Callable[[int], object]
"""Called on the calling thread with the number of bytes written or checked."""


class Written(NamedTuple):
    """The result of a repack: the records, and how many of them this call wrote."""

    records: Records
    written: int


class _Job:
    """The repack of one model's experts to one file."""

    def __init__(self, target: Path, shards: Sequence[Path], layers: Layers, each: Each) -> None:
        self.target, self.shards, self.layers, self.each = target, shards, layers, each
        self.source, self.plans = source_of(shards), plan_records(layers)
        self.partial = target.with_suffix(".partial")
        self.journal = target.with_suffix(".journal")
        self.reader: Reader
        self._memory = threading.local()

    def write(self, descriptor: int, plan: RecordLayout, expert: int) -> int:
        """Write one record, and return the checksum of its weights."""
        memory = self._buffer(plan.stride)
        views, begin = {}, 0
        parts = in_record(self.layers[plan.path])
        for part in parts:
            views[part.name] = memory[begin : begin + part.nbytes]
            begin += part.nbytes
        memory[begin:] = bytes(plan.stride - begin)
        read_expert(self.reader, parts, expert, views.__getitem__)
        offset, left = plan.record(self.target, expert).offset, memory
        while left:
            count = os.pwrite(descriptor, left, offset)
            offset, left = offset + count, left[count:]
        return checksum([memory[:begin]])

    def check(
        self, reader: Reader, file: Path, plan: RecordLayout, crcs: Sequence[int], expert: int
    ) -> bool:
        """Whether a record matches its checksum."""
        memory = self._buffer(plan.stride)
        try:
            # With the padding of its last page, so that the direct read needs no buffer.
            reader.read(plan.record(file, expert)._replace(nbytes=plan.stride), memory)
        except ReadFailed:
            return False
        return checksum([memory[: plan.nbytes]]) == crcs[expert]

    def damaged(self, file: Path, sums: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
        """(layer, expert) of the records in `file` that do not match their checksums."""
        reader = open_reader("direct", [file])
        try:
            found = []
            for layer, (plan, crcs) in enumerate(zip(self.plans, sums, strict=False)):
                good = _spread(partial(self.check, reader, file, plan, crcs), plan, self.each)
                found += [(layer, expert) for expert, ok in enumerate(good) if not ok]
        finally:
            reader.close()
        return found

    def done(self) -> list[list[int]]:
        """The checksums of the layers that an earlier call wrote for the same records."""
        if not self.journal.exists():
            return []
        first, *lines = self.journal.read_text().splitlines() or [""]
        if first != self.heading():
            return []
        sums = []
        for line in lines:
            try:
                sums.append(json.loads(line))
            except ValueError:  # a line that is cut short, as its layer may be
                break
        # The journal may be there without its file.
        size = self.partial.stat().st_size
        whole = [plan.begin + plan.stride * plan.experts <= size for plan in self.plans]
        return sums[: sum(whole)]

    def keep(self, sums: Sequence[Sequence[int]]) -> None:
        """Rewrite the journal with the layers that are done."""
        beside = self.journal.with_suffix(".journal~")
        beside.write_text("\n".join([self.heading(), *map(json.dumps, sums)]) + "\n")
        beside.replace(self.journal)

    def heading(self) -> str:
        """The journal's first line: the source and the layout of the records."""
        return json.dumps([self.source, [asdict(plan) for plan in self.plans]])

    def _buffer(self, nbytes: int) -> memoryview:
        """Page-aligned memory of this thread."""
        memory: memoryview | None = getattr(self._memory, "memory", None)
        if memory is None or len(memory) < nbytes:
            memory = self._memory.memory = buffer(max(nbytes, PAGE))
        return memory[:nbytes]


def write_records(
    target: Path, shards: Sequence[Path], layers: Layers, each: Each = lambda nbytes: None
) -> Written:
    """Write the experts of `layers`, stored in `shards`, to `target`, or resume that.

    Existing records are checked, and damaged ones are written again.

    Raises:
        RepackFailed: there is no room or permission, a read or write failed, or another process
            repacks. An existing file of records stays; what was written can be resumed.
    """
    job = _Job(target, shards, layers, each)
    try:
        with _locked(job) as stream:
            job.reader = open_reader("direct", shards)
            try:
                existing = _existing(job)
                return _mend(job, existing) if existing else _write_all(job, stream)
            finally:
                job.reader.close()
    except OSError as error:
        plain = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the quota is used up"}
        reason = plain.get(error.errno or 0, error.strerror or str(error))
        raise RepackFailed(
            f"the experts could not be written to {target}: {reason}; what was written is kept, so "
            "make room or choose another folder, and repack again to go on from there"
        ) from error
    except ReadFailed as error:
        raise RepackFailed(f"{error}; repack again to go on from there") from error


def _existing(job: _Job) -> Records | None:
    try:
        records = Records.open(job.target)
    except CheckpointError:
        return None
    return None if records.mismatch(job.shards, job.layers) else records


def _mend(job: _Job, records: Records) -> Written:
    bad = job.damaged(records.file, records.sums)
    if bad:
        with records.file.open("r+b") as stream:
            for layer, expert in bad:
                crc = job.write(stream.fileno(), job.plans[layer], expert)
                if crc != records.sums[layer][expert]:
                    raise RepackFailed(
                        f"{job.plans[layer].path} has other experts than when it was repacked, "
                        f"though its files look the same: delete {records.file} and repack again"
                    )
            os.fsync(stream.fileno())
    for left in (job.partial, job.journal):  # of a call that was interrupted when all was written
        left.unlink(missing_ok=True)
    return Written(records, len(bad))


def _write_all(job: _Job, stream: BinaryIO) -> Written:
    sums = job.done()
    records = Records(job.target, job.source, job.plans, sums)
    _check_room(job, records, len(sums))
    for plan in job.plans[: len(sums)]:
        job.each(plan.nbytes * plan.experts)
    began = len(sums)
    job.keep(sums)
    with job.journal.open("a") as journal:
        for plan in job.plans[began:]:
            sums.append(_spread(partial(job.write, stream.fileno(), plan), plan, job.each))
            os.fsync(stream.fileno())
            if hasattr(os, "posix_fadvise"):  # written bytes need not fill the page cache
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            journal.write(json.dumps(sums[-1]) + "\n")
            journal.flush()
            os.fsync(journal.fileno())
    _check_all(job, sums)
    os.ftruncate(stream.fileno(), records.nbytes)
    stream.seek(records.nbytes)
    stream.write(records.trailer())
    stream.flush()
    os.fsync(stream.fileno())
    job.partial.replace(job.target)
    sync_folder(job.target.parent)
    job.journal.unlink()
    return Written(records, sum(plan.experts for plan in job.plans[began:]))


def _check_room(job: _Job, records: Records, done: int) -> None:
    left = sum(plan.stride * plan.experts for plan in job.plans[done:])
    free = shutil.disk_usage(job.target.parent).free
    if left + SPARE > free:
        raise RepackFailed(
            f"repacking takes {left:,} bytes more in {job.target.parent}, {SPARE:,} are to stay "
            f"free, and {free:,} are free: make room, or choose another folder"
        )


def _check_all(job: _Job, sums: list[list[int]]) -> None:
    """Read all records back; layers with damaged ones are removed from the journal."""
    bad = job.damaged(job.partial, sums)
    if bad:
        job.keep(sums[: bad[0][0]])
        layer, expert = bad[0]
        raise RepackFailed(
            f"{len(bad)} records of {job.partial} are not what was written (the first is expert "
            f"{expert} of {job.plans[layer].path}): check the disk, and repack again to go on"
        )


def _spread(call: Callable[[int], Result], plan: RecordLayout, each: Each) -> list[Result]:
    """Call `call` with every expert of a layer, on threads; return the results in order.

    `each` is called on this thread: a progress bar in a notebook belongs to its cell. An interrupt
    waits for the experts under way, and so does a second one: they write to a file that is then
    closed, and whose number another file may get.
    """
    results: list[Result] = []
    with deferred() as interrupts:
        pool = ThreadPoolExecutor(THREADS, thread_name_prefix="outlier-repack")
        try:
            for ended in [pool.submit(call, expert) for expert in range(plan.experts)]:
                if interrupts.noted:
                    break
                results.append(ended.result())
                each(plan.nbytes)
        finally:
            pool.shutdown(cancel_futures=True)
    if len(results) < plan.experts:  # the handler of SIGINT has not raised
        raise KeyboardInterrupt
    return results


@contextmanager
def _locked(job: _Job) -> Iterator[BinaryIO]:
    """The partial file, open and locked against other processes."""
    job.target.parent.mkdir(parents=True, exist_ok=True)
    with job.partial.open("r+b" if job.partial.exists() else "w+b") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RepackFailed(
                f"another process is repacking to {job.target}: wait for it, or stop it"
            ) from None
        yield stream
