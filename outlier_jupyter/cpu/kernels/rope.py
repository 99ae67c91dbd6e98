"""RMS norm and rotary position embedding (RoPE) of queries and keys, head by head."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from .arguments import float_at, int_at
from .compiled import Stage, address, run, task
from .kernel_chain import Link, link
from .linear import F32s
from .vectors import rms_norm, rotate

X, HEADS, WIDTH, WEIGHTS, ROTATED, ANGLES, PAIRED, PARAMETERS, STEP = range(9)


@lru_cache
def rope_task() -> int:
    """The kernel of `HeadRotation`; a task is a token's head."""

    def kernel(arguments: int, number: int) -> None:
        width, rotated = int_at(arguments, WIDTH), int_at(arguments, ROTATED)
        token = number // int_at(arguments, HEADS)
        head = number - token * int_at(arguments, HEADS)
        x = int_at(arguments, X) + token * int_at(arguments, STEP) + 4 * head * width
        angles = int_at(arguments, ANGLES) + 8 * token * rotated
        weights = int_at(arguments, WEIGHTS)
        if weights != 0:
            epsilon = float_at(int_at(arguments, PARAMETERS), 0)
            rms_norm(x, 0, weights + 4 * head * width, x, width, epsilon)
        rotate(x, angles, rotated, int_at(arguments, PAIRED))

    return task(kernel)


class HeadRotation:
    """Normalises and rotates the heads of one token or several.

    Args:
        heads, width: number and width of the heads.
        frequencies: float64, radians per token for each rotated pair of coordinates; may be empty.
        paired: whether a pair is two neighbours (MLX's `traditional`), not one of each half.
        magnitude: factor of what is rotated.
        weights: the norm's weights [heads, width], or None for no norm; `epsilon` of it.
    """

    def __init__(
        self,
        heads: int,
        width: int,
        frequencies: npt.NDArray[np.float64],
        paired: bool = False,
        magnitude: float = 1.0,
        weights: F32s | None = None,
        epsilon: float = 0.0,
    ) -> None:
        self._frequencies, self._magnitude = frequencies.tobytes(), magnitude
        self._parameters = (
            heads, width, weights, len(frequencies), 0, int(paired), np.array([epsilon], np.float32)
        )  # fmt: skip

    def __call__(self, rows: F32s, position: int) -> None:
        """Normalise and rotate in place the heads that each of `rows` [tokens, …] begins with.

        Args:
            position: of the first token; the others follow.
        """
        angles = _many_angles(self._frequencies, position, len(rows), self._magnitude)
        heads = self._parameters[0]
        made = link(rope_task(), heads, rows.ctypes.data, *self._parameters, rows.strides[0])
        made.arguments[ANGLES] = address(angles)
        run(made.arguments, rows.nbytes, Stage(made.code, heads * len(rows)))

    def link(self, heads: F32s) -> Link:
        """One token's, as a link of a chain; call `at` with the position before it runs."""
        return link(rope_task(), self._parameters[0], heads, *self._parameters, 0)

    def at(self, position: int, made: Link) -> None:
        """Set the position of `made`, a result of `link`, for its next run."""
        made.arguments[ANGLES] = _angles(self._frequencies, position, self._magnitude)[1]


@lru_cache(maxsize=4096)
def _angles(frequencies: bytes, position: int, magnitude: float) -> tuple[F32s, int]:
    """Cosines, then sines, of a token's angles, [1, both], and their address; shared by layers."""
    found = _made(frequencies, position, 1, magnitude)
    return found, address(found)


@lru_cache(maxsize=2)
def _many_angles(frequencies: bytes, first: int, tokens: int, magnitude: float) -> F32s:
    """The same of several tokens, [tokens, both]; a prompt's layers have the same."""
    return _made(frequencies, first, tokens, magnitude)


def _made(frequencies: bytes, first: int, tokens: int, magnitude: float) -> F32s:
    positions = np.arange(first, first + tokens, dtype=np.float64)
    rotated = np.outer(positions, np.frombuffer(frequencies, np.float64))
    found = np.concatenate([np.cos(rotated), np.sin(rotated)], axis=1)
    return (magnitude * found).astype(np.float32)
