"""Timed runs of one model, by our engine and by mlx-lm with everything in RAM.

Each run's routing is checked against the model's routes, so that no result comes from a wrong run.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_model

from ..engine.engine import Engine
from ..errors import OutlierError
from ..events import DECODE
from ..system.memory_info import process_nbytes
from ..trace import Trace
from .geometry import Shape, prompt_of
from .routing import Routes

Numbers = dict[str, float]


@dataclass(frozen=True)
class BenchmarkText:
    """The prompt of a run, and the number of tokens to generate.

    Attributes:
        first: the prompt's first token; the others follow in order and wrap around.
        prompt: number of prompt tokens; `tokens`, of generated ones.
    """

    first: int
    prompt: int
    tokens: int

    def ids(self, routes: Routes) -> list[int]:
        """The prompt's tokens."""
        return [(self.first + i) % len(routes.picks) for i in range(self.prompt)]


def run_engine(engine: Engine, routes: Routes, text: BenchmarkText) -> Numbers:
    """One run: its speed, hits, bytes read, and the speed of the reads.

    Raises:
        OutlierError: it did not follow the model's routes.
    """
    ids = text.ids(routes)
    begin = time.perf_counter()
    steps = engine.stream(prompt_of(ids), raw=True, max_tokens=text.tokens)
    stamps = [time.perf_counter() for _ in steps]
    assert engine.last_run is not None
    trace = engine.last_run.trace
    check_routing(trace, routes)
    each = np.diff(stamps)
    numbers = engine.last_run.summary()
    decode = trace.reads["step"] >= text.prompt
    nbytes = float(trace.reads["nbytes"][decode].sum())
    busy = _union_ns(trace.reads[decode])
    return {
        "prompt_s": stamps[0] - begin,
        "token_s": float(np.mean(each)) if len(each) else float("nan"),
        "hit_rate": numbers.decode_hit_rate,
        "missed_bytes": nbytes / max(1, len(each)),
        "read_mb_per_s": nbytes / busy * 1e3 if busy else float("nan"),
        "wait_share": _wait_share(trace),
        "prompt_bytes": float(trace.reads["nbytes"][~decode].sum()),
        "rss_gb": process_nbytes() / 1e9,
    }


def check_routing(trace: Trace, routes: Routes) -> None:
    """Raise an OutlierError unless every step chose the experts of its token's route."""
    wanted = np.sort(routes.picks[trace.tokens], axis=-1)
    same = (np.sort(trace.experts, axis=-1) == wanted).all(axis=(1, 2))
    if not same.all():
        raise OutlierError(
            f"{int((~same).sum())} of {len(same)} steps did not follow the model's routes: its "
            "kernels or its files are wrong, delete the folder and measure again"
        )


def _union_ns(reads: Any) -> float:
    """Nanoseconds during which at least one read was under way."""
    order = np.argsort(reads["start_ns"])
    begins = reads["start_ns"][order]
    ends = begins + reads["ns"][order]
    total, until = 0, 0
    for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
        total += max(0, end - max(begin, until))
        until = max(until, end)
    return float(total)


def _wait_share(trace: Trace) -> float:
    calls = trace.calls[trace.calls["phase"] == DECODE]
    return float(calls["read_wait_ns"].sum() / max(1, calls["ns"].sum()))


def active_bytes(engine: Engine, config: dict[str, Any], context: int) -> float:
    """Bytes that one token multiplies: dense weights, its experts, and the KV cache.

    A token reads one row of the embedding, which is not counted.
    """
    shape, inner = Shape.of(config), config.get("text_config", config)
    flat: Any = tree_flatten(engine.model.parameters())
    dense = sum(array.nbytes for name, array in flat if "embed_tokens" not in name)
    experts = shape.layers * shape.k * max(engine.info.expert_nbytes)
    attending = shape.layers // (4 if "linear_num_value_heads" in inner else 1)
    kv = attending * 2 * inner["num_key_value_heads"] * inner["head_dim"] * 4 * context
    return float(dense + experts + kv)


class Unpaged:
    """mlx-lm with a slice of a model in RAM.

    Args:
        layers: number of the model's layers to load.
        dtype: of activations and scales; None leaves the model's bfloat16.
    """

    def __init__(self, folder: Path, config: dict[str, Any], layers: int, dtype: Any) -> None:
        inner = config.get("text_config", config)
        fewer = {**inner, "num_hidden_layers": layers}
        change = {"text_config": fewer} if "text_config" in config else fewer
        self._model, _ = load_model(folder, lazy=True, strict=False, model_config=change)
        if dtype is not None:
            self._model.set_dtype(dtype)
        mx.eval(self._model.parameters())

    def run(self, routes: Routes, text: BenchmarkText) -> Numbers:
        """Read the prompt, generate, and time both."""
        cache = make_prompt_cache(self._model)
        begin = time.perf_counter()
        token = self._next(text.ids(routes), cache)
        took, stamps = time.perf_counter() - begin, []
        for _ in range(text.tokens - 1):
            begin = time.perf_counter()
            wanted, token = routes.after(token), self._next([token], cache)
            stamps.append(time.perf_counter() - begin)
            if token != wanted:
                raise OutlierError(
                    f"mlx-lm generated token {token} where the model was made for {wanted}"
                )
        return {"prompt_s": took, "token_s": median(stamps)}

    def _next(self, tokens: list[int], cache: Any) -> int:
        logits = self._model(mx.array(tokens)[None], cache=cache)
        token: Any = mx.argmax(logits[0, -1]).item()
        return int(token)
