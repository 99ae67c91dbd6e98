"""Ours and llama.cpp's model in RAM at the same time, some tokens of each in turn.

Whole runs, minutes apart, differ by more than the two engines do: a virtual machine's share of
cores and memory changes by half from minute to minute, with the load of its neighbours. So both
have as many layers as fit twice, and run a few tokens in turn, with the memory test between them.
A round's first tokens are not counted: they wake threads and the other's data is in the caches.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from statistics import mean, median

from benchmarks import sections
from benchmarks.llama import Decode, Llama, way
from benchmarks.results import Row
from outlier_jupyter.benchmark.geometry import prompt_of
from outlier_jupyter.benchmark.limits import Memory
from outlier_jupyter.benchmark.models import Made
from outlier_jupyter.benchmark.rounds import Numbers, row
from outlier_jupyter.benchmark.subjects import BenchmarkText, active_bytes, check_routing
from outlier_jupyter.engine.engine import Engine

SKIPPED, COUNTED = 1, 4
"""Tokens of a round that are not counted, and that are."""
ROUNDS = 40
"""Rounds of each engine in a comparison."""
OURS = "ours, all cached"


@contextmanager
def decoding(engine: Engine, made: Made, text: BenchmarkText) -> Iterator[Decode]:
    """Yield the function that decodes with our engine, after it has read the prompt."""
    steps = engine.stream(prompt_of(text.ids(made.routes)), raw=True, max_tokens=text.tokens)
    next(steps)

    def decode(tokens: int) -> list[float]:
        stamps = [time.perf_counter()]
        for _ in range(tokens):
            next(steps)
            stamps.append(time.perf_counter())
        return [end - begin for begin, end in pairwise(stamps)]

    try:
        yield decode
    finally:
        steps.close()
    assert engine.last_run is not None
    check_routing(engine.last_run.trace, made.routes)


def interleave(
    subjects: dict[str, Decode], memory: Memory, active: float
) -> dict[str, list[Numbers]]:
    """For each round, the time of a token, and that of its bytes alone in the same second."""
    seen: dict[str, list[Numbers]] = {name: [] for name in subjects}
    for number in range(ROUNDS):
        order = list(subjects) if number % 2 else list(subjects)[::-1]
        for name in order:
            took = mean(subjects[name](SKIPPED + COUNTED)[SKIPPED:])
            speed = memory.bytes_per_s(times=1)
            seen[name].append({
                "token_s": took, "memory_gb_per_s": speed / 1e9, "active_bytes": active,
                "limit_s": active / speed, "times_limit": took * speed / active,
            })  # fmt: skip
    return seen


def compare(peer: Llama, threads: int, say: Callable[[str], object]) -> list[Row]:
    """Compare with each of llama.cpp's modes: rows of both, with the ratio over the rounds."""
    made, memory, shape = peer.made, Memory(), peer.made.shape
    peer.write(say)
    rows: list[Row] = []
    with sections.opened(made, cache_experts=shape.layers * shape.experts) as engine:
        text = sections.text_of(made, 0, tokens=ROUNDS * (SKIPPED + COUNTED) + 1)
        active = active_bytes(engine, made.config, text.prompt + text.tokens // 2)
        for mmap in (True, False):
            name = way(threads, mmap)
            sections.forget([peer.gguf, made.file()])
            with (
                peer.decoding(text, threads=threads, mmap=mmap, repack=not mmap) as second,
                decoding(engine, made, text) as first,
            ):
                seen = interleave({OURS: first, name: second}, memory, active)
            ratio = median(
                b["token_s"] / a["token_s"] for a, b in zip(seen[OURS], seen[name], strict=True)
            )
            say(f"{name}: a token takes {ratio:.3f} times what ours does")
            about = made.description | {
                "beside": name,
                "prompt": text.prompt,
                "tokens": text.tokens,
            }
            rows += [row(each, seen[each], **about, ratio=round(ratio, 3)) for each in seen]
    return rows
