"""Time of the routing measures and the LRU curve of a long trace: 100,000 tokens × 48 layers × 8.

    python -m benchmarks.routing_measures

In CPU seconds, over all threads, and in wall time, which means little on a busy machine.
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np

from outlier_jupyter.residency.replay import lru_curve
from outlier_jupyter.trace import Trace, TraceInfo
from outlier_jupyter.trace.routing_measures import over_time, routing_measures
from outlier_jupyter.trace.schema import CALL, EVICTION, READ
from outlier_jupyter.trace.what_if import routing_of

from .results import append

STEPS, LAYERS, K, EXPERTS, ROUNDS = 100_000, 48, 8, 128, 3


def made_up(steps: int = STEPS) -> Trace:
    """Skewed random choices; about four in ten are the previous token's."""
    rng = np.random.default_rng(0)
    start = np.minimum(rng.geometric(0.02, (steps, LAYERS)), EXPERTS) - 1
    stays = rng.random((steps, LAYERS)) < 0.4
    for step in range(1, steps):
        start[step] = np.where(stays[step], start[step - 1], start[step])
    # Odd strides reach 8 different experts.
    experts = (start[:, :, None] + np.arange(K) * 37) % EXPERTS
    return Trace(
        tokens=np.zeros(steps, np.int32),
        produced=np.full(steps, -1, np.int32),
        phase=(np.arange(steps) >= steps // 4).astype(np.uint8),
        call=np.zeros(steps, np.int32),
        step_ns=np.ones(steps, np.int64),
        experts=experts.astype(np.int16),
        weights=rng.random((steps, LAYERS, K), np.float32),
        hits=np.zeros((steps, LAYERS, K), bool),
        reads=np.zeros(0, READ),
        evictions=np.zeros(0, EVICTION),
        calls=np.zeros(1, CALL),
        resident_at_start=np.zeros((0, 2), np.int16),
        info=TraceInfo(experts_per_layer=(EXPERTS,) * LAYERS),
    )


def lru_curve_of(trace: Trace) -> None:
    """The curve, with every token as a call of its own."""
    routing = replace(routing_of(trace), starts=np.arange(trace.steps + 1))
    lru_curve(routing, trace.phase, [1] * LAYERS)


def main() -> None:
    """Time each part in CPU seconds, the best of three, after one small run that compiles."""
    small, trace = made_up(100), made_up()
    parts = {
        "measures, decode": lambda t: routing_measures(t, "decode"),
        "measures, both phases together": lambda t: routing_measures(t, None),
        "over time": over_time,
        "LRU curve of all sizes": lru_curve_of,
    }
    rows = []
    for name, part in parts.items():
        part(small)
        seconds, clock = [], []
        for _ in range(ROUNDS):
            begin, began = time.process_time(), time.perf_counter()
            part(trace)
            seconds.append(time.process_time() - begin)
            clock.append(time.perf_counter() - began)
        row = {"tokens": STEPS, "layers": LAYERS, "k": K, "experts": EXPERTS, "part": name}
        rows.append(
            row
            | {
                "cpu_s": round(min(seconds), 3),
                "slowest_cpu_s": round(max(seconds), 3),
                "wall_s": round(min(clock), 3),
            }
        )
        print(rows[-1])  # noqa: T201
    append("measures", rows)


if __name__ == "__main__":
    main()
