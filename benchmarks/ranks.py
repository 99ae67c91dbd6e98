"""What ranks cost, and whether the prediction for several machines holds, on one machine.

    python -m benchmarks.ranks

The demo model, one processor for each process. `overhead`: all experts in RAM, one process and two
ranks in turn; the difference of a token's time, by layers. `predicted`: a quarter of the experts
cached by each process, and a disk of 4 MB/s for each; what the run of one process predicts for two
ranks, beside what they take. `network`: the same with an added latency of the ring's hops; `half`:
with half of that disk for each rank.
Processes share the processors and one disk, which the made-up limits are far below.
"""

from __future__ import annotations

import os

os.environ |= {"NUMBA_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "OUTLIER_HISTORY": "0"}

import statistics
import sys
from collections.abc import Sequence
from typing import Any

from benchmarks.results import Row, append
from benchmarks.slow_worker import slow_disk
from outlier_jupyter import Engine, Trace, load
from outlier_jupyter.distributed import launch
from outlier_jupyter.trace.what_if_hosts import Network, what_if_hosts

PROMPT, TOKENS, ROUNDS = "What is a mouse?", 24, 5
DISK, HOP_MS, SLOTS, ALL = 4e6, 2.0, 48, 192


def token_ms(trace: Trace) -> list[float]:
    """The times of the decoded tokens, without the first."""
    calls = trace.calls[trace.calls["phase"] == 1]
    return [float(ns) / 1e6 for ns in calls["ns"][1:]]


def run(engine: Engine) -> Trace:
    """One run of the prompt."""
    engine.tokenizer.eos_token_ids = set()
    return engine.generate(PROMPT, max_tokens=TOKENS).trace


def mean(times: Sequence[float]) -> float:
    """Of a run's tokens."""
    return statistics.fmean(times)


def opened(ranks: int, slots: int) -> Engine:
    """One process, or ranks."""
    options: dict[str, Any] = {"hosts": ranks} if ranks > 1 else {}
    return load("demo", cache_experts=slots, warm="off", reader="pread", quiet=True, **options)


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


def predicted(layer_ms: float, hop_ms: float, disk: float) -> Row:
    """Two ranks, with a disk of so many bytes a second each, beside what one process predicts."""
    os.environ |= {"BENCH_DISK": str(disk), "BENCH_HOP_MS": str(hop_ms)}
    with opened(1, SLOTS) as one:
        alone = run(one)
    with opened(2, SLOTS) as two:
        spread = run(two)
    # The ring's hops alone are slowed: of 2 + 2 (n - 1) hops these are half with two ranks.
    network = Network(latency_ms=hop_ms / 2, gb_per_s=1e3, layer_ms=layer_ms)
    one_of = what_if_hosts(alone, [1]).iloc[0]
    rate = None if disk == DISK else disk
    two_of = what_if_hosts(alone, [2], network=network, disk_rate=rate).iloc[0]
    took, one_took = mean(token_ms(spread)), mean(token_ms(alone))
    reads = spread.reads[spread.reads["step"] > alone.calls["first_step"][-TOKENS]]
    return {
        "part": "network" if hop_ms else "predicted" if disk == DISK else "half", "ranks": 2,
        "layers": alone.layers, "hop_ms": hop_ms, "disk_mb_per_s": disk / 1e6, "slots": SLOTS,
        "one_ms": one_took, "ranks_ms": took, "predicted_ms": float(two_of.token_ms),
        "predicted_one_ms": float(one_of.token_ms), "read_mb": float(reads["nbytes"].sum()) / 1e6,
        "error": float(two_of.token_ms) / took - 1,
    }  # fmt: skip


def main() -> None:
    """Measure, and add rows."""
    launch.PROGRAM = "benchmarks.slow_worker"
    os.sched_setaffinity(0, {0})
    first, layer_ms = overhead()
    slow_disk(DISK)
    cases = (0.0, DISK), (HOP_MS, DISK), (0.0, DISK / 2)
    rows = [first, *(predicted(layer_ms, *case) for case in cases)]
    for row in rows:
        row["load"] = os.getloadavg()[0]
        sys.stdout.write(" ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}"
                                  for k, v in row.items()) + "\n")  # fmt: skip
    if "--dry" not in sys.argv:
        append("ranks", rows)


if __name__ == "__main__":
    main()
