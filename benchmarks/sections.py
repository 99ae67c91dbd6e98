"""The parts of the long benchmark: which subjects are compared, and with which settings.

Engines too large to be in RAM side by side take turns: one engine is resized from round to round,
or a base is compared with one variant after the other. Each round reads another text with other
experts, so that no cache has learnt it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import fields
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

import outlier_jupyter
from benchmarks.matmul_baseline import layer_seconds
from benchmarks.recording import cost
from benchmarks.results import ROOT, Row
from benchmarks.traffic import Traffic
from outlier_jupyter.benchmark.limits import Memory
from outlier_jupyter.benchmark.models import Made
from outlier_jupyter.benchmark.rounds import Numbers, hardware, interleave, row
from outlier_jupyter.benchmark.short import unpaged
from outlier_jupyter.benchmark.subjects import BenchmarkText, active_bytes, run_engine
from outlier_jupyter.checkpoint import RecordReader
from outlier_jupyter.checkpoint import linux_aio as kernel_queue
from outlier_jupyter.engine.engine import Engine
from outlier_jupyter.engine.first_experts import read_all_experts
from outlier_jupyter.options import LoadOptions

Say = Callable[[object], None]

PROMPT, LONG_PROMPT = 32, 512
BASE: dict[str, Any] = {
    "reader": "direct", "policy": "habit", "kernels": "auto", "quiet": True, "force": True
}  # fmt: skip
OPTIONS = {spec.name: spec for spec in fields(LoadOptions)}
WORTHS = (0.9, 2, 4)
"""Cache sizes in working sets; then a half and all. A quarter of 128 experts at top-8 is 4."""


def known(**options: Any) -> dict[str, Any] | None:
    """The options, or None if this version lacks one of them or its value."""
    for name, value in options.items():
        spec = OPTIONS.get(name)
        if spec is None or value not in spec.metadata.get("choices", (value,)):
            return None
    return options


_READ: set[Path] = set()
"""Models whose records were all read once: their checksums need no second check."""


def opened(made: Made, **options: Any) -> Engine:
    """An engine of a model whose records have all been read once, by it or another engine.

    An engine with a slot for every expert has read them all.
    """
    engine = outlier_jupyter.load(str(made.folder), **BASE | options)
    known, slots, shape = made.folder in _READ, engine.status().slots, made.shape
    if known and isinstance(engine._reader, RecordReader):
        engine._reader._unchecked.clear()
    if slots >= (shape.layers * shape.experts if known else shape.experts):
        fill(engine)
        _READ.add(made.folder)
    run_engine(engine, made.routes, BenchmarkText(0, 4, 3))
    return engine


def fill(engine: Engine) -> None:
    """Read all experts; a cache with room for all then contains all."""
    read_all_experts(engine)


def text_of(made: Made, number: int, prompt: int = PROMPT, tokens: int = 64) -> BenchmarkText:
    """The text of a round."""
    return BenchmarkText((number + 1) % made.routes.texts * made.routes.tokens, prompt, tokens)


def measured(engine: Engine, made: Made, text: BenchmarkText) -> Numbers:
    """Make a run; its numbers include the bytes that a token multiplies."""
    active = active_bytes(engine, made.config, text.prompt + text.tokens // 2)
    return run_engine(engine, made.routes, text) | {"active_bytes": active}


def limits_of(made: Made, engine: Engine, memory: Memory | None = None) -> Callable[[], Numbers]:
    """Measures both bandwidths, with reads as large as an expert."""
    memory, nbytes = memory or Memory(), max(engine.info.expert_nbytes)
    return lambda: hardware(made.file(), nbytes, memory)


def settings(made: Made, engine: Engine, text: BenchmarkText) -> Row:
    """The columns of a row that describe its settings."""
    options = engine.options
    about: Row = {
        "slots": engine.info.slots,
        "tokens_worth": round(engine.info.slots / (made.shape.layers * made.shape.k), 2),
        "share": round(engine.info.slots / (made.shape.layers * made.shape.experts), 3),
        "reader": engine.info.reader, "note": engine.info.reader_note, "policy": options.policy,
        "kernels": engine.info.kernels, "prompt": text.prompt, "tokens": text.tokens,
    }  # fmt: skip
    return made.description | about | {"overlap": options.overlap}


def resized(
    engine: Engine, made: Made, wanted: dict[str, int], texts: dict[str, dict[str, int]],
    rounds: int, say: Say,
) -> dict[str, tuple[list[Numbers], Row]]:  # fmt: skip
    """Measure one engine at several sizes in turn: name → its numbers and its settings.

    Args:
        wanted: slots, by name.
        texts: lengths of the text of each, as `text_of` takes them.
    """
    about: dict[str, Row] = {}
    memory = Memory()
    traffic = Traffic(made.file(), max(engine.info.expert_nbytes), made.shape.k, memory)

    def subject(name: str) -> Callable[[int], Numbers]:
        def run(number: int) -> Numbers:
            engine.resize(cache_experts=wanted[name])
            if wanted[name] == made.shape.layers * made.shape.experts:
                fill(engine)
            text = text_of(made, number, **texts[name])
            about[name] = settings(made, engine, text)
            found = measured(engine, made, text)
            assert engine.last_run is not None
            alone = traffic.token_s(engine.last_run.trace, found["active_bytes"])
            say(f"round {number}, {name}: {1 / found['token_s']:.3f} tokens/s")
            return found | {"in_order_s": alone, "times_in_order": found["token_s"] / alone}

        return run

    subjects = {name: subject(name) for name in wanted}
    with closing(traffic):
        found = interleave(subjects, rounds, limits_of(made, engine, memory))
    return {name: (each, about[name]) for name, each in found.items()}


def sizes(made: Made, rounds: int, say: Say) -> list[Row]:
    """One engine, resized: from less than one working set to all experts."""
    shape = made.shape
    every, token = shape.layers * shape.experts, shape.layers * shape.k
    wanted = {f"{worth} working sets": round(worth * token) for worth in WORTHS}
    wanted |= {"half": every // 2, "all": every}
    lengths = dict(zip(wanted, (16, 24, 32, 32, 32), strict=True))
    texts = {name: {"prompt": 16, "tokens": tokens} for name, tokens in lengths.items()}
    with opened(made, cache_experts=every) as engine:
        say(f"loaded: {engine.status().dense_nbytes / 1e9:.2f} GB dense")
        found = resized(engine, made, wanted, texts, rounds, say)
    return [row(f"paged, {name}", each, **about) for name, (each, about) in found.items()]


def in_ram(made: Made, rounds: int, say: Say) -> list[Row]:
    """Everything cached, in turn with mlx-lm, which has everything in RAM."""
    every = made.shape.layers * made.shape.experts
    with opened(made, cache_experts=every) as engine:
        say("loading mlx-lm's")
        runs = {"all cached": lambda number: measured(engine, made, text_of(made, number))}
        found = interleave(runs | unpaged(made), rounds, limits_of(made, engine))
    return [row(name, each, **made.description) for name, each in found.items()]


FEW = 4, 8
"""Tokens of the prompt, and after it, of the runs that measure a feature."""
THREADS = "read by threads"
"""The variant for which there is no option."""


def variants() -> dict[str, dict[str, Any]]:
    """Variants with one feature changed each, without those that this version lacks."""
    asked = {
        "records off": {"repacked": "off"},
        "reader pread": {"reader": "pread"},
        "reader mmap": {"reader": "mmap"},
        "policy lru": {"policy": "lru"},
        THREADS: {},
        "overlap off": {"overlap": "off"},
    }
    return {name: options for name, options in asked.items() if known(**options) is not None}


def features(made: Made, rounds: int, say: Say) -> list[Row]:
    """A quarter cached: the base and one variant at a time, in turn."""
    quarter = made.shape.layers * made.shape.experts // 4
    rows: list[Row] = []
    files = [made.file(), *made.folder.glob("model*.safetensors")]
    with opened(made, cache_experts=quarter) as base:
        limits = limits_of(made, base)
        for name, options in variants().items():
            no_queue = patch.dict(kernel_queue.CALLS, clear=True)
            with no_queue if name == THREADS else nullcontext():
                other = opened(made, cache_experts=quarter, **options)
            with other:

                def subject(engine: Engine) -> Callable[[int], Numbers]:
                    def run(number: int) -> Numbers:
                        forget(files)
                        return measured(engine, made, text_of(made, number, *FEW))

                    return run

                pair = interleave({"base": subject(base), name: subject(other)}, rounds, limits)
                text = text_of(made, 0, *FEW)
                for subject_name, engine in (("base", base), (name, other)):
                    rows.append(row(subject_name, pair[subject_name], beside=name,
                                    **settings(made, engine, text)))  # fmt: skip
                say(f"{name}: {rows[-1]['tokens_per_s']}, base {rows[-2]['tokens_per_s']} tokens/s")
    return rows


def forget(files: list[Path]) -> None:
    """Drop the system's page cache of these files, except mapped pages."""
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def prompts(made: Made, rounds: int, lengths: tuple[int, ...], say: Say) -> list[Row]:
    """Prompts of several lengths, everything cached and a quarter; beside NumPy's products."""
    every = made.shape.layers * made.shape.experts
    rows: list[Row] = []
    with opened(made, cache_experts=every) as whole, opened(made, cache_experts=every // 4) as part:
        limits = limits_of(made, whole)
        for length in lengths:
            ids = BenchmarkText(0, length, 1).ids(made.routes)

            def subject(engine: Engine, length: int = length) -> Callable[[int], Numbers]:
                def run(number: int) -> Numbers:
                    text = text_of(made, number, length, 2)
                    found = measured(engine, made, text)
                    return {name: found[name] for name in ("prompt_s", "prompt_bytes", "rss_gb")}

                return run

            def numpy_alone(number: int, ids: list[int] = ids) -> Numbers:
                # As many layers, one after the other, without attention's own products.
                seconds = [layer_seconds(made.config, made.routes, ids, layer)
                           for layer in range(made.shape.layers)]  # fmt: skip
                return {"prompt_s": float(np.sum(seconds))}

            subjects = {"all cached": subject(whole), "a quarter cached": subject(part),
                        "NumPy's products, float32": numpy_alone}  # fmt: skip
            found = interleave(subjects, rounds, limits)
            for name, each in found.items():
                about = made.description | {"prompt": length}
                rows.append(row(name, each, **about))
                rows[-1]["prompt_tokens_per_s"] = round(
                    length / float(str(rows[-1]["prompt_s"])), 1
                )
            say(f"{length} tokens: " + ", ".join(f"{r['subject']} {r['prompt_s']} s"
                                                 for r in rows[-3:]))  # fmt: skip
    return rows


def resident_set(made: Made, rounds: int, say: Say) -> list[Row]:
    """A process of its own with a quarter cached: its resident set against its memory budget.

    The prompt is long, because the budget covers the needs of a prompt's chunk.
    """
    quarter = made.shape.layers * made.shape.experts // 4
    found = [
        alone(made, number, prompt=LONG_PROMPT, tokens=8, cache_experts=quarter)
        for number in range(rounds)
    ]
    say("resident {rss_gb:.2f}, at most {peak_gb:.2f}, of {budget_gb:.2f} GB".format(**found[-1]))
    return [row("a process of its own, a quarter cached", found, **made.description, slots=quarter,
                prompt=LONG_PROMPT)]  # fmt: skip


def alone(
    made: Made, number: int, prefix: tuple[str, ...] = (), *, prompt: int = PROMPT,
    tokens: int = 64, **options: Any,
) -> Numbers:  # fmt: skip
    """One run by `one_run.py` in a process of its own; `prefix` is put before its command."""
    text = text_of(made, number, prompt, tokens)
    asked = {"folder": str(made.folder), "routes": str(routes_file(made)), "options": options,
             "first": text.first, "prompt": text.prompt, "tokens": text.tokens}  # fmt: skip
    command = [*prefix, sys.executable, "-m", "benchmarks.one_run", json.dumps(asked)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    if done.returncode:
        raise RuntimeError(f"the run failed ({done.returncode}): {done.stderr[-2000:]}")
    found: Numbers = json.loads(done.stdout.splitlines()[-1])
    return found


def routes_file(made: Made) -> Path:
    """Write the routes beside the model, for processes that measure it alone."""
    file = made.folder / "routes.npz"
    np.savez(file, picks=made.routes.picks, tokens=made.routes.tokens)
    return file


def huge(made: Made, rounds: int, say: Say) -> list[Row]:
    """The 397B geometry with one to two working sets cached, which is what fits here."""
    shape = made.shape
    token = shape.layers * shape.k
    wanted = {f"{worth} working sets": round(worth * token) for worth in (0.9, 2)}
    texts = {name: {"prompt": 4, "tokens": 10} for name in wanted}
    options = BASE | {"repacked": "off", "cache_experts": max(wanted.values())}
    with outlier_jupyter.load(str(made.folder), **options) as engine:
        run_engine(engine, made.routes, BenchmarkText(0, 2, 2))
        found = resized(engine, made, wanted, texts, rounds, say)
    return [row(f"397B, {name}", each, **about) for name, (each, about) in found.items()]


def recording(made: Made, say: Say) -> list[Row]:
    """The cost in decode of recording with a live view."""
    every = made.shape.layers * made.shape.experts
    with opened(made, cache_experts=every) as engine:
        return [found | made.description for found in cost(engine, made.routes, say)]
