"""Files and lines from strangers: safetensors headers, indexes, configs, repacked records,
traces, runs, chats, frames of the live view, and lines after `%outlier`. Inputs are changed in
their own form (JSON stays JSON, packed columns stay packed, checksums are right again) and as
bytes, guided by the branches that they reach. Every input is read in full, or refused by one short
sentence of the package's own, within 5 s of CPU time and 40 bytes of memory per byte of the file
(and 24 MB). The compiled loops check their indices in the long form.
Frames are changed in the browser's tests, too, which decode and fold them there.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import time
import traceback
import tracemalloc
import warnings
from importlib.util import find_spec
from pathlib import Path
from random import Random

from .child import run_child
from .counts import Counts, deadline

TITLE = "Fuzzing"
GROUP = 4.0
QUICK_S = 0.7
LONG_S = 600.0
UNITS = ("headers", "index", "config", "records", "traces", "runs", "chats", "frames", "lines")

MOST_S, MOST_NBYTES, PER_BYTE = 5.0, 24 << 20, 40
LONGEST = 330
"""Characters of a message."""
LARGEST = 1 << 16
"""Bytes of an input."""
GOOD = 100
"""Changed inputs that are kept to be changed again, as they could still be read."""
SURE_S = 60.0
"""From this time on a unit is guided by branches."""


class Watched:
    """Calls a target with inputs, and collects what must not be.

    Attributes:
        calls: how many inputs were read.
        wrong: the sentence of each fault, and the input that showed it.
        good: inputs that were read in full: the right ones, and some of the changed ones.
    """

    def __init__(self, name: str, scratch: Path, seeds: list[bytes]) -> None:
        from .targets import ALLOWED, TARGETS

        self.target, self.allowed = TARGETS[name], ALLOWED
        self.scratch = scratch / "work"
        self.calls = self.refused = 0
        self.peak = 0
        self.longest_s = 0.0
        self.wrong: dict[str, bytes] = {}
        self.good, self._right = list(seeds), len(seeds)
        warnings.simplefilter("ignore")
        self.scratch.mkdir(parents=True, exist_ok=True)
        self.target.call(seeds[0], self.scratch)  # compiles what is compiled on the first call

    def __call__(self, data: bytes) -> None:
        """Read one input."""
        shutil.rmtree(self.scratch, ignore_errors=True)
        self.scratch.mkdir(parents=True)
        self.calls += 1
        fault = ""
        tracing = tracemalloc.is_tracing()
        if tracing:
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
        begun = time.thread_time()
        try:
            self.target.call(data, self.scratch)
            self._remember(data)
        except self.allowed as error:
            self.refused += 1
            text = str(error)
            if type(error).__name__ != "HelpRequested" and len(text) > LONGEST + len(
                str(self.scratch)
            ):
                fault = f"the message has {len(text)} characters: {text[:80]}"
        except Exception as error:
            fault = f"{type(error).__name__}: {_ours(error)}"
        if (took := time.thread_time() - begun) > MOST_S:
            fault = f"it took {took:.0f} s"
        self.longest_s = max(self.longest_s, took)
        if tracing:
            peak = tracemalloc.get_traced_memory()[1] - before
            self.peak = max(self.peak, peak)
            if peak > MOST_NBYTES + PER_BYTE * len(data):
                fault = f"it took {peak >> 20} MB for {len(data)} bytes"
        if fault:
            self.wrong.setdefault(fault, data)

    def _remember(self, data: bytes) -> None:
        """Keep a good input, in place of one of the others but never of those from the start."""
        if len(self.good) < self._right + GOOD:
            self.good.append(data)
        elif self.calls % 7 == 0:
            self.good[self._right + self.calls % GOOD] = data

    def counts(self, name: str, how: str) -> Counts:
        """The rows of the log."""
        counts = Counts()
        tried = f"inputs, {how}"
        counts.add(tried, self.calls)
        for fault, data in self.wrong.items():
            counts.add(tried, 0, failed=f"{fault} (input {keep(name, data)})")
        return counts


def _ours(error: Exception) -> str:
    """What an error of others says, and where in the package it comes from."""
    frames = [
        f for f in traceback.extract_tb(error.__traceback__) if "outlier_jupyter" in f.filename
    ]
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{str(error)[:120]}{where}"


def keep(name: str, data: bytes) -> str:
    """Write an input that shows a fault to build/, and return its name."""
    folder = Path("build") / "torture" / name
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / hashlib.sha256(data).hexdigest()[:12]
    file.write_bytes(data)
    return file.name


def inputs_of(name: str) -> list[bytes]:
    """The inputs from which fuzzing begins: those that are right, and the kept ones."""
    from .corpus import kept
    from .targets import TARGETS

    return [*TARGETS[name].seeds(), *kept(name)]


def torture(seconds: float, seed: int, scratch: Path, unit: str) -> Counts:
    """Fuzz one target; guided by branches where time and the fuzzer are there."""
    if seconds >= SURE_S and find_spec("atheris"):
        return guided(unit, seconds, seed, scratch)
    with warnings.catch_warnings():
        return at_random(unit, seconds, seed, scratch)


def at_random(unit: str, seconds: float, seed: int, scratch: Path) -> Counts:
    """Read the kept inputs, then others with changes drawn from `seed`."""
    from .targets import TARGETS

    begin = inputs_of(unit)
    watched = Watched(unit, scratch, TARGETS[unit].seeds())
    more, rng = deadline(seconds), Random(seed)
    for data in begin:
        watched(data)
    while more():
        data = rng.choice(rng.choice((begin, watched.good)))
        for _ in range(rng.choice((1, 1, 2, 3))):
            data = watched.target.mutate(data, rng)[:LARGEST]
        watched(data)
    return watched.counts(unit, "changed at random")


def guided(unit: str, seconds: float, seed: int, scratch: Path) -> Counts:
    """The same in a child process, with libFuzzer and the package's branches as its guide."""
    begin, grown, result = scratch / "begin", scratch / "grown", scratch / "counts.json"
    for folder in (begin, grown):
        folder.mkdir()
    for number, data in enumerate(inputs_of(unit)):
        (begin / str(number)).write_bytes(data)
    env = {"NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(Path("build/torture/numba").resolve())}
    ended = run_child(
        "-m", "tests.torture.fuzz_child", unit, str(scratch), str(seconds), str(seed),
        timeout_s=seconds + 600, env=env,
    )  # fmt: skip
    counts = Counts()
    if result.exists():
        found = json.loads(result.read_text())
        tried = "inputs, guided by branches"
        counts.add(tried, found["calls"])
        for fault in found["wrong"]:
            counts.add(tried, 0, failed=fault)
        counts.measure(
            "most memory of one input; longest", f"{found['peak'] / 1e6:.1f} MB; "
            f"{found['longest_s']:.2f} s; {found['refused'] / max(1, found['calls']):.0%} refused"
        )  # fmt: skip
    if failure := ended.failure():
        sys.stderr.write(ended.errors[-3000:])
        crashed = sorted(scratch.glob("crash-*")) + sorted(scratch.glob("timeout-*"))
        inputs = ", ".join(keep(unit, file.read_bytes()) for file in crashed)
        counts.add("the fuzzer's process", failed=f"{failure} (input {inputs})")
    shutil.copytree(grown, Path("build") / "torture" / "grown" / unit, dirs_exist_ok=True)
    return counts
