"""The short benchmark: a slice of Qwen3-30B-A3B's geometry, measured on this machine in minutes.

A few layers with random weights and real routing run with all experts cached, with a quarter
cached, and in mlx-lm with everything in RAM, beside the limit of the hardware. `benchmarks/` has
the long form.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from ..aliases import old_arguments
from ..cpu.kernels.processor import VECTORS, cpu_name
from ..engine.first_experts import read_all_experts
from ..engine.load import load
from ..formatting import three
from ..system.memory_info import machine_memory
from ..system.provenance import processor_name
from .limits import Memory
from .models import Made, Report, default_folder, find_source, make
from .rounds import Row, Run, hardware, interleave, row
from .subjects import BenchmarkText, Unpaged, active_bytes, run_engine

LAYERS, ROUNDS, PROMPT, TOKENS = 4, 3, 32, 48
UNPAGED_TOKENS = 3
UNPAGED = {"bf16": None, "float32": mx.float32}
"""Activation types with which mlx-lm is measured."""
LAYER_NBYTES = 2_400_000_000
"""RAM per layer with all engines of the comparison loaded (measured)."""
HEADS = ("subject", "tokens/s", "range", "hit rate", "read MB/s", "times the limit")


@dataclass(frozen=True)
class Benched:
    """The result of the short benchmark; `print` or display it.

    Attributes:
        rows: one per subject, with the columns of `benchmarks/results`.
        about: what was measured, as text.
    """

    rows: list[Row]
    about: str

    def cells(self) -> list[tuple[str, ...]]:
        """The table as text cells, headings first."""
        return [HEADS, *(_cells(found) for found in self.rows)]

    def __str__(self) -> str:
        """The table as text."""
        cells = self.cells()
        widths = [max(len(line[i]) for line in cells) for i in range(len(HEADS))]
        lines = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in cells]
        return "\n".join([*(line.rstrip() for line in lines), "", self.about])

    __repr__ = __str__

    def _repr_markdown_(self) -> str:
        lines = ["| " + " | ".join(line) + " |" for line in self.cells()]
        lines.insert(1, "|---" * len(HEADS) + "|")
        return "\n".join([*lines, "", self.about])


@old_arguments(tell="report")
def short(
    folder: Path | None = None,
    traces: Path | None = None,
    *,
    layers: int | None = None,
    rounds: int = ROUNDS,
    tokens: int = TOKENS,
    report: Report = lambda line: None,
    config: dict[str, Any] | None = None,
) -> Benched:
    """Write the slice if it does not exist, and measure.

    Args:
        folder: where models are written; by default the cache folder.
        traces: a folder of recorded traces; by default the demo model's own routing is used.
        layers: of the slice: 340 MB each, and as much again repacked. By default four, or as many
            as fit in memory.
        rounds, tokens: how often each subject runs, and how many tokens it generates.
        report: called with a line of text about the progress.
        config: another geometry, for tests.
    """
    if layers is None:
        layers = max(1, min(LAYERS, machine_memory().available // LAYER_NBYTES))
    made = make("30b", folder or default_folder(), find_source(traces, report), layers=layers,
                distinct=None, report=report, config=config)  # fmt: skip
    return Benched(compare(made, rounds, tokens, report), about(made))


def about(made: Made) -> str:
    """What was measured, as text."""
    facts = made.description
    return (
        f"{facts['layers']} layers of {facts['experts']} experts, top-{facts['top_k']} "
        f"({facts['model']}); routing of {facts['routing']}; "
        f"{processor_name()} ({cpu_name()}), kernels with {VECTORS}; "
        f"{three(machine_memory().total / 1e9)} GB of RAM. The limit: bytes multiplied ÷ memory "
        "bandwidth or bytes missed ÷ disk bandwidth, whichever takes longer."
    )


def compare(made: Made, rounds: int, tokens: int, report: Report) -> list[Row]:
    """A row per subject."""
    shape = made.shape
    every = shape.layers * shape.experts
    paged: dict[str, dict[str, Any]] = {
        "all cached": {"cache_experts": every},
        "all cached, MLX's kernels": {"cache_experts": every, "kernels": "mlx"},
        "a quarter cached": {"cache_experts": every // 4},
        "a quarter cached, lru": {"cache_experts": every // 4, "policy": "lru"},
        "a quarter cached, mmap": {"cache_experts": every // 4, "reader": "mmap"},
        "a quarter cached, not repacked": {"cache_experts": every // 4, "repacked": "off"},
    }
    runs: dict[str, Run] = {}
    with ExitStack() as stack:
        for name, options in paged.items():
            report(f"loading: {name}")
            settings: dict[str, Any] = {
                "kernels": "auto",
                "reader": "direct",
                "warm": "off",
                "quiet": True,
                "force": True,  # `layers` was chosen so that all engines fit in memory
            } | options
            engine = stack.enter_context(load(str(made.folder), **settings))
            # On a CPU a few tokens of MLX's kernels take as long as all others together.
            few = (2, min(4, tokens)) if settings["kernels"] == "mlx" else (PROMPT, tokens)
            runs[name] = _paged(engine, made, *few)
        runs |= unpaged(made)
        report(f"{rounds} rounds of {len(runs)} subjects")
        memory = Memory()
        expert = max(engine.info.expert_nbytes)
        found = interleave(runs, rounds, lambda: hardware(made.file(), expert, memory))
    return [row(name, numbers, **made.description) for name, numbers in found.items()]


def _paged(engine: Any, made: Made, prompt: int, tokens: int) -> Run:
    """A timed run; every expert is read before, so checksums are known and a full cache is full."""
    if engine.status().slots >= made.shape.experts:
        read_all_experts(engine)
    active = active_bytes(engine, made.config, prompt + tokens // 2)
    run_engine(engine, made.routes, BenchmarkText(0, 2, 2))

    def run(number: int) -> dict[str, float]:
        first = (number + 1) % made.routes.texts * made.routes.tokens
        found = run_engine(engine, made.routes, BenchmarkText(first, prompt, tokens))
        return found | {"active_bytes": active}

    return run


def unpaged(made: Made) -> dict[str, Run]:
    """mlx-lm with the whole model in RAM, by activation type."""
    text = BenchmarkText(0, 1, UNPAGED_TOKENS)

    def of(dtype: Any) -> Run:
        model = Unpaged(made.folder, made.config, made.shape.layers, dtype)
        return lambda number: model.run(made.routes, text)

    return {f"mlx-lm in RAM, {name}": of(dtype) for name, dtype in UNPAGED.items()}


def _cells(found: Row) -> tuple[str, ...]:
    def word(name: str, scale: float = 1.0, unit: str = "") -> str:
        value = found.get(name)
        number = value if isinstance(value, int | float) else float("nan")
        return three(number * scale) + (unit if number == number else "")

    return (
        str(found["subject"]), word("tokens_per_s"), f"{word('slowest')}–{word('fastest')}",
        word("hit_rate", 100, " %"), word("read_mb_per_s"), word("times_limit"),
    )  # fmt: skip
