"""What happens to queries and keys before attention: an RMS norm of each head, rotary positions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .compiled import Stage, address, call, task
from .linear import F32s
from .memory import put, real, whole

HEADS, WIDTH, WEIGHTS, TURNED, ANGLES, PAIRED, PARAMETERS = range(1, 8)
X = 0


@dataclass(frozen=True)
class Turn:
    """How heads are normed and turned.

    Attributes:
        weights: [heads, width] of the norm, or None for no norm.
        epsilon: of the norm.
        frequencies: radians a token for each pair of coordinates that is turned; empty for none.
        paired: whether a pair are neighbours (MLX's `traditional`), not halves of the coordinates.
    """

    weights: F32s | None
    epsilon: float
    frequencies: np.ndarray[tuple[int], np.dtype[np.float64]]
    paired: bool = False

    def angles(self, position: int) -> F32s:
        """Cosines, then sines, of a token's angles."""
        turned = position * self.frequencies
        return np.concatenate([np.cos(turned), np.sin(turned)]).astype(np.float32)


@lru_cache
def turn_task() -> int:
    """The kernel of `turn`; a task is a head."""

    def kernel(arguments: int, head: int) -> None:
        width, turned = whole(arguments, WIDTH), whole(arguments, TURNED)
        x = whole(arguments, X) + 4 * head * width
        weights, angles = whole(arguments, WEIGHTS), whole(arguments, ANGLES)
        if weights != 0:
            total = real(x, 0) * real(x, 0)
            for i in range(1, width):
                total += real(x, i) * real(x, i)
            scale = 1 / math.sqrt(total / width + real(whole(arguments, PARAMETERS), 0))
            for i in range(width):
                put(x, i, real(x, i) * scale * real(weights, head * width + i))
        paired = whole(arguments, PAIRED)
        for i in range(turned):
            first, second = (2 * i, 2 * i + 1) if paired else (i, i + turned)
            a, b = real(x, first), real(x, second)
            cosine, sine = real(angles, i), real(angles, turned + i)
            put(x, first, a * cosine - b * sine)
            put(x, second, a * sine + b * cosine)

    return task(kernel)


def turn(heads: F32s, how: Turn, angles: F32s) -> None:
    """Norm and turn `heads` [heads, width], contiguous, where they are."""
    count, width = heads.shape
    parameters = np.array([how.epsilon], np.float32)
    arguments = np.array(
        [address(heads), count, width, address(how.weights), len(how.frequencies), address(angles),
         how.paired, address(parameters)],
        np.int64,
    )  # fmt: skip
    call(arguments, Stage(turn_task(), count))
