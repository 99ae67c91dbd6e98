"""Ends a block of thinking after a number of tokens: a logits processor that forces its closing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from ..trace.segments import THINKING
from .segments import GeneratedSegments

PATIENCE = 16
"""Tokens over the budget in which a tag that the model has begun may become whole."""


class ThinkingBudget:
    """Forces the tokens of `closing` once a run has made `budget` tokens of thinking.

    It is called before a token is sampled, and again if that is repeated; it counts in generated
    tokens, so that the second call gives the same.

    Attributes:
        closed: whether it ended a block.
    """

    def __init__(
        self, budget: int, closing: Sequence[int], segments: GeneratedSegments,
        generated: Sequence[int],
    ) -> None:  # fmt: skip
        self.closed = False
        self._budget, self._closing = budget, closing
        self._segments, self._generated = segments, generated
        self._since: int | None = None

    def __call__(self, tokens: mx.array, logits: mx.array) -> mx.array:
        """The logits [1, vocabulary], or such that allow one token alone."""
        made = len(self._generated)
        if self._since is not None and made - self._since >= len(self._closing):
            self._since = None
        if self._since is None and self._due():
            self._since, self.closed = made, True
        if self._since is None:
            return logits
        ids = mx.arange(logits.shape[-1])
        forced: Any = mx.where(ids == self._closing[made - self._since], 0.0, -mx.inf)
        return mx.broadcast_to(forced.astype(logits.dtype), logits.shape)

    def _due(self) -> bool:
        over = self._segments.thinking_tokens - self._budget
        waits = self._segments.undecided and over < PATIENCE
        return self._segments.kind == THINKING and over >= 0 and not waits
