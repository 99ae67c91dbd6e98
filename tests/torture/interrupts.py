"""SIGINT at random moments of a load, a prefill, a decode (with one token in compiled code and
with MLX's), a batch of prompts, a repack, a sweep, a save, a resize and a close; in half of the
tries a second one up to 30 ms later. Prefill and decode are ended by `stop()` and by a cancelled
`agenerate`, too, and a batch by `stop()`; what they made is a beginning of the right tokens. After
each try the engine's next call gives the tokens of a fresh engine, its slot tables are in order, no
read is in flight, the signal's handler is the one from before, and no thread or open file is left.
A file is the old one, the new one, or not there, and its folder has no other.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import shutil
import signal
import threading
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import outlier_jupyter
from outlier_jupyter import Engine, Run
from outlier_jupyter.errors import OutlierError
from outlier_jupyter.runs.many import ManyInterrupted
from outlier_jupyter.runs.run import Interrupted
from tests.inspection import fetch_under_way, inside, kernel_reads_in_flight, reading_threads
from tests.interrupting import open_files, threads
from tests.torture.counts import Counts, deadline
from tests.torture.shots import Gun

TITLE = "Interrupts at any moment"
GROUP = 5.0
QUICK_S = 0.5
LONG_S = 900.0
UNITS = ("load", "prefill", "decode", "decode-mlx", "batch", "repack", "sweep", "save", "resize",
         "close")  # fmt: skip
MOST = 300
"""Tries of a unit, at the most."""
QUESTION = "What is an expert?"
LONG_QUESTION = "Once upon a time an expert lived in a slot. " * 12
OPTIONS: dict[str, Any] = {"cache_experts": 24, "quiet": True, "reader": "direct"}


class Range:
    """Where a unit is shot at.

    Attributes:
        folder: a copy of the demo model, repacked but for `repack`.
        reference: the tokens of a fresh engine.
        others: threads that had begun before, as of other tests in this process.
    """

    def __init__(self, unit: str, scratch: Path, rng: Random) -> None:
        self.unit, self.rng = unit, rng
        self.others = threading.enumerate()
        self.folder = copy_of_demo(scratch)
        if unit != "repack":
            outlier_jupyter.repack(self.folder, folder=self.folder, quiet=True)
        self.kernels = "mlx" if unit == "decode-mlx" else "auto"
        with self.opened() as engine:
            self.reference = self.tokens(engine)
        self.gun = Gun()

    def opened(self) -> Engine:
        """A fresh engine."""
        return outlier_jupyter.load(self.folder, kernels=self.kernels, **OPTIONS)

    def tokens(self, engine: Engine) -> list[int]:
        """What an engine answers."""
        found: list[int] = engine.generate(QUESTION, max_tokens=8).tokens.tolist()
        return found

    def delays(self, usual_s: float) -> list[float]:
        """When to shoot at a call that takes about `usual_s`."""
        first = self.rng.uniform(0, 1.1 * usual_s)
        return [first, first + self.rng.uniform(0, 0.03)] if self.rng.random() < 0.5 else [first]

    def usual(self, call: Callable[[], object]) -> float:
        """How long a call takes, the shorter of two."""
        took = []
        for _ in range(2):
            begun = time.monotonic()
            call()
            took.append(time.monotonic() - begun)
        return min(took)

    def shoot(self, usual_s: float, call: Callable[[], object]) -> str:
        """Interrupt a call; what came of it that must not, "" for nothing."""
        with self.gun.installed():
            raised = self.gun.at(self.delays(usual_s), call)
            handler = signal.getsignal(signal.SIGINT)
        if handler != self.gun.handle:
            return "another handler of SIGINT was left"
        if raised is not None and not isinstance(raised, KeyboardInterrupt):
            return f"{type(raised).__name__} in place of KeyboardInterrupt: {raised}"
        return ""

    def wrong_with(self, engine: Engine) -> str:
        """What is wrong with an engine after an interrupt, "" for nothing."""
        for pager in inside(engine).pagers:
            if fetch_under_way(pager):
                return "a fetch is still under way"
            if getattr(pager, "queued", None) is not None and kernel_reads_in_flight(pager):
                return "the kernel still reads"
            try:
                pager.table.check()
            except AssertionError as error:
                return f"the slot table is not in order: {error}"
        try:
            found = self.tokens(engine)
        except OutlierError as error:
            return f"the next call raised {type(error).__name__}: {error}"
        if found != self.reference:
            return f"the next call gave {found} in place of {self.reference}"
        readers = [f"outlier-read_{number}" for number in range(reading_threads(engine))]
        now = threads(but=self.others)
        if not set(now) <= {*readers, "outlier-memory"} or len(set(now)) != len(now):
            return f"the threads are {now}"
        return ""

    def left(self) -> str:
        """What no engine should leave, "" for nothing."""
        gc.collect()
        names, files = threads(but=self.others), open_files(self.folder)
        return f"threads {names} and open files {files} are left" if names or files else ""


def copy_of_demo(scratch: Path) -> Path:
    """A copy of the demo model, without its records."""
    demo = Path(outlier_jupyter.__file__).parent / "demo"
    return Path(shutil.copytree(demo, scratch / "model"))


Tries = Generator[tuple[str, str], None, None]
"""Each try: its kind, and what was wrong."""


def load_tries(place: Range, scratch: Path) -> Tries:
    """A load, which may end in time; then another."""
    usual = place.usual(lambda: place.opened().close())
    while True:
        hold: list[Engine] = []
        failed = place.shoot(usual, lambda hold=hold: hold.append(place.opened()))
        for engine in hold:
            engine.close()
        hold.clear()
        failed = failed or place.left()
        with place.opened() as engine:
            failed = failed or place.wrong_with(engine)
        yield "SIGINT during a load", failed


def run_tries(place: Range, scratch: Path) -> Tries:
    """A run, ended by a signal, by `stop`, or by a cancelled task."""
    length = {"prefill": 1, "decode": 40, "decode-mlx": 16}[place.unit]
    prefill = place.unit == "prefill"
    options: dict[str, Any] = {"max_tokens": length, "reuse_kv": False}
    text = LONG_QUESTION if prefill else "Tell me everything about mixtures of experts."
    with place.opened() as engine:
        engine.tokenizer.eos_token_ids = set()
        place.reference = place.tokens(engine)
        whole = engine.generate(text, **options).tokens.tolist()
        usual = place.usual(lambda: engine.generate(text, **options))
        while True:
            way = place.rng.choice(("SIGINT", "SIGINT", "stop()", "a cancelled task"))
            if way == "SIGINT":
                failed = place.shoot(usual, lambda: engine.generate(text, **options))
            elif way == "stop()":
                failed = stopped(engine, place.delays(usual)[0],
                                 lambda: engine.generate(text, **options))  # fmt: skip
            else:
                failed = cancelled(engine, place.delays(usual)[0], text, options)
            run = engine.last_run
            made = run.tokens.tolist() if run is not None else []
            if run is not None and run.prompt == text and made != whole[: len(made)]:
                failed = failed or f"the partial run is {made} in place of {whole}"
            yield (
                f"{way} during a {place.unit.partition('-')[0]}",
                failed or place.wrong_with(engine),
            )


def stopped(engine: Engine, delay_s: float, call: Callable[[], object]) -> str:
    """Stop what a call runs, from another thread."""
    timer = threading.Timer(delay_s, engine.stop)
    timer.start()
    try:
        with suppress(Interrupted):
            call()
    except Exception as error:
        return f"stop() ended it with {type(error).__name__}: {error}"
    finally:
        timer.cancel()
        timer.join()
    return ""


def cancelled(engine: Engine, delay_s: float, text: str, options: dict[str, Any]) -> str:
    """Cancel an awaited run."""

    async def wait() -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(engine.agenerate(text, **options), delay_s)

    try:
        asyncio.run(wait())
    except Exception as error:
        return f"cancelling ended it with {type(error).__name__}: {error}"
    return ""


def batch_tries(place: Range, scratch: Path) -> Tries:
    """Several prompts at once: each has a beginning of its own tokens."""
    texts = (QUESTION, LONG_QUESTION, "Once upon a time", "Hello")
    with place.opened() as engine:
        engine.tokenizer.eos_token_ids = set()
        place.reference = place.tokens(engine)

        def together() -> list[list[int]]:
            try:
                many = engine.generate_many(texts, max_tokens=12, reuse_kv=False, at_once=3)
            except ManyInterrupted as stopped:
                made.extend((number, run.tokens.tolist())
                            for number, run in enumerate(stopped.runs.runs) if run)  # fmt: skip
                raise
            return [run.tokens.tolist() for run in many]

        made: list[tuple[int, list[int]]] = []
        whole, usual = together(), place.usual(together)
        while True:
            made.clear()
            way = place.rng.choice(("SIGINT", "SIGINT", "stop()"))
            if way == "SIGINT":
                failed = place.shoot(usual, together)
            else:
                failed = stopped(engine, place.delays(usual)[0], together)
            for number, tokens in made:
                if tokens != whole[number][: len(tokens)]:
                    failed = failed or f"prompt {number} has {tokens} in place of {whole[number]}"
            yield f"{way} during a batch of prompts", failed or place.wrong_with(engine)


def repack_tries(place: Range, scratch: Path) -> Tries:
    """A repack, interrupted once or twice, then resumed: the same bytes, and no other file."""
    to = scratch / "records"

    def repacked() -> None:
        outlier_jupyter.repack(place.folder, folder=to, quiet=True)

    def again() -> None:
        shutil.rmtree(to, ignore_errors=True)
        repacked()

    usual = place.usual(again)
    wanted = sums(to)
    while True:
        shutil.rmtree(to, ignore_errors=True)
        failed = ""
        for _ in range(place.rng.choice((1, 2))):
            failed = failed or place.shoot(usual, repacked)
        failed = failed or place.left()
        if left := open_files(to):
            failed = failed or f"open files {left}"
        repacked()
        if not failed and sums(to) != wanted:
            failed = f"resumed it made {sorted(sums(to))}, other than an uninterrupted one"
        yield "SIGINT during a repack, and its resumption", failed


def sums(folder: Path) -> dict[str, str]:
    """Each file of a folder, and the hash of its bytes."""
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


def sweep_tries(place: Range, scratch: Path) -> Tries:
    """A sweep over two cache sizes, after which the engine has its own again."""
    with place.opened() as engine:
        slots = engine.status().slots

        def swept() -> None:
            outlier_jupyter.sweep(
                engine, prompts=["Hi"], max_tokens=3, quiet=True, cache_experts=[16, 30]
            )

        usual = place.usual(swept)
        while True:
            failed = place.shoot(usual, swept)
            if engine.status().slots != slots:
                failed = failed or f"it has {engine.status().slots} slots in place of {slots}"
            yield "SIGINT during a sweep", failed or place.wrong_with(engine)


def save_tries(place: Range, scratch: Path) -> Tries:
    """A run that is saved, over an older file or as a new one."""
    folder = scratch / "saved"
    folder.mkdir()
    with place.opened() as engine:
        runs = [engine.generate(QUESTION, max_tokens=n, raw=True) for n in (2, 12)]
    to = folder / "run.safetensors"
    usual = place.usual(lambda: runs[1].save(to))
    while True:
        old = place.rng.random() < 0.5
        runs[0].save(to) if old else to.unlink()
        failed = place.shoot(usual, lambda: runs[1].save(to))
        names = [file.name for file in folder.iterdir()]
        if names not in ([], [to.name]) or (old and not names):
            failed = failed or f"the folder has {names}"
        if names and not failed:
            found = Run.load(to).tokens.tolist()
            if found not in [run.tokens.tolist() for run in runs]:
                failed = "the file is neither the old nor the new run"
        if not to.exists():
            runs[0].save(to)
        yield f"SIGINT during a save {'over a file' if old else 'of a new file'}", failed


def resize_tries(place: Range, scratch: Path) -> Tries:
    """A cache that grows or shrinks: it has the old size or the new one."""
    with place.opened() as engine:
        usual = place.usual(lambda: (engine.resize(cache_experts=60),
                                     engine.resize(cache_experts=20))) / 2  # fmt: skip
        while True:
            old, new = engine.status().slots, place.rng.choice((12, 24, 60))
            failed = place.shoot(usual, lambda new=new: engine.resize(cache_experts=new))
            if engine.status().slots not in (old, new):
                failed = failed or f"{old} slots became {engine.status().slots}, not {new}"
            yield "SIGINT during a resize", failed or place.wrong_with(engine)


def close_tries(place: Range, scratch: Path) -> Tries:
    """A close, and another, after which nothing is left."""
    engine = place.opened()
    usual = place.usual(engine.close)
    while True:
        engine = place.opened()
        place.tokens(engine)
        failed = place.shoot(max(usual, 0.003), engine.close)
        engine.close()
        failed = failed or place.left() or ("" if engine.closed else "it is not closed")
        yield "SIGINT during a close, and another close", failed


UNIT_TRIES: dict[str, Callable[[Range, Path], Tries]] = {
    "load": load_tries, "prefill": run_tries, "decode": run_tries, "batch": batch_tries,
    "repack": repack_tries, "sweep": sweep_tries, "save": save_tries, "resize": resize_tries,
    "close": close_tries,
}  # fmt: skip


def torture(seconds: float, seed: int, scratch: Path, unit: str) -> Counts:
    """Interrupt a unit until the time is over, and up to MOST times."""
    here = threading.current_thread() is threading.main_thread()
    assert here, "signals reach the main thread alone"
    place = Range(unit, scratch, Random(seed))
    counts, more = Counts(), deadline(seconds)
    tries = UNIT_TRIES[unit.partition("-")[0]](place, scratch)
    while counts.times < MOST and (more() or counts.times < 2):
        name, failed = next(tries)
        counts.add(name, failed=failed)
    tries.close()
    return counts
