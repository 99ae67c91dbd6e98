"""Several prompts at once against one after the other: tokens/s of 4 and of 8 together.

    python -m benchmarks.batch [--rounds 5] [--layers 4] [--keep]

Both in turn, a quarter of the experts cached and all of them; tokens are those of all prompts, time
is from the first call to the last, prompts' reading included. The slice of the 30B geometry has
prompts that are places of one text, as the variants of a prompt are near each other, and prompts of
texts that share no expert but by chance. The demo has questions. `by_memory` and `by_disk` say what
bytes alone would allow: those that a step reads from memory, and all misses, apart over together.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import outlier_jupyter
from benchmarks.architectures import bytes_of
from benchmarks.cli import parser, print_rows
from benchmarks.results import Row
from outlier_jupyter.benchmark.geometry import prompt_of
from outlier_jupyter.benchmark.models import Made, default_folder, find_source, make
from outlier_jupyter.benchmark.subjects import BenchmarkText, check_routing
from outlier_jupyter.engine.engine import Engine
from outlier_jupyter.engine.first_experts import read_all_experts
from outlier_jupyter.events import DECODE
from outlier_jupyter.runs.run import Run

COUNTS, SHARES = (4, 8), (0.25, 1.0)
PROMPT, TOKENS, QUESTION_TOKENS = 16, 32, 64
QUESTIONS = (
    "What is a cache?", "Why is the sky blue?", "Hello", "How do I read a file?",
    "What is a router?", "How fast is an SSD?", "What does top-k mean?", "Tell me a story",
)  # fmt: skip


def texts_of(made: Made, count: int, kind: str) -> list[str]:
    """Prompts of a slice: places of one text, or the beginnings of several."""
    tokens = made.routes.tokens
    step = tokens if kind == "several texts" else tokens // count
    return [prompt_of(BenchmarkText(n * step, PROMPT, 0).ids(made.routes)) for n in range(count)]


def measured(
    engine: Engine, prompts: Sequence[str], rounds: int, options: dict[str, Any]
) -> tuple[Row, list[Run]]:
    """Both ways in turn: medians of tokens/s, and of the ratio of each round; the last runs."""
    speeds: dict[str, list[float]] = {"one_by_one": [], "together": []}
    misses: dict[str, int] = {}
    runs: list[Run] = []
    for number in range(rounds + 1):
        for name in sorted(speeds, reverse=bool(number % 2)):
            begin = time.perf_counter()
            if name == "together":
                runs = list(engine.generate_many(prompts, at_once=len(prompts), **options))
            else:
                runs = [engine.generate(prompt, **options) for prompt in prompts]
            took = time.perf_counter() - begin
            if number:  # the first round compiles, and fills the cache
                speeds[name].append(sum(run.generated for run in runs) / took)
            misses[name] = sum(run.summary().lookups - run.summary().hits for run in runs)
    ratios = [b / a for a, b in zip(*speeds.values(), strict=True)]
    row: Row = {f"{name}_tokens_per_s": round(median(each), 2) for name, each in speeds.items()}
    row |= {"ratio": round(median(ratios), 3), "least": round(min(ratios), 3)}
    row |= {f"{name}_misses": number for name, number in misses.items()}
    row |= {"most": round(max(ratios), 3), "rounds": rounds}
    row["by_memory"] = round(by_memory(engine, runs), 2)
    if misses["together"]:
        row["by_disk"] = round(misses["one_by_one"] / misses["together"], 2)
    return row, runs


def by_memory(engine: Engine, runs: Sequence[Run]) -> float:
    """What a step reads from memory apart, over what it reads together: no batch gains more.

    Dense weights are read once in place of once a prompt, and of experts their union.
    """
    dense = bytes_of(engine, 0)
    nbytes = np.array(engine.info.expert_nbytes)
    chosen = [run.trace.experts[run.trace.phase == DECODE] for run in runs]
    steps = min(map(len, chosen))
    apart = together = 0.0
    for step in range(steps):
        rows = np.stack([each[step] for each in chosen])  # [prompts, layers, k]
        union = np.array([len(np.unique(rows[:, layer])) for layer in range(rows.shape[1])])
        apart += len(runs) * (dense + float(nbytes.sum()) * rows.shape[2])
        together += dense + float((nbytes * union).sum())
    return apart / together


def rows_of(engine: Engine, name: str, made: Made | None, rounds: int) -> Iterator[Row]:
    """A row for each cache size, number of prompts and kind of prompts."""
    every = engine.status().experts
    for share in SHARES:
        engine.resize(cache_experts=round(share * every))
        if share == 1.0:
            read_all_experts(engine)
        for count in COUNTS:
            for kind in ("one text", "several texts") if made else ("questions",):
                options: dict[str, Any] = {"max_tokens": TOKENS if made else QUESTION_TOKENS}
                prompts = list(QUESTIONS[:count])
                if made:
                    options["raw"] = True
                    prompts = texts_of(made, count, kind)
                row, runs = measured(engine, prompts, rounds, options)
                for run in runs if made else ():
                    check_routing(run.trace, made.routes)
                yield {"model": name, "share": share, "prompts": count, "kind": kind} | row


def rows(rounds: int, layers: int, traces: Path | None) -> Iterator[Row]:
    """The rows of the slice, then the demo's."""
    usual: dict[str, Any] = {"quiet": True, "force": True, "warm": "off"}
    made = make("30b", default_folder(), find_source(traces, print), layers=layers, distinct=layers)
    with outlier_jupyter.load(str(made.folder), reader="direct", cache_experts=64, **usual) as one:
        yield from rows_of(one, f"30b, {layers} layers, random weights", made, rounds)
    with outlier_jupyter.load("demo", cache_experts=48, **usual) as demo:
        demo.tokenizer.eos_token_ids = set()
        yield from rows_of(demo, "demo", None, rounds)


def main() -> None:
    """Measure, and print or keep the rows."""
    options = parser(__doc__, rounds=5)
    options.add_argument("--layers", type=int, default=4)
    options.add_argument("--traces", type=Path, default=None)
    found = options.parse_args()
    print_rows("batch", rows(found.rounds, found.layers, found.traces), found.keep)


if __name__ == "__main__":
    main()
