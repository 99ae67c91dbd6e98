"""x·W for packed dense weights: several matrices that share x in one call.

A `Matrix` points to packed weights and keeps them alive. `Stack.multiply` is for a few rows of
activations; `prefill_matmul.py` is for many.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from .arguments import float_at, int_at, put_float
from .compiled import RUNNING, Array, Prepared, Stage, address, task, work_memory
from .formats import UNIT, Format
from .kernel_chain import Link, links_of
from .rows import FOUR, LANES, arrange, dots
from .work_partition import END, FIELDS, START, partition

F32s = npt.NDArray[np.float32]
# Indices of the arguments: those of the call, then those of each matrix.
WIDTH, X, ARRANGED, SUMS, FEW, ROWS, OUT, TOTAL, SHARES = range(9)
W, S, B, BIAS, HEIGHT, ROW_BYTES, SCALE_BYTES = range(7)
CALL, MATRIX = 9, 7


@dataclass(frozen=True)
class Matrix:
    """Packed weights [height, width], and an optional bias [height] in float32.

    Attributes:
        weight, scales, biases: contiguous arrays, packed as MLX does.
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
                    f"{self.height} rows of {nbytes} bytes in {self.form.name} do not fit "
                    f"{array.nbytes} bytes"
                )

    def entry(self) -> list[int]:
        """The kernel's arguments for this matrix."""
        return [
            address(self.weight), address(self.scales), address(self.biases), address(self.bias),
            self.height, self.form.row_bytes(self.width), self.form.scale_bytes(self.width),
        ]  # fmt: skip


@lru_cache
def arrange_task(name: str, lanes: int = LANES) -> int:
    """Arrange rows of activations for format `name`; a task is a row.

    An argument says for each row whether few rows share the reading of weights with it.
    """

    def kernel(arguments: int, row: int) -> None:
        width = int_at(arguments, WIDTH)
        sums = int_at(arguments, SUMS) + row * (width // UNIT) * 4
        offset, few = row * 4 * width, int_at(int_at(arguments, FEW), row)
        arrange(name, lanes, int_at(arguments, X) + offset, width,
                int_at(arguments, ARRANGED) + offset, sums, few)  # fmt: skip

    return task(kernel)


@lru_cache
def matrix_task(name: str, lanes: int = LANES) -> int:
    """Multiply rows of activations with the matrices; a task is a block of the matrices' rows."""

    def kernel(arguments: int, number_of_task: int) -> None:
        rows, width = int_at(arguments, ROWS), int_at(arguments, WIDTH)
        total, out = int_at(arguments, TOTAL), int_at(arguments, OUT)
        share = int_at(arguments, SHARES) + 8 * FIELDS * number_of_task
        start, end = int_at(share, START), int_at(share, END)
        x, y, matrix = int_at(arguments, ARRANGED), int_at(arguments, SUMS), arguments + 8 * CALL
        first, place = 0, start
        while place < end:
            while place - first >= int_at(matrix, HEIGHT):
                first += int_at(matrix, HEIGHT)
                matrix += 8 * MATRIX
            at = place - first
            high = min(end - place, int_at(matrix, HEIGHT) - at)
            scale = at * int_at(matrix, SCALE_BYTES)
            dots(
                name, lanes, high, int_at(matrix, W) + at * int_at(matrix, ROW_BYTES),
                int_at(matrix, ROW_BYTES), int_at(matrix, S) + scale, int_at(matrix, B) + scale,
                int_at(matrix, SCALE_BYTES), rows, x, 4 * width, y, width // UNIT * 4, width,
                out + 4 * place, 4 * total,
            )  # fmt: skip
            if int_at(matrix, BIAS) != 0:
                for column in range(high):
                    more = float_at(int_at(matrix, BIAS), at + column)
                    for here in range(place + column, rows * total + place + column, total):
                        put_float(out, here, float_at(out, here) + more)
            place += high

    return task(kernel)


class Stack:
    """Matrices of one format and width that are multiplied with the same activations."""

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
                self._one = self.prepared(1)
            prepared = self._one
        else:
            prepared = self.prepared(rows)
        with RUNNING:
            prepared.run(x, out)
        return out

    def links(self, x: F32s, out: F32s) -> list[Link]:
        """The same for one row, as links of a chain: x [width] → out [height of all matrices]."""
        return links_of(self.prepared(1), x, out)

    def prepared(self, rows: int, stride: int | None = None) -> Prepared:
        """The kernel for so many rows; `stride` numbers from one row of results to the next."""
        count = rows * (self.width + self.width // UNIT)
        # Arranged activations and their sums in one array. A prompt's are not kept.
        scratch = work_memory(count) if rows == 1 else np.empty(count, np.float32)
        start = address(scratch)
        few = np.full(rows, rows < FOUR, np.int64)
        dealt = partition(1, self.height)
        arguments = self._arguments.copy()
        arguments[:CALL] = (
            self.width, 0, start, start + 4 * rows * self.width, address(few), rows, 0,
            stride or self.height, address(dealt),
        )  # fmt: skip
        return Prepared(
            arguments, (X, OUT), self.nbytes * rows,
            Stage(self._multiply, len(dealt)),
            before=Stage(self._arrange, rows), memory=[scratch, few, dealt],
        )  # fmt: skip
