"""A tiny model on disks that fail, with every reader, with compiled kernels and MLX's, repacked or
not. Reads that fail, are short, late or of other bytes: by the public `FaultyReader`, and by a real
file system of our own (Linux's FUSE), below the page cache, memory maps and the kernel's queue.
Short answers come past the page cache, in which the kernel has zeros in place of what is left out.
Files that are removed, replaced, cut, or written to at random moments of a load and a run. A full
file system (a small tmpfs) under runs, traces, reports, chats, contexts and repacked experts. Every
run has the right tokens, or a right beginning of them that is kept with one error; afterwards no
read is under way, each resident slot has the bytes of its expert's file, and once the disk is good
the engine, or a new one where files changed, gives the right tokens. A file is the old or the new
one, with none beside it. A device-mapper target was not to be had.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import outlier_jupyter
from outlier_jupyter import Chat, Engine, Run
from outlier_jupyter.checkpoint import ByteRange, read_expert, records
from outlier_jupyter.errors import CheckpointChanged, CheckpointError, OutlierError, ReadFailed
from outlier_jupyter.options import READERS
from outlier_jupyter.paging.slot_bank import StagedSlotBank
from outlier_jupyter.residency.table_order import slots_of
from outlier_jupyter.testing import FAULTS, FaultyReader, tiny_checkpoint
from tests.faulty_disk import Disk, Unavailable, faulty_disk
from tests.full_disk import files_of_at_most
from tests.inspection import inside, kernel_reads_in_flight, reader_of, replace_reader
from tests.torture.counts import Counts, Skipped, deadline

TITLE = "Disks that fail"
GROUP = 1.0
QUICK_S = 0.7
LONG_S = 300.0
UNITS = ("reads", "mounted", "files", "full")
PROMPT, MOST = "a fox in a box", 16
SHARD = "model.safetensors"
Tries = Generator[tuple[str, str], None, None]
"""Each try: its kind, and what was wrong, "" for nothing."""


class Place:
    """A tiny model, repacked, and what it generates from a good disk.

    Attributes:
        folder: the model's.
        wanted: its tokens, by kernels.
    """

    def __init__(self, scratch: Path, rng: Random) -> None:
        self.scratch, self.rng = scratch, rng
        self.folder = tiny_checkpoint(scratch / "whole")
        outlier_jupyter.repack(self.folder, quiet=True)
        self.wanted = {}
        for kernels in ("auto", "mlx"):
            with self.opened(self.folder, kernels=kernels) as engine:
                self.wanted[kernels] = engine.generate(PROMPT, max_tokens=MOST).tokens.tolist()

    def opened(self, folder: Path, **options: Any) -> Engine:
        """An engine that never ends by itself."""
        engine = outlier_jupyter.load(folder, quiet=True, **{"cache_experts": 7} | options)
        engine.tokenizer.eos_token_ids = set()
        return engine

    def options(self) -> dict[str, Any]:
        """Options of a load, drawn at random."""
        choose = self.rng.choice
        return {"kernels": choose(("auto", "mlx")), "reader": choose(READERS),
                "repacked": choose(("auto", "off")), "overlap": choose(("auto", "on", "off")),
                "cache_experts": choose((4, 7, 14))}  # fmt: skip

    def run(self, engine: Engine, kernels: str) -> tuple[CheckpointError | None, str]:
        """A run: its error, if any, and what is wrong."""
        found: list[int] = []
        met = None
        try:
            found.extend(step.token for step in engine.stream(PROMPT, max_tokens=MOST))
        except CheckpointError as error:
            met = error
        except Exception as error:
            return None, f"{type(error).__name__}: {error}"
        run, wanted = engine.last_run, self.wanted[kernels]
        kept = run.tokens.tolist() if run is not None else []
        if found != wanted[: len(found)] or kept != wanted[: len(kept)]:
            return met, f"it gave {found} and kept {kept} in place of {wanted}"
        if met is None and len(found) < MOST:
            return met, f"it ended after {len(found)} tokens without an error"
        if met is not None and len(str(met)) > 330:
            return met, f"the message has {len(str(met))} characters"
        if (
            met
            and found
            and (run is None or run.finish_reason != "error" or len(kept) < len(found))
        ):
            return met, f"of {len(found)} tokens {len(kept)} are kept"
        return met, unsettled(engine)


def unsettled(engine: Engine) -> str:
    """What is in doubt after a run: reads under way, or a slot without its expert's bytes."""
    for pager in inside(engine).pagers:
        if kernel_reads_in_flight(pager):
            return "the kernel still reads"
        try:
            pager.table.check()
        except AssertionError as error:
            return f"the slot table is not in order: {error}"
    return ""


def wrong_slots(engine: Engine) -> str:
    """Compare all resident slots with the files; the disk must be good."""
    for pager in inside(engine).pagers:
        if isinstance(pager.bank, StagedSlotBank):
            continue
        for layer, parts in pager.parts.items():
            slots = slots_of(pager.table, layer, parts[0].experts)
            for expert in (slots >= 0).nonzero()[0]:
                fresh = {part.name: bytearray(part.nbytes) for part in parts}
                read_expert(reader_of(engine), parts, int(expert),
                            lambda name, fresh=fresh: memoryview(fresh[name]))  # fmt: skip
                for name, data in fresh.items():
                    if pager.bank.row(name, int(slots[expert])) != data:
                        return f"the slot of expert {layer}:{expert} has other bytes of {name}"
    return ""


class Faults:
    """Which reads of a `FaultyReader` have a fault: a share of those after the first ones.

    Attributes:
        kind: of FAULTS; `count`, how many had it.
    """

    def __init__(self, rng: Random) -> None:
        self.rng, self.kind, self.count = rng, rng.choice(FAULTS), 0
        self._share, self._first = rng.choice((0.02, 0.2, 1)), rng.randrange(60)

    def __call__(self, where: ByteRange) -> str:
        """The fault of a read."""
        self._first -= 1
        if self._first >= 0 or self.rng.random() >= self._share:
            return ""
        self.count += 1
        return self.kind


def read_tries(place: Place) -> Tries:
    """The public fake between engine and files."""
    while True:
        options, faults = place.options(), Faults(place.rng)
        with place.opened(place.folder, **options) as engine:
            inner = reader_of(engine)
            replace_reader(engine, FaultyReader(inner, faults))
            met, failed = place.run(engine, options["kernels"])
            expected = {"slow": None, "changed": CheckpointChanged}.get(faults.kind, ReadFailed)
            if type(met) is not (expected if faults.count and expected else type(None)):
                failed = failed or f"{faults.count} reads failed, and it ended with {met!r}"
            replace_reader(engine, inner)
            if faults.kind != "changed":
                failed = failed or wrong_slots(engine)
                failed = failed or place.run(engine, options["kernels"])[1]
        yield f"a reader whose reads are {NAMES[faults.kind]}", failed


NAMES = {"error": "errors", "short": "short", "slow": "late", "changed": "of other bytes"}


def mounted_tries(place: Place) -> Tries:
    """A real file system."""
    try:
        with ExitStack() as stack:
            at = place.scratch / "mounted"
            at.mkdir()
            disk = stack.enter_context(faulty_disk(place.folder, at))
            while True:
                yield mounted(place, disk)
    except Unavailable as why:
        raise Skipped(str(why)) from why


def mounted(place: Place, disk: Disk) -> tuple[str, str]:
    """A run, or a load and a run, from a mounted disk that fails."""
    rng, options = place.rng, place.options()
    kind = rng.choice(tuple(NAMES))
    loads = rng.random() < 0.3
    every, most = rng.choice((1, 2, 7)), rng.choice((1, 2, 50, 1 << 40))
    what = f"{'a load' if loads else 'a run'} from a mounted disk whose reads are {NAMES[kind]}"
    disk.forget()
    disk.uncached(kind == "short")
    if loads:
        disk.fail(kind, every, most)
    try:
        engine = place.opened(disk.folder, **options)
    except CheckpointError:
        disk.heal()
        return what, "" if loads and kind != "slow" else "the load failed"
    except Exception as error:
        disk.heal()
        return what, f"{type(error).__name__}: {error}"
    with engine:
        if not loads:
            disk.forget()
            disk.fail(kind, every, most)
        met, failed = place.run(engine, options["kernels"])
        count = disk.failed()
        disk.heal()
        allowed: tuple[type, ...] = {
            "error": (ReadFailed,), "changed": (CheckpointChanged,)
        }.get(kind, ()) if count else ()  # fmt: skip
        if met is not None and type(met) not in allowed:
            failed = failed or f"{count} reads failed, and it ended with {met!r}"
        if kind != "changed":
            failed = failed or wrong_slots(engine)
            met, again = place.run(engine, options["kernels"])
            failed = failed or again or (f"the disk is good, and {met}" if met else "")
    return what, failed


def cut(file: Path, rng: Random) -> None:
    """Cut somewhere."""
    os.truncate(file, rng.randrange(file.stat().st_size))


def overwrite(file: Path, rng: Random) -> None:
    """Other bytes from somewhere on."""
    begin = rng.randrange(file.stat().st_size)
    with file.open("r+b") as stream:
        stream.seek(begin)
        stream.write(os.urandom(rng.randrange(1, file.stat().st_size - begin + 1)))


def replace(file: Path, rng: Random) -> None:
    """Another file of the same size takes its name."""
    beside = file.with_suffix(".new")
    beside.write_bytes(os.urandom(file.stat().st_size))
    beside.replace(file)


def remove(file: Path, rng: Random) -> None:
    """No file."""
    file.unlink()


SPOILS = {"cut": cut, "written to": overwrite, "replaced": replace, "removed": remove}


def file_tries(place: Place) -> Tries:
    """Files that change in the middle of a load or a run."""
    folder, rng = place.scratch / "spoilt", place.rng
    while True:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(place.folder, folder)
        options, loads = place.options(), rng.random() < 0.3
        file = folder / (records.NAME if options["repacked"] == "auto" else SHARD)
        name = rng.choice(tuple(SPOILS))
        timer = threading.Timer(rng.uniform(0, 0.1), SPOILS[name], (file, rng))
        what = f"a file {name} during a {'load' if loads else 'run'}"
        if loads:
            timer.start()
        failed = ""
        try:
            with place.opened(folder, **options) as engine:
                if not loads:
                    timer.start()
                met, failed = place.run(engine, options["kernels"])
                timer.join()
                if met is not None and not isinstance(met, CheckpointChanged):
                    failed = failed or f"it ended with {met!r}"
                again, later = place.run(engine, options["kernels"])
                if met is not None and not isinstance(again, CheckpointChanged):
                    later = f"a file changed, and the next run ended with {again!r}"
                failed = failed or later
        except CheckpointError as error:
            failed = "" if loads else f"the load ended with {error!r}"
        except Exception as error:
            failed = f"{type(error).__name__}: {error}"
        timer.join()
        yield what, failed


@contextmanager
def small_disk(at: Path) -> Iterator[Callable[[int], Any]]:
    """A file system of 2 MB at a folder, else files of a bounded size.

    Yields a function of the room that is left, whose block has no more.
    """
    at.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(at)]
    try:
        real = subprocess.run(mount, capture_output=True).returncode == 0
    except OSError:
        real = False

    @contextmanager
    def room(nbytes: int) -> Iterator[None]:
        if not real:
            with files_of_at_most(max(1, nbytes)):
                yield
            return
        free = os.statvfs(at)
        filler = at / ".filler"
        filler.write_bytes(bytes(max(0, free.f_bavail * free.f_frsize - nbytes)))
        try:
            yield
        finally:
            filler.unlink()

    try:
        yield room
    finally:
        if real:
            subprocess.run(["umount", "-l", str(at)], check=True)


def full_tries(place: Place) -> Tries:
    """Everything that writes, onto a disk that is full after some bytes."""
    at, rng = place.scratch / "small", place.rng
    repacking = import_module("outlier_jupyter.checkpoint.repack")
    with ExitStack() as stack, small_disk(at) as room, place.opened(place.folder) as engine:
        stack.enter_context(patch.object(repacking, "SPARE", 0))  # it stops where the disk is full
        engine.generate(PROMPT, max_tokens=2)
        old = engine.last_run
        run = engine.generate(PROMPT, max_tokens=MOST, alternatives=3)
        chat = stack.enter_context(closing(Chat(engine, max_tokens=4)))
        chat.send("hello")
        to = at / "file"
        writes: dict[str, Callable[[], object]] = {
            "a run": lambda: run.save(to), "a trace": lambda: run.trace.save(to),
            "a report": lambda: run.report(to), "a chat": lambda: chat.save(to),
            "a context": lambda: engine.save_context(PROMPT * 9, to),
            "repacked experts": lambda: outlier_jupyter.repack(place.folder, at / "to", quiet=True),
        }  # fmt: skip
        while True:
            what = rng.choice(tuple(writes))
            for left in (to, at / "to"):
                shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
            if there := rng.random() < 0.5 and what != "repacked experts":
                old.save(to)
            failed = ""
            with room(rng.choice((0, 4096, rng.randrange(100_000), rng.randrange(2 << 20)))):
                try:
                    writes[what]()
                    there = False
                except OutlierError as error:
                    text = str(error)
                    failed = "" if len(text) < 400 and "\n" not in text else f"it says {text[:90]}"
                except Exception as error:
                    failed = f"{type(error).__name__}: {error}"
            names = sorted(file.name for file in at.iterdir())
            if names not in ([], ["file"], ["to"]):
                failed = failed or f"the folder has {names}"
            if there and Run.load(to).tokens.tolist() != old.tokens.tolist():
                failed = failed or "the old file is another"
            try:
                writes[what]()
            except OutlierError as error:
                failed = failed or f"with room for it, {error}"
            yield f"{what} onto a full disk", failed


UNIT_TRIES = {"reads": read_tries, "mounted": mounted_tries, "files": file_tries,
              "full": full_tries}  # fmt: skip


def torture(seconds: float, seed: int, scratch: Path, unit: str) -> Counts:
    """Fail a unit's disk until the time is over."""
    counts, more = Counts(), deadline(seconds)
    tries = UNIT_TRIES[unit](Place(scratch, Random(seed)))
    try:
        while more() or counts.times < 2:
            kind, failed = next(tries)
            counts.add(kind, failed=failed)
    finally:
        tries.close()
    return counts
