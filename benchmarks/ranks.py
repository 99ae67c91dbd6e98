"""What ranks cost, and whether the prediction for several machines holds, on one machine.

    python -m benchmarks.ranks [--slice FOLDER] [--dry]

The demo model, one processor for each process. `overhead`: all experts in RAM, one process and two
ranks in turn; the difference of a token's time, by layers. `predicted`: a quarter of the experts
cached by each process, and a disk of 4 MB/s for each; what the run of one process predicts for two
ranks, beside what they take. `network`: the same with an added latency of the ring's hops; `half`:
with half of that disk for each rank. `slice`: as `predicted`, with a model of `benchmark.models`
and 500 MB/s.
Each row has the prediction by the run's own times, and in `machine_…` that by this processor's
measured memory and Python and the made-up disk, for one process and for two.
Processes share the processors and one disk, which the made-up limits are far below.
"""

from __future__ import annotations

import os

os.environ |= {"NUMBA_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "OUTLIER_HISTORY": "0"}

import argparse
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.results import Row, append
from benchmarks.slow_worker import slow_disk
from outlier_jupyter import Engine, Trace, load
from outlier_jupyter.benchmark.geometry import prompt_of
from outlier_jupyter.distributed import launch
from outlier_jupyter.engine.measure_speed import measure_speed
from outlier_jupyter.system.machine_speed import MachineSpeed
from outlier_jupyter.trace.what_if_hosts import Network, what_if_hosts

TOKENS, ROUNDS = 24, 5
HOP_MS, ALL = 2.0, 192


@dataclass(frozen=True)
class Subject:
    """A model, its prompt, and each process's cache in experts and disk in bytes a second."""

    model: str
    prompt: str
    slots: int
    disk: float


DEMO = Subject("demo", "What is a mouse?", 48, 4e6)


def token_ms(trace: Trace) -> list[float]:
    """The times of the decoded tokens, without the first."""
    calls = trace.calls[trace.calls["phase"] == 1]
    return [float(ns) / 1e6 for ns in calls["ns"][1:]]


def run(engine: Engine, subject: Subject = DEMO) -> Trace:
    """One run of the prompt."""
    engine.tokenizer.eos_token_ids = set()
    raw = subject.model != DEMO.model
    return engine.generate(subject.prompt, raw=raw, max_tokens=TOKENS).trace


def mean(times: Sequence[float]) -> float:
    """Of a run's tokens."""
    return statistics.fmean(times)


def opened(ranks: int, slots: int, model: str = DEMO.model) -> Engine:
    """One process, or ranks."""
    options: dict[str, Any] = {"hosts": ranks} if ranks > 1 else {}
    return load(model, cache_experts=slots, warm="off", reader="pread", quiet=True, **options)


def overhead() -> tuple[Row, float]:
    """The time of an exchange where nothing is read."""
    found: dict[int, list[float]] = {1: [], 2: []}
    with opened(1, ALL) as one, opened(2, ALL // 2) as two:
        for number in range(ROUNDS + 2):
            for ranks, engine in ((1, one), (2, two)):
                trace = run(engine)
                if number >= 2:  # the first runs read the experts
                    found[ranks].append(statistics.median(token_ms(trace)))
        layers = trace.layers
    alone, spread = (statistics.median(found[ranks]) for ranks in (1, 2))
    each = (spread - alone) / layers
    row: Row = {
        "part": "overhead", "ranks": 2, "layers": layers, "one_ms": alone, "ranks_ms": spread,
        "least_ms": min(found[2]), "most_ms": max(found[2]), "layer_ms": each,
    }  # fmt: skip
    return row, each


def predicted(
    part: str, subject: Subject, machine: MachineSpeed, layer_ms: float, hop_ms: float = 0.0
) -> Row:
    """Two ranks, with a disk each, beside what one process and this machine's speeds predict.

    The run of one process has the demo's disk, or the subject's.
    """
    os.environ |= {"BENCH_DISK": str(subject.disk), "BENCH_HOP_MS": str(hop_ms)}
    with opened(1, subject.slots, subject.model) as one:
        alone = run(one, subject)
    with opened(2, subject.slots, subject.model) as two:
        spread = run(two, subject)
    # The ring's hops alone are slowed: of 2 + 2 (n - 1) hops these are half with two ranks.
    network = Network(latency_ms=hop_ms / 2, gb_per_s=1e3, layer_ms=layer_ms)
    halved = part == "half"
    [one_of] = what_if_hosts(alone, [1]).itertuples()
    [two_of] = what_if_hosts(
        alone, [2], network=network, disk_rate=subject.disk if halved else None
    ).itertuples()
    disk = replace(machine, disk=2 * subject.disk if halved else subject.disk)
    [one_by] = what_if_hosts(alone, [1], machine=disk).itertuples()
    disk = replace(machine, disk=subject.disk)
    [two_by] = what_if_hosts(alone, [2], network=network, machine=disk).itertuples()
    took, one_took = mean(token_ms(spread)), mean(token_ms(alone))
    reads = spread.reads[spread.reads["step"] > alone.calls["first_step"][-TOKENS]]
    return {
        "part": part, "ranks": 2, "layers": alone.layers, "hop_ms": hop_ms,
        "disk_mb_per_s": subject.disk / 1e6, "slots": subject.slots, "one_ms": one_took,
        "ranks_ms": took, "predicted_ms": float(two_of.token_ms),
        "predicted_one_ms": float(one_of.token_ms), "read_mb": float(reads["nbytes"].sum()) / 1e6,
        "error": float(two_of.token_ms) / took - 1, "memory_gb_per_s": machine.memory / 1e9,
        "million_loops_per_s": machine.loops / 1e6, "machine_ms": float(two_by.token_ms),
        "machine_one_ms": float(one_by.token_ms),
        "machine_error": float(two_by.token_ms) / took - 1,
        "machine_one_error": float(one_by.token_ms) / one_took - 1,
    }  # fmt: skip


def cases(folder: str | None) -> list[tuple[str, Subject, float]]:
    """Part, subject and added latency of each comparison."""
    found = [
        ("predicted", DEMO, 0.0),
        ("network", DEMO, HOP_MS),
        ("half", replace(DEMO, disk=DEMO.disk / 2), 0.0),
    ]
    if folder is not None:
        prompt = prompt_of(list(range(32)))
        found.append(("slice", Subject(folder, prompt, 128, 500e6), 0.0))
    return found


def main() -> None:
    """Measure, and add rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--slice", help="the folder of a model of four layers and 128 experts each")
    parser.add_argument("--dry", action="store_true", help="print, and append nothing")
    arguments = parser.parse_args()
    launch.PROGRAM = "benchmarks.slow_worker"
    os.sched_setaffinity(0, {0})
    machine = measure_speed((), 1 << 20, keep=False)
    first, layer_ms = overhead()
    rows = [first]
    for part, subject, hop_ms in cases(arguments.slice):
        own = DEMO.disk if subject.model == DEMO.model else subject.disk
        slow_disk(own)
        rows.append(predicted(part, subject, machine, layer_ms, hop_ms))
    for row in rows:
        row["load"] = os.getloadavg()[0]
        sys.stdout.write(" ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}"
                                  for k, v in row.items()) + "\n")  # fmt: skip
    if not arguments.dry:
        append("ranks", rows)


if __name__ == "__main__":
    main()
