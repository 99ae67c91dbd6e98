"""A rule for whether a generated text is coherent.

An answer is incoherent if one of three conditions holds:

1. It repeats itself: more than half of its sequences of four tokens had occurred in it before.
2. It is made of few tokens: in some window of 64 of its tokens (or in all of them, if there are
   32 to 63), fewer than a quarter are distinct.
3. The model itself, with its own routing, finds it unlikely: the mean log-probability of its tokens
   is more than 2 nats below that of the model's own answer to the same prompt. In the geometric
   mean its tokens then have less than a seventh of that probability.

The first two need no model. They do not apply to answers of less than 32 tokens, where a short list
or a refrain would count as repetition. The numbers are conventions, not fitted to a model.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

GRAM, REPEATED = 4, 0.5
WINDOW, DISTINCT = 64, 0.25
SHORT = 32
BELOW = 2.0

COHERENT = "coherent"
REPEATS = "repeats itself"
FEW = "made of few tokens"
UNLIKELY = "unlikely to the model itself"


def repeated_share(tokens: Sequence[int] | npt.NDArray[np.integer]) -> float:
    """Share of sequences of four tokens that had occurred before; NaN below five tokens."""
    grams = [tuple(tokens[i : i + GRAM]) for i in range(len(tokens) - GRAM + 1)]
    return 1 - len(set(grams)) / len(grams) if len(grams) > 1 else float("nan")


def distinct_share(tokens: Sequence[int] | npt.NDArray[np.integer]) -> float:
    """The lowest share of distinct tokens in a window of 64, or in all if fewer; NaN without."""
    if not len(tokens):
        return float("nan")
    last = max(1, len(tokens) - WINDOW + 1)
    return min(
        len(set(window)) / len(window)
        for window in (list(tokens[i : i + WINDOW]) for i in range(last))
    )


def verdict(
    tokens: Sequence[int] | npt.NDArray[np.integer],
    log_probability: float,
    own_log_probability: float,
) -> str:
    """`coherent`, or the first condition of the module's rule that holds.

    Args:
        tokens: the answer's, without the end-of-turn token.
        log_probability: their mean under the model's own routing, nats.
        own_log_probability: the same of the model's own answer.
    """
    if len(tokens) >= SHORT:
        if repeated_share(tokens) > REPEATED:
            return REPEATS
        if distinct_share(tokens) < DISTINCT:
            return FEW
    if log_probability < own_log_probability - BELOW:
        return UNLIKELY
    return COHERENT
