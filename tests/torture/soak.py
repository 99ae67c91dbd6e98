"""The demo model runs for long: two engines at a time, one of them with MLX's kernels, loaded again
every few runs with other settings (cache, reader, policy, overlap, records or not), and
each run with settings of its own (sampling, penalties, masks, KV reuse and quantisation,
alternatives, branches, chunks). Some runs are interrupted or stopped, read from a disk that fails,
resized between, watched by a subscriber that raises, or saved and opened again. At every 1,000th
token the engine with MLX's kernels and the unpaged model of mlx-lm read the last text: their logits
are the same bits. A line fitted to the process's memory, open files and threads, from a fifth of
the tokens on, may not rise by more than 16 MB, one file and one thread in all.
"""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import mlx.core as mx
import numpy as np
import psutil
import pytest
from mlx_lm import load as load_unpaged
from mlx_lm.models.cache import make_prompt_cache

import outlier_jupyter
from outlier_jupyter import Engine, Run
from outlier_jupyter.checkpoint import ByteRange
from outlier_jupyter.engine import choose_reader, event_bus
from outlier_jupyter.errors import OutlierError, ReadFailed
from outlier_jupyter.events import StepDone
from outlier_jupyter.runs.run import Interrupted
from outlier_jupyter.testing import FaultyReader
from tests.inspection import inside
from tests.torture.counts import Counts, deadline
from tests.torture.shots import Gun

TITLE = "Soak"
GROUP = 8.0
QUICK_S = 3.0
LONG_S = 7200.0
MOST = 100_000
"""Tokens, at the most."""
EVERY = 1_000
LONG = 250
"""Tokens of a long run."""
RISE_NBYTES, RISE_FILES, RISE_THREADS = 16e6, 1.0, 1.0
WORDS = (
    "What is an expert?",
    "Once upon a time",
    "1 + 1 =",
    "def add(a, b):",
    "Ünïcode 𝄞",
    "a b c ",
)


class Disk:
    """Readers that fail now and then, while `broken`."""

    def __init__(self, rng: Random) -> None:
        self.broken, self.failed = False, 0
        self._rng = rng

    def fails(self, where: ByteRange) -> bool:
        """Whether this read fails."""
        fails = self.broken and self._rng.random() < 0.1
        self.failed += fails
        return fails

    def patched(self, patch: pytest.MonkeyPatch) -> None:
        """Let half of the loads read through it."""
        opened = choose_reader.open_reader

        def open_reader(kind: str, files: Any) -> Any:
            reader = opened(kind, files)
            return FaultyReader(reader, self.fails) if self._rng.random() < 0.5 else reader

        patch.setattr(choose_reader, "open_reader", open_reader)


class Soak:
    """Two engines, what they did, and what the process took meanwhile."""

    def __init__(self, scratch: Path, rng: Random, counts: Counts) -> None:
        self.rng, self.counts, self.disk = rng, counts, Disk(rng)
        demo = Path(outlier_jupyter.__file__).parent / "demo"
        self.plain = Path(shutil.copytree(demo, scratch / "plain"))
        self.packed = Path(shutil.copytree(demo, scratch / "packed"))
        outlier_jupyter.repack(self.packed, folder=self.packed, quiet=True)
        self.unpaged, _ = load_unpaged(str(demo))
        self.scratch, self.gun = scratch, Gun()
        self.engines: dict[str, Engine] = {}
        self.tokens = self.checked = 0
        self.samples: list[tuple[int, int, int, int]] = []

    def engine(self, kernels: str) -> Engine:
        """The engine with these kernels, now and then a new one with other settings."""
        engine = self.engines.get(kernels)
        if engine is not None and self.rng.random() < 0.97:
            return engine
        if engine is not None:
            engine.close()
        choose = self.rng.choice
        options = {
            "cache_experts": choose((6, 12, 24, 48, 100, 192)), "reader": choose(READERS),
            "policy": choose(("predictive", "lru")), "overlap": choose(("auto", "on", "off")),
        }  # fmt: skip
        self.engines[kernels] = outlier_jupyter.load(
            choose((self.plain, self.packed)), kernels=kernels, quiet=True, **options
        )
        self.engines[kernels].tokenizer.eos_token_ids = set()
        self.counts.add("loads and closes")
        return self.engines[kernels]

    def settings(self, most: tuple[int, ...]) -> dict[str, Any]:
        """Options of a run: of its sampling alone, in every second of those that may be long."""
        chance, choose = self.rng.random, self.rng.choice
        options: dict[str, Any] = {"max_tokens": choose(most)}
        sampling: tuple[tuple[float, str, Callable[[], Any]], ...] = (
            (0.5, "temperature", lambda: choose((0.3, 1.0, 3.0))),
            (0.2, "top_p", lambda: 0.9),
            (0.2, "seed", lambda: self.rng.randrange(2**32)),
            (0.2, "raw", lambda: True),
        )
        if most[-1] >= LONG and chance() < 0.5:
            options = {"max_tokens": LONG}
            return options | {name: make() for p, name, make in sampling if chance() < p}
        maybe = (
            *sampling,
            (0.1, "sample_top_k", lambda: 5),
            (0.1, "repetition_penalty", lambda: 1.3),
            (0.1, "presence_penalty", lambda: 0.5),
            (0.1, "mask", lambda: [f"{self.rng.randrange(6)}:{self.rng.randrange(32)}"]),
            (0.1, "boost", lambda: [f"{self.rng.randrange(6)}:3=2"]),
            (0.1, "top_k", lambda: choose((1, 2, 3))),
            (0.1, "alternatives", lambda: 3),
            (0.1, "prefill_chunk", lambda: choose((1, 7, 64))),
            (0.05, "kv_bits", lambda: 8),
            (0.3, "reuse_kv", lambda: choose((True, False))),
            (0.05, "score_prompt", lambda: True),
            (0.01, "measure_loss", lambda: True),
            (0.1, "stop", lambda: ["zz"]),
        )
        return options | {name: make() for p, name, make in maybe if chance() < p}

    def run(self) -> None:
        """One run of some kind, and what is done between runs."""
        kernels = "mlx" if self.rng.random() < 0.08 else "auto"
        engine = self.engine(kernels)
        what = self.rng.choices(("run", "SIGINT", "stop()", "failing reads", "raising subscriber"),
                                (80, 8, 4, 5, 3))[0]  # fmt: skip
        text = self.rng.choice(WORDS) * self.rng.choice((1, 1, 1, 1, 1, 1, 1, 1, 4, 20))
        options, failed = self.settings((1, 5, 20) if kernels == "mlx" else (1, 8, 60, LONG)), ""
        if what == "SIGINT":
            with self.gun.installed():
                raised = self.gun.at([self.rng.uniform(0, 0.2)],
                                     lambda: engine.generate(text, **options))  # fmt: skip
            if not isinstance(raised, KeyboardInterrupt | OutlierError | None):
                failed = f"{type(raised).__name__}: {raised}"
        else:
            failed = self.uninterrupted(engine, what, text, options)
        self.counts.add(f"runs: {what}" if what != "run" else "runs", failed=failed)
        run = engine.last_run
        if run is not None:
            self.tokens += run.generated
        if self.rng.random() < 0.03:
            engine.resize(cache_experts=self.rng.choice((6, 24, 60, 192)))
            self.counts.add("resizes")
        if run is not None and run.generated and self.rng.random() < 0.02:
            again = Run.load(run.save(self.scratch / "run.safetensors"))
            same = again.tokens.tolist() == run.tokens.tolist()
            self.counts.add("saved and opened", failed="" if same else "other tokens")

    def uninterrupted(self, engine: Engine, what: str, text: str, options: dict[str, Any]) -> str:
        """A run with a fault of another kind; what must not be, or ""."""
        seen = []

        def noticed(event: StepDone) -> None:
            seen.append(event)
            if what == "stop()" and len(seen) == 3:
                engine.stop()
            if what == "raising subscriber":
                raise ValueError("made to fail")

        unsubscribe = engine.subscribe(noticed, StepDone) if what != "run" else lambda: None
        self.disk.broken, before = what == "failing reads", self.disk.failed
        try:
            engine.generate(text, **options)
        except Interrupted:
            return "" if what == "stop()" else "it was interrupted"
        except ReadFailed as error:
            return "" if self.disk.failed > before else f"ReadFailed: {error}"
        except OutlierError as error:
            self.counts.add(f"settings refused: {type(error).__name__}")
        except Exception as error:
            return f"{type(error).__name__}: {error}, with {options}"
        finally:
            self.disk.broken = False
            unsubscribe()
        return ""

    def check(self) -> None:
        """Compare the logits of the last text with the unpaged model's, and measure."""
        engine = self.engine("mlx")
        ids = self.last_ids(engine)
        got, wanted = (logits(model, ids) for model in (engine.model, self.unpaged))
        same = np.array_equal(got, wanted)
        self.counts.add("texts checked against the unpaged model",
                        failed="" if same else f"other logits at token {self.tokens}")  # fmt: skip
        for pager in inside(engine).pagers:
            pager.table.check()
        gc.collect()
        process = psutil.Process()
        self.samples.append((self.tokens, process.memory_info().rss, process.num_fds(),
                             process.num_threads()))  # fmt: skip
        self.checked = self.tokens // EVERY * EVERY

    def last_ids(self, engine: Engine) -> list[int]:
        """The ids of the last text: at most 32 of them."""
        run = next((e.last_run for e in self.engines.values() if e.last_run is not None), None)
        ids = [] if run is None else [*run.trace.tokens.tolist(), *run.tokens.tolist()[-1:]]
        return [n for n in ids if n >= 0][-32:] or list(engine.tokenizer.encode(WORDS[0]))


READERS = ("pread", "direct", "mmap")


def logits(model: Any, ids: list[int]) -> Any:
    """Logits of a prompt but for its last tokens, and of those one by one."""
    cache, last = make_prompt_cache(model), min(4, len(ids) - 1)
    begin = ids[: len(ids) - last]
    rows = [model(mx.array([begin]), cache=cache)[0, -1]]
    rows += [model(mx.array([[one]]), cache=cache)[0, -1] for one in ids[len(ids) - last :]]
    return np.stack([np.array(row.astype(mx.float32)) for row in rows])


def growth(samples: list[tuple[int, int, int, int]], counts: Counts) -> None:
    """Fit a line to memory, files and threads, and record how much it rises."""
    from_here = [row for row in samples if row[0] >= samples[-1][0] / 5]
    if len(from_here) < 3:
        return
    tokens, *columns = np.array(from_here, float).T
    for name, values, most, unit, scale in zip(
        ("memory", "open files", "threads"), columns, (RISE_NBYTES, RISE_FILES, RISE_THREADS),
        ("MB", "", ""), (1e6, 1, 1), strict=True,
    ):  # fmt: skip
        slope = float(np.polyfit(tokens, values, 1)[0])
        rise = slope * (tokens[-1] - tokens[0])
        counts.measure(
            f"rise of {name} over {tokens[-1] - tokens[0]:,.0f} tokens, by a fitted line",
            f"{rise / scale:.2f} {unit} (from {values[0] / scale:.0f} to {values[-1] / scale:.0f})",
            rise > most and len(from_here) >= 10,
        )


def torture(seconds: float, seed: int, scratch: Path) -> Counts:
    """Run until the time is over or MOST tokens are generated."""
    counts, rng = Counts(), Random(seed)
    with pytest.MonkeyPatch.context() as patch:
        soak = Soak(scratch, rng, counts)
        soak.disk.patched(patch)
        patch.setattr(event_bus.log, "disabled", True)
        more = deadline(seconds)
        soak.check()
        while more() and soak.tokens < MOST:
            soak.run()
            if soak.tokens - soak.checked >= EVERY:
                soak.check()
        soak.check()
        for engine in soak.engines.values():
            engine.close()
    counts.add("tokens generated", soak.tokens)
    growth(soak.samples, counts)
    return counts
