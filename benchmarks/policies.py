"""Which experts should stay: hit rates of each policy on recorded routing, and what asking costs.

    python -m benchmarks.policies TRACE.safetensors …

For each trace, token by token from an empty cache, at 0.9, 2 and 4 working sets of slots: rates,
and how much of the way from LRU to Belady's bound the default policy goes. Then the time of the LRU
curve of all sizes for 100,000 tokens × 48 layers × 8 of made-up routing. Rows go to
`benchmarks/results/policies-<machine>.csv`.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.results import Row, append
from outlier_jupyter.residency.replay import RecordedRouting, lru_curve
from outlier_jupyter.trace import Trace

TOKENS_WORTH = (0.9, 2, 4)


def rates(path: Path) -> list[Row]:
    """A row per size: hit rates of the policies, and the share of the way to the bound."""
    trace = Trace.load(path)
    token = trace.experts[0].size
    slots = [round(token * worth) for worth in TOKENS_WORTH]
    frame = trace.what_if(slots).pivot(index="slots", columns="policy", values="hits")
    rows: list[Row] = []
    for worth, size in zip(TOKENS_WORTH, slots, strict=True):
        lru, habit, bound = (int(frame.loc[size, name]) for name in ("lru", "predictive", "belady"))
        rows.append(
            {
                "what": path.stem,
                "tokens_worth": worth,
                "slots": size,
                "lru": round(lru / trace.experts.size, 4),
                "habit": round(habit / trace.experts.size, 4),
                "belady": round(bound / trace.experts.size, 4),
                "way_to_bound": round((habit - lru) / (bound - lru), 3),
            }
        )
    return rows


def curve(tokens: int = 100_000, layers: int = 48, width: int = 128, k: int = 8) -> Row:
    """Seconds of wall and of CPU time for the curve, compiled before; and how loaded it was."""
    rng = np.random.default_rng(0)
    popularity = rng.normal(0, 1, (layers, width)).astype(np.float32)
    experts = np.empty((tokens, layers, k), np.int16)
    for layer in range(layers):
        for first in range(0, tokens, 10_000):
            rows = experts[first : first + 10_000, layer]
            noise = np.log(rng.exponential(size=(len(rows), width)).astype(np.float32))
            rows[:] = np.argpartition(noise - popularity[layer], k, axis=1)[:, :k]
    starts = np.arange(tokens + 1)
    routing = RecordedRouting(experts, starts, (width,) * layers, np.zeros(layers, np.int64))
    short = replace(routing, experts=experts[:20], starts=starts[:21])
    lru_curve(short, np.ones(20, np.uint8), [1] * layers)
    load = os.getloadavg()[0]
    wall, cpu = time.perf_counter(), time.process_time()
    lru_curve(routing, np.ones(tokens, np.uint8), [1] * layers)
    return {
        "what": f"LRU curve of {tokens} x {layers} x {k}",
        "wall_s": round(time.perf_counter() - wall, 2),
        "cpu_s": round(time.process_time() - cpu, 2),
        "load": round(load, 1),
    }


def main() -> None:
    """Measure the traces named on the command line."""
    rows = [row for path in map(Path, sys.argv[1:]) for row in rates(path)]
    rows.append(dict.fromkeys(rows[0], "") | curve() if rows else curve())
    for row in rows:
        sys.stdout.write(f"{row}\n")
    sys.stdout.write(f"{append('policies', rows)}\n")


if __name__ == "__main__":
    main()
