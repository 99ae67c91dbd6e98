"""What it costs decode to record a run and to show it live: with both, with neither, in turn.

    python -m benchmarks.bench --only recording

*Neither* is a run whose recorder keeps nothing and whose router tap is off. *Live* is what a cell
does: the recorder, and a feed whose frames a live view encodes and sends (to no page: there is no
kernel here, so the socket's share is not in it). Tokens are compared by their medians, in wall
time and in CPU time of the thread that decodes. `sinks` is measured directly: the time spent in
whoever listens, of the time of decode.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from statistics import median
from typing import Any
from unittest.mock import patch

from benchmarks.results import Row
from outlier_jupyter.bench.geometry import prompt_of
from outlier_jupyter.bench.rounds import digits
from outlier_jupyter.bench.routing import Routes
from outlier_jupyter.bench.subjects import Text
from outlier_jupyter.engine import Engine
from outlier_jupyter.notebook.feed import Feed
from outlier_jupyter.notebook.live import LiveView
from outlier_jupyter.trace.recorder import Recorder

ROUNDS, TOKENS = 4, 48


class Off(Recorder):
    """Keeps nothing."""

    def __call__(self, event: object) -> None:
        """Pass it over."""


class Timed:
    """The engine's listeners, and how long they took."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.ns = 0

    def __call__(self, event: object) -> None:
        """Tell them."""
        begin = time.perf_counter_ns()
        self._inner(event)
        self.ns += time.perf_counter_ns() - begin

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


@contextmanager
def neither(engine: Engine) -> Iterator[None]:
    """No recording."""
    tap = engine._installed.tap
    with patch("outlier_jupyter.engine.Recorder", Off), patch.object(tap, "begin", tap.forget):
        yield


@contextmanager
def recorded(engine: Engine) -> Iterator[None]:
    """As `generate` does."""
    yield


@contextmanager
def live(engine: Engine) -> Iterator[None]:
    """With a view attached, as `%%outlier` and `watch` do."""
    info, view = engine.info, LiveView(kernel_id="")
    feed = Feed(
        layers=len(info.layer_names), experts=max(info.experts_per_layer), slots=info.slots,
        resident_at_start=engine.resident(), on_frame=view.push,
    )  # fmt: skip
    unsubscribe = engine.subscribe(feed, *Feed.KINDS)
    try:
        yield
    finally:
        unsubscribe()
        view.close()


def decode(engine: Engine, ids: list[int]) -> tuple[list[float], list[float]]:
    """Wall and CPU seconds of each token after the first."""
    wall, cpu = [], []
    for _ in engine.stream(prompt_of(ids), raw=True, max_tokens=TOKENS):
        wall.append(time.perf_counter())
        cpu.append(time.thread_time())
    return [b - a for a, b in pairwise(wall)], [b - a for a, b in pairwise(cpu)]


def sinks_share(engine: Engine, ids: list[int]) -> float:
    """The share of a run's decode that its listeners take, with a view attached."""
    timed = Timed(engine._tell)
    with live(engine), patch.object(engine, "_tell", timed):
        pagers = engine._installed.pagers
        before = [pager.sink for pager in pagers]
        for pager in pagers:
            pager.sink = timed
        try:
            begin = None
            for _ in engine.stream(prompt_of(ids), raw=True, max_tokens=TOKENS):
                if begin is None:
                    begin, timed.ns = time.perf_counter_ns(), 0
            assert begin is not None
            return timed.ns / (time.perf_counter_ns() - begin)
        finally:
            for pager, sink in zip(pagers, before, strict=True):
                pager.sink = sink


def cost(engine: Engine, routes: Routes, say: Callable[[object], None]) -> list[Row]:
    """A row each for neither, recorded and live."""
    ways = {"neither": neither, "recorded": recorded, "live": live}
    walls: dict[str, list[float]] = {name: [] for name in ways}
    cpus: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(ROUNDS + 1):
        ids = Text(0, 16, TOKENS).ids(routes)  # the same text: only the watching differs
        for name in [*ways][number % 3 :] + [*ways][: number % 3]:
            with ways[name](engine):
                wall, cpu = decode(engine, ids)
            if number:
                walls[name] += wall
                cpus[name] += cpu
    share = sinks_share(engine, ids)
    base_wall, base_cpu = median(walls["neither"]), median(cpus["neither"])
    rows: list[Row] = []
    for name in ways:
        rows.append({
            "subject": name, "token_ms": digits(1e3 * median(walls[name])),
            "cpu_ms": digits(1e3 * median(cpus[name])),
            "cost": digits(median(walls[name]) / base_wall - 1),
            "cpu_cost": digits(median(cpus[name]) / base_cpu - 1),
            "sinks": digits(share) if name == "live" else "", "slots": engine.info.slots,
            "tokens": TOKENS, "rounds": ROUNDS,
        })  # fmt: skip
        say(rows[-1])
    return rows


if __name__ == "__main__":
    sys.exit("run it with: python -m benchmarks.bench --only recording")
