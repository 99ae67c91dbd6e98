"""What happens to queries and keys before attention: an RMS norm of each head, rotary positions."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from .arguments import put, real, whole
from .compiled import RUNNING, Prepared, Stage, address, task
from .kernel_chain import Link, link
from .linear import F32s

X, HEADS, WIDTH, WEIGHTS, TURNED, ANGLES, PAIRED, PARAMETERS = range(8)


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


class HeadRotation:
    """Norms and turns the heads of one token.

    Args:
        heads, width: how many there are, and how wide.
        frequencies: float64, radians a token for each pair of coordinates that is turned; empty
            for none.
        paired: whether a pair are neighbours (MLX's `traditional`), not halves of the coordinates.
        weights: [heads, width] of the norm, or None for no norm; `epsilon` of it.
    """

    def __init__(
        self,
        heads: int,
        width: int,
        frequencies: npt.NDArray[np.float64],
        paired: bool = False,
        weights: F32s | None = None,
        epsilon: float = 0.0,
    ) -> None:
        self._frequencies = frequencies.tobytes()
        self._given = (
            heads, width, weights, len(frequencies), 0, int(paired), np.array([epsilon], np.float32)
        )  # fmt: skip
        made = link(turn_task(), heads, 0, *self._given)
        # No memory to speak of: it runs on the thread that asks.
        self._prepared = Prepared(
            made.arguments, (X, ANGLES), 0, Stage(made.code, heads), memory=made.memory
        )

    def __call__(self, heads: F32s, position: int) -> None:
        """Norm and turn `heads` [heads, width], contiguous, where they are."""
        angles, _ = _angles(self._frequencies, position)
        with RUNNING:
            self._prepared.run(heads, angles)

    def link(self, heads: F32s) -> Link:
        """The same as a link of a chain, once `at` has said for which position."""
        return link(turn_task(), self._given[0], heads, *self._given)

    def at(self, position: int, made: Link) -> None:
        """Have `made`, by `link`, turn by `position` when it runs next."""
        made.arguments[ANGLES] = _angles(self._frequencies, position)[1]


@lru_cache(maxsize=4096)
def _angles(frequencies: bytes, position: int) -> tuple[F32s, int]:
    """Cosines, then sines, of a token's angles, [1, both], and their address.

    Every layer asks for the same.
    """
    turned = position * np.frombuffer(frequencies, np.float64)
    found = np.concatenate([np.cos(turned), np.sin(turned)]).astype(np.float32)[None]
    return found, address(found)
