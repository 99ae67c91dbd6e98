"""What can be changed in the routing of a loaded model, found out by trying."""

from __future__ import annotations

import numpy as np

from outlier_jupyter.engine import Engine
from outlier_jupyter.errors import OptionError
from outlier_jupyter.trace import Trace

PROMPT = "def f(x):"


def traced(engine: Engine, **routing: object) -> Trace:
    """Ten tokens' routing."""
    return engine.generate(PROMPT, raw=True, max_tokens=2, **routing).trace


def changes(engine: Engine) -> tuple[str, ...]:
    """Try all that can be changed: the words of what did as asked, or what refused it.

    Whatever is tried, nothing of it is left afterwards.
    """
    plain = traced(engine)
    layers, k = plain.experts.shape[1:]
    # Not expert 0: where a model maps what is no expert to it, its own choice cannot be told.
    used = [
        np.bincount(plain.experts[:, layer].ravel(), minlength=8)[1:] for layer in range(layers)
    ]
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
        if word == "mask":
            assert not any((seen.experts[:, at] == expert).any() for at, expert in most)
        if word == "force":
            assert all((seen.experts[:, at] == expert).any(-1).all() for at, expert in least)
        if word in ("boost", "temperature"):  # behind a sigmoid neither decides who is chosen
            assert not np.array_equal(seen.weights[:, 0], plain.weights[:, 0])
        if word == "top-k":
            assert seen.experts.shape[2] == k + 1 and (seen.experts >= 0).all()
        done.append(word)
    after = traced(engine)
    assert np.array_equal(after.experts, plain.experts)
    assert np.array_equal(after.weights, plain.weights)
    return tuple(done)
