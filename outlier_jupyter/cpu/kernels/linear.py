"""x·W for dense rows of packed weights: several matrices that share x in one go.

A `Matrix` says where packed weights are and keeps them alive. `multiply` takes a few rows of
activations through several of them; `prefill.py` has the way for many rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from .arguments import put, real, whole
from .compiled import RUNNING, Array, Prepared, Stage, address, task, work_memory
from .formats import UNIT, Format
from .kernel_chain import Link, links_of
from .rows import FOUR, LANES, arrange, dots
from .work_partition import END, FIELDS, START, portions

F32s = npt.NDArray[np.float32]
# What the kernel reads, by place: of the call, and of each matrix after them.
WIDTH, X, ARRANGED, SUMS, FEW, ROWS, OUT, TOTAL, PORTIONS = range(9)
W, S, B, BIAS, HEIGHT, ROW_BYTES, SCALE_BYTES = range(7)
CALL, MATRIX = 9, 7


@dataclass(frozen=True)
class Matrix:
    """Packed weights [height, width], and a bias [height] in float32, where there is one.

    Attributes:
        weight, scales, biases: contiguous arrays whose bytes are as MLX packs them.
    """

    form: Format
    height: int
    width: int
    weight: Array
    scales: Array | None = None
    biases: Array | None = None
    bias: F32s | None = None

    def __post_init__(self) -> None:
        parts = [(self.weight, self.form.row_bytes(self.width))]
        if self.scales is not None:
            parts.append((self.scales, self.form.scale_bytes(self.width)))
        if self.biases is not None:
            parts.append((self.biases, self.form.scale_bytes(self.width)))
        for array, nbytes in parts:
            if array.nbytes != self.height * nbytes:
                raise ValueError(
                    f"{array.nbytes} bytes were given for {self.height} rows of {nbytes} in "
                    f"{self.form.name}"
                )

    def entry(self) -> list[int]:
        """What the kernel reads of this matrix."""
        return [
            address(self.weight), address(self.scales), address(self.biases), address(self.bias),
            self.height, self.form.row_bytes(self.width), self.form.scale_bytes(self.width),
        ]  # fmt: skip


@lru_cache
def arrange_task(name: str, lanes: int = LANES) -> int:
    """Lay rows of activations out for format `name`; a task is a row.

    Of each is said whether few rows share the reading of weights with it.
    """

    def kernel(arguments: int, row: int) -> None:
        width = whole(arguments, WIDTH)
        sums = whole(arguments, SUMS) + row * (width // UNIT) * 4
        offset, few = row * 4 * width, whole(whole(arguments, FEW), row)
        arrange(name, lanes, whole(arguments, X) + offset, width,
                whole(arguments, ARRANGED) + offset, sums, few)  # fmt: skip

    return task(kernel)


@lru_cache
def matrix_task(name: str, lanes: int = LANES) -> int:
    """Multiply rows of activations with some rows of the matrices; a task is a portion of those."""

    def kernel(arguments: int, number_of_task: int) -> None:
        rows, width = whole(arguments, ROWS), whole(arguments, WIDTH)
        total, out = whole(arguments, TOTAL), whole(arguments, OUT)
        portion = whole(arguments, PORTIONS) + 8 * FIELDS * number_of_task
        start, end = whole(portion, START), whole(portion, END)
        x, y, matrix = whole(arguments, ARRANGED), whole(arguments, SUMS), arguments + 8 * CALL
        first, place = 0, start
        while place < end:
            while place - first >= whole(matrix, HEIGHT):
                first += whole(matrix, HEIGHT)
                matrix += 8 * MATRIX
            at = place - first
            high = min(end - place, whole(matrix, HEIGHT) - at)
            scale = at * whole(matrix, SCALE_BYTES)
            dots(
                name, lanes, high, whole(matrix, W) + at * whole(matrix, ROW_BYTES),
                whole(matrix, ROW_BYTES), whole(matrix, S) + scale, whole(matrix, B) + scale,
                whole(matrix, SCALE_BYTES), rows, x, 4 * width, y, width // UNIT * 4, width,
                out + 4 * place, 4 * total,
            )  # fmt: skip
            if whole(matrix, BIAS) != 0:
                for column in range(high):
                    more = real(whole(matrix, BIAS), at + column)
                    for here in range(place + column, rows * total + place + column, total):
                        put(out, here, real(out, here) + more)
            place += high

    return task(kernel)


class Stack:
    """Matrices of one format and width that are multiplied with the same activations at once."""

    def __init__(self, matrices: Sequence[Matrix], lanes: int = LANES) -> None:
        self.matrices = tuple(matrices)
        first = self.matrices[0]
        if any((m.form, m.width) != (first.form, first.width) for m in self.matrices):
            raise ValueError("matrices of several formats or widths cannot be stacked")
        self.width = first.width
        self.heights = [matrix.height for matrix in self.matrices]
        self.height = sum(self.heights)
        self._arrange = arrange_task(first.form.name, lanes)
        self._multiply = matrix_task(first.form.name, lanes)
        self._arguments = np.array(
            [0] * CALL + [number for matrix in self.matrices for number in matrix.entry()],
            np.int64,
        )
        self.nbytes = sum(m.height * m.form.row_bytes(m.width) for m in self.matrices)
        self._one: Prepared | None = None

    def multiply(self, x: F32s) -> F32s:
        """x [rows, width] → [rows, height of all matrices], side by side."""
        rows = len(x)
        out = np.empty((rows, self.height), np.float32)
        if rows == 1:
            if self._one is None:
                self._one = self._prepared(1)
            prepared = self._one
        else:
            prepared = self._prepared(rows)
        with RUNNING:
            prepared.run(x, out)
        return out

    def links(self, x: F32s, out: F32s) -> list[Link]:
        """The same for one row, as links of a chain: x [width] → out [height of all matrices]."""
        return links_of(self._prepared(1), x, out)

    def _prepared(self, rows: int) -> Prepared:
        count = rows * (self.width + self.width // UNIT)
        # Arranged activations and their sums in one piece. A prompt's are not kept.
        scratch = work_memory(count) if rows == 1 else np.empty(count, np.float32)
        start = address(scratch)
        few = np.full(rows, rows < FOUR, np.int64)
        dealt = portions(1, self.height)
        arguments = self._arguments.copy()
        arguments[:CALL] = (
            self.width, 0, start, start + 4 * rows * self.width, address(few), rows, 0,
            self.height, address(dealt),
        )  # fmt: skip
        return Prepared(
            arguments, (X, OUT), self.nbytes * rows,
            Stage(self._multiply, len(dealt)),
            before=Stage(self._arrange, rows), memory=[scratch, few, dealt],
        )  # fmt: skip
