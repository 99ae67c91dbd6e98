"""The routing of the benchmark's models: that of a trace, resampled to another geometry.

The module knows no weights and no model files.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import TraceError
from ..residency.resample import Picks, resampled
from ..trace import Trace


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
    made = [
        resampled(source.picks, source.experts, layers, experts, k, seed + number)
        for number in range(texts)
    ]
    tokens, old_layers, old_k = source.picks.shape
    same = (layers, experts, k) == (old_layers, source.experts, old_k)
    how = "experts renamed for each text" if same else (
        f"resampled from {old_layers} layers of {source.experts}, top-{old_k}, to {layers} of "
        f"{experts}, top-{k}"
    )  # fmt: skip
    return Routes(np.concatenate(made), tokens, f"{source.name}: {how}")
