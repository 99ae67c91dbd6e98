"""Compare two programs that round differently where a model's choices are clear.

A model chooses: which experts a token goes to, which tokens sparse attention reads, which number of
8 bits stands for one of 32 (deepseek_v41 rounds what it caches). Two choices within float32's
rounding of each other are a tie, and processors that add in different orders break it differently:
from there on both results are right, and far apart. So where logits differ, the reference runs
again with its weights moved by their last bits. If its choices are the same, the difference is a
fault; if not, the prompt shows nothing, and the next one is compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_map

from tests.paging.test_exact import logits

TOLERANCE = 1e-3
"""Share of the largest logit: 20 × what activations of 16 bits change in it."""
LAST_BITS = 1e-5
"""Share of a weight. It moves logits by 1 or 2 ten-thousandths: 3 × the kernels' difference."""
CLEAR = 2.5e-4
"""Share of the largest score: every processor makes a choice with a larger margin alike."""
DRAWS = 48
PROMPTS = 5


def near(found: np.ndarray, wanted: np.ndarray) -> bool:
    """Whether two arrays are equal within the tolerance."""
    assert found.shape == wanted.shape
    return bool(np.abs(found - wanted).max() <= TOLERANCE * np.abs(wanted).max())


@contextmanager
def choices(routing: bool = True) -> Iterator[list[float]]:
    """Gather the margin of each choice that MLX makes, as a share of the largest score.

    Args:
        routing: also of the choices of experts, not of tokens only.

    For top-k that is the distance between the last taken and the first not taken; for a token,
    between it and the next. Choices inside a compiled function are not visible.
    """
    margins: list[float] = []
    made: list[mx.array] = []
    partition, largest = mx.argpartition, mx.argmax

    def note(scores: mx.array, taken: int) -> None:
        ordered = mx.sort(scores, axis=-1)
        gap = ordered[..., -taken] - ordered[..., -taken - 1]
        made.append((gap / mx.abs(scores).max(axis=-1)).min())

    def argpartition(scores: mx.array, kth: int, axis: int = -1) -> mx.array:
        if not routing:
            pass
        elif kth < 0:
            note(scores, -kth)
        elif kth + 1 < scores.shape[-1]:
            note(-scores, kth + 1)
        return partition(scores, kth=kth, axis=axis)

    def argmax(scores: mx.array, **options: Any) -> mx.array:
        note(scores, 1)
        return largest(scores, **options)

    mx.argpartition, mx.argmax = argpartition, argmax
    try:
        yield margins
    finally:
        mx.argpartition, mx.argmax = partition, largest
        margins += [gap.item() for gap in made]


class Reference:
    """mlx-lm's own model, which computes with MLX's kernels.

    Args:
        decoded: tokens that follow each prompt, one at a time.
    """

    def __init__(self, model: Any, decoded: int = 3) -> None:
        self.model, self.decoded = model, decoded
        self._logits: dict[tuple[int, ...], np.ndarray] = {}
        self._torn: dict[tuple[int, ...], bool] = {}

    def logits(self, tokens: list[int]) -> np.ndarray:
        """Logits of a prompt's last token and of those that follow, computed once per prompt."""
        key = tuple(tokens)
        if key not in self._logits:
            self._logits[key] = logits(self.model, tokens, self.decoded)
        return self._logits[key]

    def torn(self, tokens: list[int]) -> bool:
        """Whether a prompt meets a tie: its logits jump when weights move by their last bits."""
        key = tuple(tokens)
        if key not in self._torn:
            wanted, plain = self.logits(tokens), self.model.parameters()
            random = np.random.default_rng(0)
            try:
                self._torn[key] = any(
                    not near(self._moved(plain, random, tokens), wanted) for _ in range(DRAWS)
                )
            finally:
                self.model.update(plain)
        return self._torn[key]

    def _moved(self, plain: Any, random: np.random.Generator, tokens: list[int]) -> np.ndarray:
        def move(weight: mx.array) -> mx.array:
            if not mx.issubdtype(weight.dtype, mx.floating):
                return weight
            by = mx.array(random.standard_normal(weight.shape, np.float32))
            return weight * (1 + LAST_BITS * by).astype(weight.dtype)

        self.model.update(tree_map(move, plain))
        return logits(self.model, tokens, self.decoded)

    def agrees_with(self, model: Any, length: int) -> bool:
        """Whether `model` gives these logits for a prompt of `length` that meets no tie.

        Raises:
            AssertionError: every prompt that was tried met one.
        """
        for number in range(PROMPTS):
            tokens = np.random.default_rng([length, number]).integers(0, 256, length).tolist()
            if near(logits(model, tokens, self.decoded), self.logits(tokens)):
                return True
            if not self.torn(tokens):
                return False
        raise AssertionError(f"each of {PROMPTS} prompts of {length} tokens met a tie")
