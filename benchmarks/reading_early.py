"""Measures decode with and without prefetching (`lookahead`).

    python -m benchmarks.reading_early [--slice FOLDER] [--change X] [--rounds N]

The demo model; or four layers of Qwen3-30B-A3B's geometry with 64 experts each and random weights,
made in FOLDER unless it is there. With random weights routing cannot be predicted, because each
layer changes the hidden state completely: `change` scales the layers' additions to it, and so
decides how much of the routing is predictable; the row has the measured share. All subjects are
loaded in one process and take turns, in reversed order every other round; a round's ratio compares
adjacent runs. Text is sampled with one seed; equal tokens, hits and evictions are asserted.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn

import outlier_jupyter
from outlier_jupyter.engine.engine import Engine
from outlier_jupyter.runs.run import Run
from outlier_jupyter.testing import tiny_checkpoint

from .cli import parser, print_rows
from .results import Row

PROMPT = "import os\n\n\ndef read_file(path):\n"
SLICE = {
    "hidden_size": 2048, "num_hidden_layers": 4, "num_attention_heads": 32, "head_dim": 128,
    "num_key_value_heads": 4, "num_experts": 64, "num_experts_per_tok": 8,
    "moe_intermediate_size": 768, "intermediate_size": 2048, "vocab_size": 1024,
}  # fmt: skip
SUBJECTS = ("off", "on")


def measure(model: str, slots: int, reader: str, tokens: int, rounds: int) -> Row:
    """One row: one cache size, with and without prefetching."""
    engines = {
        way: outlier_jupyter.load(
            model, cache_experts=slots, reader=reader, kernels="auto", lookahead=way,
            repacked="off", quiet=True,
        )
        for way in SUBJECTS
    }  # fmt: skip
    for engine in engines.values():
        _run(engine, tokens, 0)
    times: dict[str, list[tuple[float, ...]]] = {way: [] for way in SUBJECTS}
    early = [0, 0, 0]
    for number in range(rounds):
        runs = {}
        for way in SUBJECTS[:: 1 if number % 2 else -1]:
            cpu = time.process_time()
            runs[way] = run = _run(engines[way], tokens, number)
            calls = run.trace.calls[run.trace.calls["phase"] == 1]
            parts = (calls["ns"].mean(), calls["read_wait_ns"].mean())
            times[way].append((*(part / 1e6 for part in parts), time.process_time() - cpu))
        _assert_same(runs["off"], runs["on"])
        summary = runs["on"].summary()
        found = (summary.prefetched, summary.prefetched_used, summary.prefetched_wasted_bytes)
        early = [old + new for old, new in zip(early, found, strict=True)]
    for engine in engines.values():
        engine.close()
    off, on = (times[way] for way in SUBJECTS)
    ratios = sorted(b[0] / a[0] for a, b in zip(off, on, strict=True))
    middle = statistics.median
    row: Row = {
        "model": "demo" if model == "demo" else "slice",
        "slots": slots,
        "reader": reader,
        "rounds": rounds,
    }
    for way, column in times.items():
        whole, waited, cpu = (float(middle(values)) for values in zip(*column, strict=True))
        row |= {f"{way}_ms": round(whole, 2), f"{way}_waited_ms": round(waited, 2),
                f"{way}_cpu_s": round(cpu, 3)}  # fmt: skip
    return row | {
        "on_per_off": round(float(middle(ratios)), 3),
        "least": round(float(ratios[0]), 3),
        "most": round(float(ratios[-1]), 3),
        "hit_rate": round(summary.decode_hit_rate, 3),
        "read_early": early[0],
        "used": early[1],
        "wasted_mb": round(early[2] / 1e6, 1),
        "reads": summary.reads,
    }


def make_slice(folder: Path, change: float) -> None:
    """Write the slice to `folder`, with the additions of its layers to the hidden state scaled."""

    def scaled(model: nn.Module, tensors: dict[str, mx.array]) -> dict[str, mx.array]:
        adds = ("o_proj", "down_proj")
        return {
            name: array * change
            if any(part in name for part in adds) and mx.issubdtype(array.dtype, mx.floating)
            else array
            for name, array in tensors.items()
        }

    tiny_checkpoint(folder, group_size=64, dtype=mx.bfloat16, rewrite=scaled, **SLICE)


def _run(engine: Engine, tokens: int, seed: int) -> Run:
    return engine.generate(PROMPT, raw=True, max_tokens=tokens, temperature=1.0, seed=seed)


def _assert_same(off: Run, on: Run) -> None:
    assert (off.tokens == on.tokens).all(), "the tokens differ"
    assert (off.trace.hits == on.trace.hits).all(), "the hits differ"
    assert (off.trace.evictions == on.trace.evictions).all(), "the evictions differ"


def main() -> int:
    """Measure, print and append."""
    arguments = parser(__doc__, rounds=11)
    arguments.add_argument("--slice", type=Path)
    arguments.add_argument("--change", type=float, default=1.0)
    args = arguments.parse_args()
    model, sizes, tokens = "demo", (22, 48, 96), 60
    readers = ("pread", "direct")
    if args.slice:
        model, sizes, tokens, readers = str(args.slice), (40, 128), 12, ("direct",)
        if not args.slice.exists():
            make_slice(args.slice, args.change)
    change = {"change": args.change if args.slice else ""}
    rows = (
        measure(model, slots, reader, tokens, args.rounds) | change
        for reader in readers
        for slots in sizes
    )
    print_rows("reading_early", rows, args.keep)
    return 0


if __name__ == "__main__":
    sys.exit(main())
