"""Real routing for geometries that were not recorded: a recording, resampled to another geometry.

A layer of the new geometry is composed of layers of the recording. Each of its columns (one of its
k choices over time) is a recorded column with renamed experts. So the real model decides how long
choices last, how often they return, and which moments are similar. A layer with more experts is
composed of several layers; one with a larger k also takes choices of other moments.

Two recordings come with the package: Qwen3-30B-A3B, 129 tokens at 6 of its 8 choices
(github.com/Helldez/BigMoeOnEdge, docs/bench-data), and OLMoE-1B-7B, 299 tokens
(github.com/sqliteai/waste, tests), both under Apache-2.0.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Picks = npt.NDArray[np.int16]
"""Experts chosen, [tokens, layers, k]."""

RECORDED = {"qwen3-30b-a3b": 128, "olmoe-1b-7b": 64}
"""The recordings that come with the package, and the experts of their layers."""


def recorded(name: str) -> Picks:
    """One of `RECORDED`."""
    with np.load(Path(__file__).parent / "recorded_routes.npz") as arrays:
        return np.asarray(arrays[name], np.int16)


def resampled(picks: Picks, of: int, layers: int, experts: int, k: int, seed: int = 0) -> Picks:
    """The choices `picks`, of layers with `of` experts, in a geometry of `layers` × `experts`.

    Returns:
        int16 [tokens, layers, k]; a layer with n times the experts is composed of n layers.
    """
    rng = np.random.default_rng(seed)
    tokens, old_layers, _ = picks.shape
    blocks = max(1, experts // of)
    room = experts // blocks
    found = np.empty((tokens, layers, k), np.int16)
    for layer in range(layers):
        done = 0
        for block in range(blocks):
            share = k // blocks + (block < k % blocks)
            origin = (layer + block * max(1, old_layers // blocks)) % old_layers
            names = block * room + rng.permutation(max(room, of)) % room
            columns = names[picks[:, origin]]
            found[:, layer, done : done + share] = _first(columns, share, block * room, room)
            done += share
    return found


def _first(columns: npt.NDArray[Any], k: int, low: int, room: int) -> npt.NDArray[Any]:
    """The first k experts of each row; if it has fewer, those of other moments follow.

    The moments are half of the trace away, then quarters, so frequent experts stay frequent.
    """
    if k <= columns.shape[1] and all(len(set(row)) == len(row) for row in columns.tolist()):
        return columns[:, :k].astype(np.int16)
    tokens, rows = len(columns), columns.tolist()
    away = [0, *(tokens * i // 2**n for n in range(1, 7) for i in range(1, 2**n, 2))]
    found = []
    for at in range(tokens):
        chosen: dict[int, None] = {}
        for by in away:
            chosen.update(dict.fromkeys(rows[(at + by) % tokens]))
            if len(chosen) >= k:
                break
        chosen.update(dict.fromkeys(range(low, low + room)))
        found.append(list(chosen)[:k])
    return np.array(found, np.int16)
