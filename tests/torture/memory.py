"""Too little memory. In control groups of just the size that `ram_gb` or `cache_gb="auto"` counts
with, a model of 1.4 GB of experts is loaded and run: its process ends by itself, and the kernel
kills none. Under limits of the address space (`ulimit -v`) of any size, loads, runs of long
prompts, and caches that do not fit end with the right tokens or an error of the package's own, and
never with the process. Another process is made to wait for memory until the system itself reports
it (Linux's PSI), or reports come at random moments of runs: the cache shrinks, says so, and grows
back when memory is free, and tokens stay the same.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import Any

import outlier_jupyter
from benchmarks.cgroups import limited
from outlier_jupyter import Engine
from outlier_jupyter.engine.pressure import CALM_S, LOOK_S, SPARED, MemoryRelief
from outlier_jupyter.system.address_space import LOADED_NBYTES
from outlier_jupyter.system.memory_info import Machine
from outlier_jupyter.system.memory_pressure import PressureWatch, pressure_watch
from outlier_jupyter.testing import TINY_CONFIG, hollow_checkpoint, tiny_checkpoint
from tests.inspection import inside, pager_of, relieve_with
from tests.torture.child import run_child
from tests.torture.counts import Counts, Skipped, deadline

TITLE = "Too little memory"
GROUP = 6.0
QUICK_S = 0.5
LONG_S = 300.0
UNITS = ("groups", "limits", "stalls", "reports")
MB, GB = 10**6, 10**9
CONFIG = TINY_CONFIG | {
    "hidden_size": 1024, "moe_intermediate_size": 1024, "num_hidden_layers": 6,
    "num_experts": 128, "head_dim": 128, "num_attention_heads": 8, "num_key_value_heads": 2,
}  # fmt: skip
"""1.4 GB of experts, with no byte on disk."""
PROMPT, MOST = "a fox in a box, a bird on a wire", 16
WATCHDOG_S = 600.0
Tries = Iterator[tuple[str, str]]
"""Each try: its kind, and what was wrong, "" for nothing."""

IN_A_GROUP = """
import json, os, sys
with open(sys.argv[1], "w") as file: file.write(str(os.getpid()))
import outlier_jupyter
with outlier_jupyter.load(sys.argv[2], quiet=True, **json.loads(sys.argv[3])) as engine:
    engine.tokenizer.eos_token_ids = set()
    for length in json.loads(sys.argv[4]):
        engine.generate("x" * length, raw=True, max_tokens=16)
print("done")
"""


def group_tries(scratch: Path, rng: Random) -> Tries:
    """Loads and runs in groups."""
    model = hollow_checkpoint(scratch / "wide", CONFIG, dense_seed=1)
    while True:
        nbytes, promised = rng.randrange(900, 1600) * MB, rng.random() < 0.5
        options: dict[str, Any] = {"ram_gb": nbytes / GB} if promised else {"cache_gb": "auto"}
        options |= {"kernels": rng.choice(("auto", "mlx")), "kept_kv_gb": rng.choice((0, 0.02)),
                    "reader": rng.choice(("auto", "pread", "direct", "mmap"))}  # fmt: skip
        lengths = [rng.choice((3, 60, 300)) for _ in range(2)]
        with limited(nbytes) as prefix:
            if prefix is None:
                raise Skipped("no control group can be made here")
            group = Path(prefix[-1])
            ended = run_child("-c", IN_A_GROUP, str(group), str(model), json.dumps(options),
                              json.dumps(lengths), timeout_s=WATCHDOG_S)  # fmt: skip
            killed = kills(group.parent)
        failed = ended.failure("done") or ("the kernel killed in the group" if killed else "")
        yield (
            f"a run in a group of {'ram_gb' if promised else 'the size that auto finds'}",
            f"{nbytes // MB} MB, {options}, {lengths}: {failed}" if failed else "",
        )


def kills(group: Path) -> int:
    """How often the kernel ended a process of a group for memory, in either version of groups."""
    for name in ("memory.events", "memory.oom_control"):
        if (group / name).exists():
            rows = dict(line.split() for line in (group / name).read_text().splitlines())
            return int(rows.get("oom_kill", 0))
    return 0


UNDER_A_LIMIT = """
import json, resource, sys
import outlier_jupyter
from outlier_jupyter.errors import OutlierError
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
limit = size + int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
def tried(act):
    try: return act()
    except OutlierError as error: return "refused" if len(str(error)) < 400 else str(error)
found = []
def work():
    with outlier_jupyter.load(sys.argv[1], quiet=True, **json.loads(sys.argv[3])) as engine:
        engine.tokenizer.eos_token_ids = set()
        def run(length):
            return engine.generate("x" * length, raw=True, max_tokens=4).tokens.tolist()
        found.append(tried(lambda: run(3)))
        for length, experts in json.loads(sys.argv[4]):
            found.append(tried(lambda: (run(length), "ran")[1]))
            found.append(tried(lambda: (engine.resize(cache_experts=experts), "resized")[1]))
            found.append(tried(lambda: run(3)))
    return "loaded"
loaded = tried(work)
print(json.dumps([loaded, *found]))
"""


def limit_tries(scratch: Path, rng: Random) -> Tries:
    """Processes with an end of their address space."""
    model = hollow_checkpoint(scratch / "wide", CONFIG, dense_seed=1)
    wanted: dict[str, Any] = {}
    while True:
        kernels = rng.choice(("auto", "mlx"))
        room = LOADED_NBYTES + rng.choice((-GB, 10 * MB, 100 * MB, 400 * MB, 900 * MB))
        options = {"kernels": kernels, "cache_experts": rng.choice((12, 60)), "kept_kv_gb": 0}
        after = [[rng.choice((10, 300)), rng.choice((12, 100, 400, 768))] for _ in range(2)]
        ended = run_child("-c", UNDER_A_LIMIT, str(model), str(room), json.dumps(options),
                          json.dumps(after), timeout_s=WATCHDOG_S)  # fmt: skip
        failed = ended.failure()
        if not failed:
            loaded, *found = json.loads(ended.output.splitlines()[-1])
            if loaded not in ("loaded", "refused"):
                failed = f"it ended with {loaded}"
            lists = [each for each in found if isinstance(each, list)]
            if lists:
                wanted.setdefault(kernels, lists[0])
                if any(each != wanted[kernels] for each in lists):
                    failed = f"the tokens are {lists} in place of {wanted[kernels]}"
        yield (
            "a load, runs and resizes with little address space",
            f"{room // MB} MB, {options}, {after}: {failed}" if failed else "",
        )


class Memory:
    """A machine whose free memory a try sets, and a clock.

    Attributes:
        free: bytes; `now`, seconds.
    """

    def __init__(self) -> None:
        self.free, self.now = GB, 0.0

    def relief(self, engine: Engine) -> MemoryRelief:
        """What answers reports, and counts with this memory."""
        return relieve_with(
            engine, MemoryRelief(engine, lambda: Machine(GB, self.free), lambda: self.now)
        )


def grown_back(engine: Engine, memory: Memory, run: Callable[[], list[int]], full: int) -> str:
    """Let memory be free; "" if the cache is as large as before after some runs, without a note."""
    memory.free, memory.now = GB, memory.now + CALM_S
    for _ in range(6):
        memory.now += LOOK_S
        run()
    if inside(engine).slots != full:
        return f"it has {inside(engine).slots} of {full} slots again"
    return engine.status().memory_note


REST = """
import mmap, sys, time
with open(sys.argv[1], "w") as file: file.write(str(__import__("os").getpid()))
with open(sys.argv[2], "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as pages:
    end = time.monotonic() + float(sys.argv[3])
    while time.monotonic() < end:
        for at in range(0, len(pages), 4096): pages[at]
"""
"""Reads more than its group has room for, again and again."""
WAITING = 3
"""So many processes do; of one alone a fast disk's waits are too short to be reported."""


def forget(file: Path) -> None:
    """Drop a file from the page cache: pages that another group has are read without a wait."""
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def stall_tries(scratch: Path, rng: Random) -> Tries:
    """Reports of the system's own."""
    folder, large = tiny_checkpoint(scratch / "model"), scratch / "large"
    large.write_bytes(rng.randbytes(1 << 20) * 100)
    reported = threading.Event()
    with (
        ExitStack() as own,
        outlier_jupyter.load(folder, cache_experts=20, quiet=True) as engine,
    ):
        own.callback(PressureWatch().add(reported.set))
        if not pressure_watch.words.startswith("stalls"):
            raise Skipped(f"the system's reports of stalls are {pressure_watch.words}")
        engine.tokenizer.eos_token_ids = set()

        def run() -> list[int]:
            found: list[int] = engine.generate(PROMPT, max_tokens=MOST).tokens.tolist()
            return found

        wanted, full, memory = run(), inside(engine).slots, Memory()
        memory.relief(engine)
        while True:
            reported.clear()
            memory.free = (
                int(SPARED * GB) - rng.randrange(1, 12) * pager_of(engine).bank.expert_nbytes
            )
            forget(large)
            with limited(30 * MB) as prefix:
                if prefix is None:
                    raise Skipped("no control group can be made here")
                command = [sys.executable, "-c", REST, prefix[-1], str(large), "20"]
                with ExitStack() as ended:
                    for _ in range(WAITING):
                        ended.callback(ended.enter_context(subprocess.Popen(command)).kill)
                    end, failed = time.monotonic() + 25, ""
                    while inside(engine).slots == full and time.monotonic() < end:
                        if (found := run()) != wanted:
                            failed = f"it gave {found}"
            if inside(engine).slots == full and not reported.is_set():
                yield "processes that wait for memory, of which the system reports nothing", failed
                continue
            if inside(engine).slots == full:
                failed = failed or "the system reported it, and the cache is as large as before"
            elif "memory was short" not in engine.status().memory_note:
                failed = failed or "the cache is smaller, and the status does not say so"
            failed = failed or ("" if run() == wanted else "other tokens from a smaller cache")
            yield "processes that wait for memory", failed or grown_back(engine, memory, run, full)


def report_tries(scratch: Path, rng: Random) -> Tries:
    """Reports at random steps of runs."""
    folder = tiny_checkpoint(scratch / "model")
    outlier_jupyter.repack(folder, quiet=True)
    while True:
        options = {"kernels": rng.choice(("auto", "mlx")), "cache_experts": rng.choice((6, 12, 24)),
                   "repacked": rng.choice(("auto", "off")), "overlap": rng.choice(("on", "off")),
                   "reader": rng.choice(("pread", "direct", "mmap"))}  # fmt: skip
        with outlier_jupyter.load(folder, quiet=True, **options) as engine:
            engine.tokenizer.eos_token_ids = set()
            memory = Memory()
            relief = memory.relief(engine)

            def run(engine: Engine = engine) -> list[int]:
                found: list[int] = engine.generate(PROMPT, max_tokens=MOST).tokens.tolist()
                return found

            wanted, full, failed, found = run(), inside(engine).slots, "", []
            for step in engine.stream(PROMPT, max_tokens=MOST):
                found.append(step.token)
                if rng.random() < 0.3:
                    memory.free = rng.randrange(int(2 * SPARED * GB))
                    relief.report()
                if rng.random() < 0.3:
                    memory.free, memory.now = GB, memory.now + rng.choice((1, LOOK_S, CALM_S))
            if found != wanted:
                failed = f"{options}: it gave {found} in place of {wanted}"
            try:
                pager_of(engine).table.check()
            except AssertionError as error:
                failed = f"{options}: the slot table is not in order: {error}"
            if run() != wanted:
                failed = failed or f"{options}: other tokens after it"
            failed = failed or grown_back(engine, memory, run, full)
        yield "reports at random steps of a run", failed


UNIT_TRIES: dict[str, Callable[[Path, Random], Tries]] = {
    "groups": group_tries, "limits": limit_tries, "stalls": stall_tries, "reports": report_tries,
}  # fmt: skip


def torture(seconds: float, seed: int, scratch: Path, unit: str) -> Counts:
    """Take memory away until the time is over."""
    counts, more = Counts(), deadline(seconds)
    tries = UNIT_TRIES[unit](scratch, Random(seed))
    while more() or not counts.times:
        kind, failed = next(tries)
        counts.add(kind, failed=failed)
    return counts
