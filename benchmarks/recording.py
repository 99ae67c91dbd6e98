"""The cost in decode of recording a run and showing it live: with both and with neither, in turn.

    python -m benchmarks.bench --only recording

*Neither* has no subscribers, and the router tap is off. *Live* is as in a cell: the recorder, and a
frame builder whose frames a live view encodes and sends (to no page: no kernel runs here, so the
socket's share is not included). The subscribers change within a run, every few tokens: the speed of
a machine's memory drifts by the minute, and whole runs, one after the other, differ by more than
the cost. A block is a stretch of each; the cost is the median over the blocks of the extra time of
*live* as a share of *neither*, in wall time and in CPU time of the decode thread. `error` is the
standard error of the wall time's median: two tokens of the same run differ by a tenth. `sinks` is
measured directly: the share of decode time spent in subscribers. Frames wait as many times as long
as they took, so single tokens in turn would have twice the frames of a run.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import NormalDist, median, quantiles
from typing import Any
from unittest.mock import patch

from benchmarks.results import Row
from outlier_jupyter.benchmark.geometry import prompt_of
from outlier_jupyter.benchmark.rounds import digits
from outlier_jupyter.benchmark.routing import Routes
from outlier_jupyter.benchmark.subjects import BenchmarkText
from outlier_jupyter.engine.engine import Engine
from outlier_jupyter.notebook.live.frame_builder import FrameBuilder
from outlier_jupyter.notebook.live.show import make_frame_builder
from outlier_jupyter.notebook.live.widget import LiveView

WAYS = ("neither", "live")
ROUNDS, BLOCKS, STRETCH = 2, 32, 8
"""Runs, the blocks in each run, and the tokens of one way in a block."""
WARM = 16
"""Tokens decoded before the first block."""
LISTENED = 128
"""Tokens of the run in which the subscribers are timed."""
MIDDLE_HALF = 2 * NormalDist().inv_cdf(0.75)
"""How wide the middle half of normal values is, in standard deviations."""


class Watch:
    """The subscribers during a run, changed between its tokens.

    Args:
        engine: in a run, with the frame builder of a view among its subscribers.
    """

    def __init__(self, engine: Engine) -> None:
        self._bus, self._tap = engine._bus, engine._installed.tap
        self._begin = self._tap.begin
        self._by_kind: dict[str, Any] = {"neither": {}, "live": self._bus._by_kind}

    def set(self, way: str) -> None:
        """Set the subscribers from the next token on."""
        self._bus._by_kind = self._by_kind[way]
        self._tap.begin = self._tap.forget if way == "neither" else self._begin  # type: ignore[method-assign]


@contextmanager
def live(engine: Engine) -> Iterator[None]:
    """With a view attached, as `%%outlier` and `watch` do."""
    view = LiveView(kernel_id="")
    feed = make_frame_builder(engine, view.push)
    unsubscribe = engine.subscribe(feed, *FrameBuilder.KINDS)
    try:
        yield
    finally:
        unsubscribe()
        view.close()


def decode(engine: Engine, ids: list[int]) -> list[dict[str, tuple[float, float]]]:
    """One run: for each block, mean wall and CPU seconds of a token, by way."""
    found: list[dict[str, tuple[float, float]]] = []
    with live(engine):
        tokens = 1 + WARM + len(WAYS) * BLOCKS * STRETCH
        steps = engine.stream(prompt_of(ids), raw=True, max_tokens=tokens)
        for _ in range(1 + WARM):  # one of them is the prompt's
            next(steps)
        watch = Watch(engine)
        for number in range(BLOCKS):
            block = {}
            for way in WAYS[:: -1 if number % 2 else 1]:
                watch.set(way)
                wall, cpu = time.perf_counter(), time.thread_time()
                for _ in range(STRETCH):
                    next(steps)
                spent = time.perf_counter() - wall, time.thread_time() - cpu
                block[way] = spent[0] / STRETCH, spent[1] / STRETCH
            found.append(block)
        watch.set("live")
        steps.close()
    return found


def standard_error(values: list[float]) -> float:
    """Of the median of `values`, from the width of their middle half, as if they were normal."""
    low, _, high = quantiles(values, n=4)
    return math.sqrt(math.pi / 2 / len(values)) * (high - low) / MIDDLE_HALF


class Timed:
    """The engine's subscribers, with the time that they took."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.ns = 0

    def __call__(self, event: object) -> None:
        """Pass the event to them."""
        begin = time.perf_counter_ns()
        self._inner(event)
        self.ns += time.perf_counter_ns() - begin

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def sinks_share(engine: Engine, ids: list[int]) -> float:
    """The share of a run's decode time that its subscribers take, with a view attached."""
    timed = Timed(engine._bus)
    with live(engine), patch.object(engine, "_bus", timed):
        pagers = engine._installed.pagers
        before = [pager.sink for pager in pagers]
        for pager in pagers:
            pager.sink = timed
        try:
            begin = None
            for _ in engine.stream(prompt_of(ids), raw=True, max_tokens=LISTENED):
                if begin is None:
                    begin, timed.ns = time.perf_counter_ns(), 0
            assert begin is not None
            return timed.ns / (time.perf_counter_ns() - begin)
        finally:
            for pager, sink in zip(pagers, before, strict=True):
                pager.sink = sink


def cost(engine: Engine, routes: Routes, say: Callable[[object], None]) -> list[Row]:
    """A row for *neither* and one for *live*."""
    ids = BenchmarkText(0, 16, WARM + len(WAYS) * BLOCKS * STRETCH).ids(routes)
    blocks = [block for _ in range(ROUNDS) for block in decode(engine, ids)]
    share = sinks_share(engine, ids)
    rows: list[Row] = []
    for way in WAYS:
        wall, cpu = (
            [block[way][clock] / block["neither"][clock] - 1 for block in blocks]
            for clock in (0, 1)
        )
        rows.append({
            "subject": way, "token_ms": digits(1e3 * median(block[way][0] for block in blocks)),
            "cpu_ms": digits(1e3 * median(block[way][1] for block in blocks)),
            "cost": digits(median(wall)), "error": digits(standard_error(wall)),
            "cpu_cost": digits(median(cpu)),
            "sinks": digits(share) if way == "live" else "", "slots": engine.info.slots,
            "tokens": len(blocks) * STRETCH, "rounds": ROUNDS,
        })  # fmt: skip
        say(rows[-1])
    return rows


if __name__ == "__main__":
    sys.exit("run it with: python -m benchmarks.bench --only recording")
