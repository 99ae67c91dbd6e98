"""Real routing for models that were not recorded: a trace, resampled to another geometry.

A layer of the new geometry is composed of layers of the trace. Each of its columns (one of its k
choices over time) is a column of the trace with renamed experts. So the real model decides how long
choices last, how often they return, and which moments are similar. A layer with more experts is
composed of several layers; one with a larger k also takes choices of other moments. The module
knows no weights and no model files.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import TraceError
from ..trace import Trace

Picks = npt.NDArray[np.int16]
"""Experts chosen, [tokens, layers, k]."""


@dataclass(frozen=True)
class Source:
    """A recorded trace.

    Attributes:
        picks: int16 [tokens, layers, k], the best first if the trace has weights.
        experts: number of experts per layer.
        name: of the trace.
    """

    picks: Picks
    experts: int
    name: str


@dataclass(frozen=True)
class Routes:
    """The router's choices of a benchmark model for each of its tokens.

    Attributes:
        picks: int16 [texts × tokens of a text, layers, k].
        tokens: of one text: the texts have the same timing and different experts.
        description: where they come from, and how they were resampled.
    """

    picks: Picks
    tokens: int
    description: str

    @property
    def texts(self) -> int:
        """The number of texts."""
        return len(self.picks) // self.tokens

    def after(self, token: int) -> int:
        """The next token of the same text; after the last comes the first."""
        text, at = divmod(token, self.tokens)
        return text * self.tokens + (at + 1) % self.tokens


def read_source(path: Path) -> Source:
    """A trace file with `experts` int16 [tokens, layers, k] and the number of experts.

    Raises:
        TraceError: some tokens have no routing.
    """
    trace = Trace.load(path)
    picks = trace.experts
    if not picks.size or picks.min() < 0:
        raise TraceError(f"{path} has tokens without routing: give a trace that is whole")
    return Source(picks, max(trace.info.experts_per_layer), path.stem)


def resample(
    source: Source, layers: int, experts: int, k: int, texts: int, seed: int = 0
) -> Routes:
    """Routes of another geometry with the trace's timing, for `texts` texts.

    Each text renames the experts anew, so that no text predicts the next one's experts.
    """
    made = [_text(source, layers, experts, k, seed + number) for number in range(texts)]
    tokens, old_layers, old_k = source.picks.shape
    same = (layers, experts, k) == (old_layers, source.experts, old_k)
    how = "experts renamed for each text" if same else (
        f"resampled from {old_layers} layers of {source.experts}, top-{old_k}, to {layers} of "
        f"{experts}, top-{k}"
    )  # fmt: skip
    return Routes(np.concatenate(made), tokens, f"{source.name}: {how}")


def _text(source: Source, layers: int, experts: int, k: int, seed: int) -> Picks:
    """One text: a layer with n times the experts is composed of n layers of the trace."""
    rng = np.random.default_rng(seed)
    tokens, old_layers, _ = source.picks.shape
    blocks = max(1, experts // source.experts)
    room = experts // blocks
    found = np.empty((tokens, layers, k), np.int16)
    for layer in range(layers):
        done = 0
        for block in range(blocks):
            share = k // blocks + (block < k % blocks)
            origin = (layer + block * max(1, old_layers // blocks)) % old_layers
            names = block * room + rng.permutation(max(room, source.experts)) % room
            columns = names[source.picks[:, origin]]
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
