"""x·W where each head has its own matrix and its own row of activations."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from .arguments import int_at
from .compiled import Array, Prepared, Stage, address, task, work_memory
from .formats import UNIT, Format
from .kernel_chain import Link, links_of
from .linear import F32s, arrange_task
from .rows import LANES, dots
from .work_partition import END, FIELDS, RUN, START, partition

WIDTH, X, ARRANGED, SUMS, FEW, OUT, HEIGHT, SHARES, W, S, B, ROW_BYTES, SCALE_BYTES = range(13)


@lru_cache
def heads_task(name: str, lanes: int = LANES) -> int:
    """The kernel of `HeadMatrices`; a task is a block of one head's rows."""

    def kernel(arguments: int, number_of_task: int) -> None:
        width, height = int_at(arguments, WIDTH), int_at(arguments, HEIGHT)
        share = int_at(arguments, SHARES) + 8 * FIELDS * number_of_task
        head, start, end = int_at(share, RUN), int_at(share, START), int_at(share, END)
        row = head * height + start
        scale = row * int_at(arguments, SCALE_BYTES)
        dots(
            name, lanes, end - start, int_at(arguments, W) + row * int_at(arguments, ROW_BYTES),
            int_at(arguments, ROW_BYTES), int_at(arguments, S) + scale,
            int_at(arguments, B) + scale, int_at(arguments, SCALE_BYTES), 1,
            int_at(arguments, ARRANGED) + 4 * head * width, 0,
            int_at(arguments, SUMS) + 4 * head * (width // UNIT), 0, width,
            int_at(arguments, OUT) + 4 * row, 0,
        )  # fmt: skip

    return task(kernel)


class HeadMatrices:
    """Packed weights [heads, height, width] for one row per head.

    Args:
        weight, scales, biases: contiguous, as MLX packs them.
    """

    def __init__(
        self, form: Format, heads: int, height: int, width: int, weight: Array,
        scales: Array | None = None, biases: Array | None = None,
    ) -> None:  # fmt: skip
        self.heads, self.height, self.width = heads, height, width
        self._form, self._arrays = form, (weight, scales, biases)
        self.nbytes = heads * height * form.row_bytes(width)

    def links(self, x: F32s, out: F32s) -> list[Link]:
        """Links of a chain: x [heads × width] → out [heads × height]."""
        heads, width, form = self.heads, self.width, self._form
        scratch = work_memory(heads * (width + width // UNIT))
        start = address(scratch)
        few, dealt = np.ones(heads, np.int64), partition(heads, self.height)
        arguments = np.array(
            [width, 0, start, start + 4 * heads * width, address(few), 0, self.height,
             address(dealt), *(address(each) for each in self._arrays), form.row_bytes(width),
             form.scale_bytes(width)],
            np.int64,
        )  # fmt: skip
        prepared = Prepared(
            arguments, (X, OUT), self.nbytes, Stage(heads_task(form.name), len(dealt)),
            before=Stage(arrange_task(form.name), heads),
            memory=[scratch, few, dealt, *(each for each in self._arrays if each is not None)],
        )  # fmt: skip
        return links_of(prepared, x, out)
