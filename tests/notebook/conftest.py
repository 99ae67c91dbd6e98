"""Traces made without a model: skewed routing through a plain LRU cache; one IPython for all."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from IPython.testing.globalipapp import start_ipython

from outlier_jupyter.trace import CALL, EVICTION, READ, Trace, TraceInfo

MakeTrace = Callable[..., Trace]


@pytest.fixture(scope="session")
def make_trace() -> MakeTrace:
    """A function that builds a trace of a made-up run; see `build`."""
    return build


def build(
    steps: int = 40,
    layers: int = 4,
    experts: int = 16,
    k: int = 2,
    slots: int = 24,
    prompt: int = 10,
    chunk: int = 6,
    seed: int = 0,
    **info: Any,
) -> Trace:
    """Run `steps` tokens, the first `prompt` of them in prefill calls of `chunk`."""
    rng = np.random.default_rng(seed)
    chosen = route(rng, steps, layers, experts, k)
    firsts = [*range(0, prompt, chunk), *range(prompt, steps)] if steps else []
    ends = [*firsts[1:], steps] if steps else []
    hits = np.zeros(chosen.shape, bool)
    resident: OrderedDict[tuple[int, int], None] = OrderedDict()
    sits = np.zeros((layers, experts), bool)
    reads: list[tuple[int, ...]] = []
    gone: list[tuple[int, ...]] = []
    call, calls = np.zeros(steps, np.int32), np.zeros(len(firsts), CALL)
    for row, (a, b) in enumerate(zip(firsts, ends, strict=True)):
        call[a:b] = row
        calls[row]["phase"], calls[row]["first_step"] = int(a >= prompt), a
        calls[row]["steps"], calls[row]["ns"] = b - a, 20_000_000 * (b - a)
        for layer in range(layers):
            wanted = chosen[a:b, layer]
            hits[a:b, layer] = sits[layer][wanted]
            for expert in np.unique(wanted).tolist():
                if (layer, expert) in resident:
                    resident.move_to_end((layer, expert))
                    continue
                if len(resident) >= slots:
                    (lost_layer, lost), _ = resident.popitem(last=False)
                    gone.append((a, lost_layer, lost, layer, expert))
                    sits[lost_layer, lost] = False
                resident[(layer, expert)], sits[layer, expert] = None, True
                nanoseconds = int(rng.lognormal(13.4, 0.35))
                reads.append((a, layer, expert, 2_000_000, len(reads) * 10**6, nanoseconds, 0))
    about: dict[str, Any] = {
        "model": "made-up MoE",
        "experts_per_layer": (experts,) * layers,
        "expert_nbytes": (2_000_000,) * layers,
        "slots": slots,
        "reader": "pread",
    }
    return Trace(
        tokens=np.arange(steps, dtype=np.int32),
        produced=np.full(steps, -1, np.int32),
        phase=(np.arange(steps) >= prompt).astype(np.uint8),
        call=call,
        step_ns=np.full(steps, 20_000_000, np.int64),
        experts=chosen,
        weights=np.full(chosen.shape, np.nan, np.float32),
        hits=hits,
        reads=np.array(reads, READ),
        evictions=np.array(gone, EVICTION),
        calls=calls,
        resident_at_start=np.zeros((0, 2), np.int16),
        info=TraceInfo(**(about | info)),
    )


def route(
    rng: np.random.Generator, steps: int, layers: int, experts: int, k: int
) -> np.ndarray[Any, np.dtype[np.int16]]:
    """Skewed choices of k different experts, which drift: int16 [steps, layers, k]."""
    if not layers:
        return np.zeros((steps, 0, 0), np.int16)
    liking = rng.gumbel(size=(layers, experts)) * 1.2
    out = np.zeros((steps, layers, k), np.int16)
    for step in range(steps):
        score = liking + rng.gumbel(size=liking.shape)
        out[step] = np.argsort(-score, axis=1)[:, :k]
    return out


@pytest.fixture(scope="session")
def shell():
    """IPython's own shell for tests: a process has only one, and a second start returns none."""
    return start_ipython()
