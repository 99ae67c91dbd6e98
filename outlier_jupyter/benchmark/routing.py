"""Real routing for models that were not recorded: a trace, resampled to another geometry.

A layer of the new geometry is put together from layers of the trace. Each of its columns (one of
its k choices, followed through time) is a column of the trace with its experts renamed. So how long
choices stay, how often they come back, and which moments are alike, is the real model's. A layer
of more experts is made of several, in turn; one of a larger k has choices of other moments as well.
Nothing here knows of weights or files of models.
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
        picks: int16 [tokens, layers, k], the best first where the trace says which.
        experts: how many a layer has.
        name: of the trace, in words.
    """

    picks: Picks
    experts: int
    name: str


@dataclass(frozen=True)
class Routes:
    """What a made model's router chooses for each of its tokens.

    Attributes:
        picks: int16 [texts × tokens of a text, layers, k].
        tokens: of one text: the texts have the same times and other experts.
        said: where they come from, and what was resampled.
    """

    picks: Picks
    tokens: int
    said: str

    @property
    def texts(self) -> int:
        """How many texts there are."""
        return len(self.picks) // self.tokens

    def after(self, token: int) -> int:
        """The token that follows, within its text; after the last comes the first."""
        text, at = divmod(token, self.tokens)
        return text * self.tokens + (at + 1) % self.tokens


def read_source(path: Path) -> Source:
    """A trace file with `experts` int16 [tokens, layers, k] and the number of experts.

    Raises:
        TraceError: it holds no whole routing.
    """
    trace = Trace.load(path)
    picks = trace.experts
    if not picks.size or picks.min() < 0:
        raise TraceError(f"{path} has tokens without routing: give a trace that is whole")
    return Source(picks, max(trace.info.experts_per_layer), path.stem)


def resample(
    source: Source, layers: int, experts: int, k: int, texts: int, seed: int = 0
) -> Routes:
    """Routes of another geometry with the trace's times, for so many texts.

    Each text has the experts renamed anew, so that no text teaches what the next will ask for.
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
    """One text: each layer from as many layers of the trace as it has times their experts."""
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
    """Of each row the first k experts; where it has fewer, those of other moments come after.

    Half of the trace away first, then quarters; so the layer's favourites stay its favourites.
    """
    if k <= columns.shape[1] and all(len(set(row)) == len(row) for row in columns.tolist()):
        return columns[:, :k].astype(np.int16)
    tokens, rows = len(columns), columns.tolist()
    away = [0, *(tokens * i // 2**n for n in range(1, 7) for i in range(1, 2**n, 2))]
    found = []
    for at in range(tokens):
        held: dict[int, None] = {}
        for by in away:
            held.update(dict.fromkeys(rows[(at + by) % tokens]))
            if len(held) >= k:
                break
        held.update(dict.fromkeys(range(low, low + room)))
        found.append(list(held)[:k])
    return np.array(found, np.int16)
