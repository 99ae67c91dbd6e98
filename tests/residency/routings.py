"""Routings for tests of policies and replays: synthetic, and real traces if available."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from safetensors import safe_open

from outlier_jupyter.residency.replay import RecordedRouting


def routing_of(experts, width: int, starts=None, bank=None) -> RecordedRouting:
    """Calls begin at `starts`, by default one per token; by default there is one bank."""
    experts = np.asarray(experts, np.int16)
    layers = experts.shape[1]
    return RecordedRouting(
        experts,
        np.arange(len(experts) + 1) if starts is None else np.array(starts),
        (width,) * layers,
        np.zeros(layers, np.int64) if bank is None else np.array(bank),
    )


@st.composite
def routings(draw, steps: int = 12, layers: int = 3, width: int = 5, k: int = 2) -> RecordedRouting:
    """Small routings: prompt chunks and single tokens, absent experts, one bank or two."""
    steps, layers = draw(st.integers(1, steps)), draw(st.integers(1, layers))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    experts = np.argsort(rng.random((steps, layers, width)), axis=2)[:, :, :k]
    if draw(st.booleans()):
        experts = np.where(rng.random(experts.shape) < 0.2, -1, experts)
    cuts = draw(st.sets(st.integers(1, steps), max_size=steps)) | {0, steps}
    bank = draw(st.lists(st.integers(0, 1), min_size=layers, max_size=layers))
    return routing_of(experts, width, sorted(cuts), bank)


def drifting(seed: int, *, every: int, tokens: int = 240) -> RecordedRouting:
    """Popularity per layer that changes every `every` tokens: 16 layers × 64 experts, top-6."""
    rng = np.random.default_rng(seed)
    base = rng.normal(0, 0.8, (16, 64))
    chosen = []
    for token in range(tokens):
        if token % every == 0:
            topic = rng.normal(0, 1, base.shape)
        scores = base + topic + rng.gumbel(size=base.shape)
        chosen.append(np.argsort(-scores, axis=1)[:, :6])
    return routing_of(np.stack(chosen), 64)


def real_paths() -> list[Path]:
    """The files of real models' traces, beside the repository or in OUTLIER_TRACES."""
    folder = os.environ.get("OUTLIER_TRACES")
    places = [Path(folder)] if folder else [p / "shared/traces" for p in Path(__file__).parents]
    return sorted(path for place in places for path in place.glob("*.safetensors"))


def real() -> dict[str, RecordedRouting]:
    """The traces of real models, by name; none if the files are missing."""
    found = {}
    for path in real_paths():
        with safe_open(path, "np") as file:
            width = int(file.metadata()["num_experts"])
            found[path.stem] = routing_of(file.get_tensor("experts"), width)
    return found
