"""Finds which routing interventions take effect on a loaded model, by trying each."""

from __future__ import annotations

import numpy as np

from outlier_jupyter.engine.engine import Engine
from outlier_jupyter.errors import OptionError
from outlier_jupyter.trace import Trace

PROMPT = "def f(x):"


def traced(engine: Engine, **routing: object) -> Trace:
    """The routing of ten tokens."""
    return engine.generate(PROMPT, raw=True, max_tokens=2, **routing).trace


def changes(engine: Engine) -> tuple[str, ...]:
    """Try every intervention; return the names of those that took effect.

    Every intervention is undone afterwards.
    """
    plain = traced(engine)
    layers, k = plain.experts.shape[1:]
    # Not expert 0: some models map invalid ids to it, so a real choice of it is ambiguous.
    used = [np.bincount(_chosen(plain, layer), minlength=8)[1:] for layer in range(layers)]
    most = [(layer, int(uses.argmax()) + 1) for layer, uses in enumerate(used)]
    least = [(layer, int(uses.argmin()) + 1) for layer, uses in enumerate(used)]
    done = []
    for word, routing in (
        ("mask", {"mask": most}),
        ("force", {"force": least}),
        ("boost", {"boost": dict.fromkeys(least, 50.0)}),
        ("temperature", {"router_temperature": 4.0}),
        ("top-k", {"top_k": k + 1}),
    ):
        try:
            seen = traced(engine, **routing)
        except OptionError:
            continue
        recorded = seen.experts[:, :, 0] >= 0  # mid-prompt, the last layer is not evaluated
        if word == "mask":
            assert not any((seen.experts[:, at] == expert).any() for at, expert in most)
        if word == "force":
            for at, expert in least:
                assert (seen.experts[recorded[:, at], at] == expert).any(-1).all()
        if word == "top-k":
            assert seen.experts.shape[2] == k + 1 and (seen.experts[recorded] >= 0).all()
        elif np.array_equal(seen.weights, plain.weights, equal_nan=True):
            continue  # without effect
        done.append(word)
    after = traced(engine)
    assert np.array_equal(after.experts, plain.experts)
    assert np.array_equal(after.weights, plain.weights, equal_nan=True)
    return tuple(done)


def _chosen(trace: Trace, layer: int) -> np.ndarray:
    """All expert ids that a layer chose."""
    ids = trace.experts[:, layer].ravel()
    return ids[ids >= 0]
