"""Products for many rows of activations: packed weights in tiles, plain ones with BLAS.

Each row of activations is quantised once. Then every tile of weights is a task, which reads and
unpacks it once for all rows that it is multiplied with. Plain weights become float32 block by
block, small enough for the processor's cache, and BLAS multiplies.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from .activations import KINDS, activate
from .arguments import as_float_at, float_at, int_at, put_float
from .compiled import Array, Stage, address, run, task, threads
from .experts import BIAS, COUNT, PAIR, ROW_BYTES, SCALE_BYTES, SLOT, Bank, Experts, Slots, bank_row
from .formats import Format, parse
from .kernel_chain import Link, link, links_of
from .linear import F32s, Matrix, Stack
from .rows import LANES, unpack
from .tile_codes import tile_of
from .weight_tiles import CHUNK, multiply_tile, quantise, row_nbytes, swiglu

Ints = npt.NDArray[np.int64]

BLOCK_BYTES = 1 << 23
"""Bytes of plain weights unpacked at once: they should stay in the cache until BLAS reads them."""
MANY_ROWS = 3
"""From this many rows of one matrix on tiles are faster than rows of packed weights."""
TILES_OF_TASK = 4
"""Adjacent tiles of a task: while one is multiplied, the next is prefetched."""

# Indices of the arguments: of rows that become others, of plain weights, and of tiles.
X, X_BYTES, WIDTH, OUT, OUT_BYTES = range(5)
PLAIN, PLAIN_BYTES, PLAIN_WIDTH, FLOATS, ROWS, BLOCK = range(6)
VALUES, GATES, HIDDEN, PARAMETERS = range(4)
TABLE, XS, OUTS, TILE_WIDTH, HEIGHT, TASKS, BANK = range(7)


@lru_cache
def quantise_task(name: str) -> int:
    """Quantise rows for tiles of format `name`; a task is a row."""

    def kernel(arguments: int, row: int) -> None:
        quantise(name, int_at(arguments, X) + row * int_at(arguments, X_BYTES),
                 int_at(arguments, WIDTH),
                 int_at(arguments, OUT) + row * int_at(arguments, OUT_BYTES))  # fmt: skip

    return task(kernel)


@lru_cache
def tile_task(name: str, bias: str, lanes: int = LANES) -> int:
    """Multiply tiles of a bank's slot with the rows of one run, and add biases.

    A run is rows of activations of one slot; its tasks are `TILES_OF_TASK` adjacent tiles each.
    """
    columns, biased = tile_of(parse(name), lanes).columns, bias != "none"

    def kernel(arguments: int, number_of_task: int) -> None:
        tasks, height = int_at(arguments, TASKS), int_at(arguments, HEIGHT)
        run_of = int_at(arguments, TABLE) + 24 * (number_of_task // tasks)
        slot, first, count = int_at(run_of, SLOT), int_at(run_of, PAIR), int_at(run_of, COUNT)
        begin = number_of_task % tasks * columns * TILES_OF_TASK
        bank = arguments + 8 * BANK
        for start in range(begin, min(height, begin + columns * TILES_OF_TASK), columns):
            high = min(columns, height - start)
            w, s, b = bank_row(bank, slot * height + start)
            for place in range(first, first + count, CHUNK):
                outs = int_at(arguments, OUTS) + 8 * place
                rows = min(CHUNK, first + count - place)
                multiply_tile(
                    name, lanes, w, int_at(bank, ROW_BYTES), s, b, int_at(bank, SCALE_BYTES), high,
                    rows, int_at(arguments, XS) + 8 * place, outs, 4 * start,
                    int_at(arguments, TILE_WIDTH)
                )  # fmt: skip
                if biased:
                    for row in range(rows):
                        out = int_at(outs, row)
                        for column in range(start, start + high):
                            more = as_float_at(bias, int_at(bank, BIAS), slot * height + column)
                            put_float(out, column, float_at(out, column) + more)

    return task(kernel)


@lru_cache
def unpack_task(name: str) -> int:
    """Write rows of plain weights as float32; a task is a block of rows."""

    def kernel(arguments: int, block: int) -> None:
        width, size = int_at(arguments, PLAIN_WIDTH), int_at(arguments, BLOCK)
        for row in range(block * size, min((block + 1) * size, int_at(arguments, ROWS))):
            unpack(name, LANES, int_at(arguments, PLAIN) + row * int_at(arguments, PLAIN_BYTES),
                   0, 0, width, int_at(arguments, FLOATS) + 4 * row * width)  # fmt: skip

    return task(kernel)


@lru_cache
def activate_task(kind: str) -> int:
    """Replace values by the activation of them and their gates; a task is a row."""
    gated, plain = KINDS[kind], kind != "swiglu"

    def kernel(arguments: int, row: int) -> None:
        hidden = int_at(arguments, HIDDEN)
        values = int_at(arguments, VALUES) + 4 * row * hidden
        gates = int_at(arguments, GATES) + 4 * row * hidden
        if plain:
            a, b = (
                float_at(int_at(arguments, PARAMETERS), 0),
                float_at(int_at(arguments, PARAMETERS), 1),
            )
            for column in range(hidden):
                value = float_at(values, column)
                gate = float_at(gates, column) if gated else value
                put_float(values, column, activate(kind, value, gate, a, b))
        else:
            swiglu(values, gates, hidden)

    return task(kernel)


class Rows:
    """Rows of activations, float32 [rows, width], quantised when a format first needs it."""

    def __init__(self, x: F32s) -> None:
        self.x = np.ascontiguousarray(x)
        self._quantised: dict[Format, Array] = {}

    def addresses(self, form: Format) -> Ints:
        """Where each row is, quantised for tiles of a format."""
        rows, width = self.x.shape
        if form not in self._quantised:
            found = np.empty((rows, row_nbytes(form, width)), np.uint8)
            self._quantised[form] = found
            arguments = np.array(
                [address(self.x), 4 * width, width, address(found), found.shape[1]], np.int64
            )
            run(arguments, self.x.nbytes, Stage(quantise_task(form.name), rows))
        return _addresses(self._quantised[form])


def _addresses(array: Array, column: int = 0) -> Ints:
    """The address of each of an array's rows, from `column` on."""
    start = array.ctypes.data + column * array.itemsize
    return start + array.strides[0] * np.arange(len(array), dtype=np.int64)


def multiply_runs(
    x: Rows, mine: Ints, bank: Matrix | Bank, runs: Ints, out: F32s, places: Ints, column: int = 0
) -> None:
    """Write x[mine[i]] · a matrix of `bank` to out[places[i], column …], for each i of each run.

    Args:
        runs: slot, first i and number of i [runs, 3]; a matrix has the slot 0.
    """
    if bank.form.kind == "plain":
        for slot, first, count in runs.tolist():
            part = slice(first, first + count)
            found = _plain_product(x.x[mine[part]], bank, slot)
            out[places[part], column : column + bank.height] = found
        return
    tiles = _tiles(bank, runs, x.addresses(bank.form)[mine], _addresses(out, column)[places])
    work = len(runs) * bank.height * bank.form.row_bytes(bank.width)
    run(tiles.arguments, work, Stage(tiles.code, tiles.tasks))


def _tiles(bank: Matrix | Bank, runs: Ints, xs: Ints, outs: Ints) -> Link:
    """Multiply the quantised rows at the addresses `xs`, by runs, and write to those of `outs`."""
    kind = bank.bias_kind if isinstance(bank, Bank) else "none" if bank.bias is None else "f32"
    tasks = -(-bank.height // (TILES_OF_TASK * tile_of(bank.form, LANES).columns))
    return link(
        tile_task(bank.form.name, kind), len(runs) * tasks, runs, xs, outs, bank.width,
        bank.height, tasks, *bank.entry()[:4], bank.form.row_bytes(bank.width),
        bank.form.scale_bytes(bank.width),
    )  # fmt: skip


def links_of_rows(stack: Stack, x: F32s, out: F32s) -> list[Link]:
    """x [rows, width] → out [rows, height of all matrices], whose rows may be further apart."""
    form, rows = stack.matrices[0].form, len(x)
    if rows < MANY_ROWS or form.kind == "plain":
        return links_of(stack.prepared(rows, out.strides[0] // out.itemsize), x, out)
    found = np.empty((rows, row_nbytes(form, stack.width)), np.uint8)
    code = quantise_task(form.name)
    links = [link(code, rows, x, 4 * stack.width, stack.width, found, found.shape[1])]
    runs, column = np.array([[0, 0, rows]], np.int64), 0
    for matrix in stack.matrices:
        made = _tiles(matrix, runs, _addresses(found), _addresses(out, column))
        links.append(made._replace(memory=(*made.memory, out, *made_of(matrix))))
        column += matrix.height
    return links


def made_of(matrix: Matrix) -> list[Array]:
    """A matrix's arrays."""
    each = (matrix.weight, matrix.scales, matrix.biases, matrix.bias)
    return [array for array in each if array is not None]


def _plain_product(x: F32s, bank: Matrix | Bank, slot: int) -> F32s:
    """x [rows, width] · one matrix of plain weights → [rows, height]."""
    width, height, form = bank.width, bank.height, bank.form
    start = bank.entry()[0] + slot * height * form.row_bytes(width)
    block = min(height, max(LANES, BLOCK_BYTES // (4 * width)))
    scratch = np.empty((block, width), np.float32)
    out = np.empty((len(x), height), np.float32)
    size = -(-block // (4 * threads()))
    for first in range(0, height, block):
        rows = min(block, height - first)
        arguments = np.array(
            [start + first * form.row_bytes(width), form.row_bytes(width), width,
             address(scratch), rows, size],
            np.int64,
        )  # fmt: skip
        run(arguments, 4 * rows * width, Stage(unpack_task(form.name), -(-rows // size)))
        out[:, first : first + rows] = x @ scratch[:rows].T
    if bank.bias is not None:
        out += bank.bias if isinstance(bank, Matrix) else _as_float(bank.bias[slot], bank.bias_kind)
    return out


def multiply_many(x: F32s, stack: Stack) -> F32s:
    """`Stack.multiply` for many rows: x [rows, width] → [rows, height of all matrices]."""
    rows = len(x)
    out = np.empty((rows, stack.height), np.float32)
    laid, each = Rows(x), np.arange(rows, dtype=np.int64)
    starts = np.arange(0, rows, CHUNK, dtype=np.int64)
    runs = np.stack([0 * starts, starts, np.minimum(CHUNK, rows - starts)], axis=1)
    column = 0
    for matrix in stack.matrices:
        multiply_runs(laid, each, matrix, runs, out, each, column)
        column += matrix.height
    return out


def experts_many(x: F32s, slots: Slots, experts: Experts) -> F32s:
    """`Experts.multiply` for many rows: experts with few of them run packed."""
    rows, k = slots.shape
    pairs = slots.ravel()
    order = np.argsort(pairs, kind="stable")
    chosen, first, count = np.unique(pairs[order], return_index=True, return_counts=True)
    out = np.empty((rows * k, experts.output), np.float32)
    few = np.repeat(count < MANY_ROWS, count)
    if few.any():
        mine = order[few]
        out[mine] = experts.runs(x[mine // k], pairs[mine])
    many = count >= MANY_ROWS
    if many.any():
        runs = np.stack([chosen, first, count], axis=1)[many].astype(np.int64)
        runs[:, PAIR] = np.cumsum(runs[:, COUNT]) - runs[:, COUNT]
        mine = order[~few]
        _mlp(Rows(x), mine // k, runs, experts, out, mine)
    return out.reshape(rows, k, experts.output)


def _mlp(x: Rows, mine: Ints, runs: Ints, experts: Experts, out: F32s, places: Ints) -> None:
    """Experts' MLP: x[mine[i]] by the expert of i's run → out[places[i]]."""
    up, gate, down = experts.banks
    each, pairs = np.arange(len(mine), dtype=np.int64), len(mine)
    values = np.empty((pairs, experts.hidden), np.float32)
    gates = np.empty_like(values) if experts.activation.gated else values
    multiply_runs(x, mine, up, runs, values, each)
    if experts.activation.gated:
        multiply_runs(x, mine, gate, runs, gates, each)
    arguments = np.array(
        [address(values), address(gates), experts.hidden, address(experts.parameters)], np.int64
    )
    run(arguments, values.nbytes, Stage(activate_task(experts.activation.kind), pairs))
    multiply_runs(Rows(values), each, down, runs, out, places)


def _as_float(bias: npt.NDArray[np.generic], kind: str) -> F32s:
    if kind == "bf16":
        return (bias.astype(np.uint32) << 16).view(np.float32)
    return bias.astype(np.float32)
