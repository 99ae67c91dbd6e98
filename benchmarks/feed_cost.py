"""What it costs to record a token and to feed the live view with it, in CPU time of its thread.

    python benchmarks/feed_cost.py

The events are those of one decode step of 48 layers, 8 experts each, with a share of misses; a
frame is cut for every step, which is more than the one per 50 ms a run has.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
from results import append

from outlier_jupyter.events import (
    DECODE,
    CallStarted,
    Event,
    PagedIn,
    Routed,
    Sink,
    StepDone,
    TextProduced,
    Waited,
    Weighed,
)
from outlier_jupyter.notebook.live.frame_builder import FrameBuilder
from outlier_jupyter.trace.recorder import Recorder

LAYERS, EXPERTS, K, STEPS = 48, 128, 8, 300
NOBODY = np.zeros((0, 2), np.int16)


def step(misses: float) -> list[Event]:
    """The events of one decode step."""
    random = np.random.default_rng(0)
    events: list[Event] = [CallStarted(DECODE, np.zeros(1, np.int32), 0)]
    for layer in range(LAYERS):
        experts = random.choice(EXPERTS, (1, K), replace=False).astype(np.int32)
        hits = random.random((1, K)) >= misses
        events.append(Routed(layer, experts, hits, 1, 1))
        missed = experts[~hits].tolist()
        events += [PagedIn(layer, expert, 0, 2_654_208, 0, 10**6) for expert in missed]
        if missed:
            events.append(Waited(layer, 1, 1))
    events += [Weighed(layer, np.ones((1, K), np.float32)) for layer in range(LAYERS)]
    return [*events, StepDone(1, 1, 1), TextProduced("x")]


def _sixty_ms_a_step() -> Callable[[], int]:
    """A clock by which the feed cuts one frame a step of about LAYERS + 4 looks at it."""
    looks = iter(range(10**9))
    return lambda: next(looks) * 60_000_000 // (LAYERS + 4)


def spent_us(make: Callable[[], Sink], misses: float) -> tuple[float, float]:
    """Median and best CPU time of one step in microseconds."""
    events, sink, found = step(misses), make(), []
    for _ in range(STEPS):
        begin = time.thread_time_ns()
        for event in events:
            sink(event)
        found.append((time.thread_time_ns() - begin) / 1e3)
    return statistics.median(found), min(found)


def main() -> int:
    """Measure, print and append."""
    sinks: dict[str, Callable[[], Sink]] = {
        "recorder": lambda: Recorder(LAYERS, STEPS, NOBODY),
        "feed": lambda: FrameBuilder(
            layers=LAYERS, experts=EXPERTS, slots=2000, resident_at_start=NOBODY,
            on_frame=lambda frame: None, clock=_sixty_ms_a_step(),
        ),
    }  # fmt: skip
    rows: list[dict[str, object]] = []
    for name, make in sinks.items():
        for misses in (0.0, 0.1, 1.0):
            median, best = spent_us(make, misses)
            rows.append({"sink": name, "misses": misses, "median_us": round(median),
                         "best_us": round(best), "steps": STEPS})  # fmt: skip
            sys.stdout.write(f"{name:9} {misses:4.0%} misses {median:7.0f} µs a step\n")
    append("watching", rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
