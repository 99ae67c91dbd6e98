"""Products for many rows of activations: unpack weights block by block, and multiply with BLAS.

Unpacked weights stay in the vectors' order and the activations are arranged to match, so nothing is
reordered. One block of weights at a time is unpacked, small enough for the processor's cache.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from .activations import KINDS, activate
from .arguments import as_float_at, float_at, int_at, put_float
from .compiled import Stage, address, run, task, threads
from .experts import Activation, Bank, Experts, Slots
from .formats import UNIT
from .linear import F32s, Matrix, Stack, arrange_task
from .rows import LANES, arrange, unpack

BLOCK_BYTES = 1 << 23
"""Bytes of weights unpacked at once: they should stay in the cache until BLAS reads them."""
MANY_ROWS = 64
"""From this many rows on BLAS over unpacked weights is faster than products with packed ones."""

UNPACK_W, UNPACK_S, UNPACK_B, ROW_BYTES, SCALE_BYTES, WIDTH, OUT, ROWS, BLOCK = range(9)
VALUES, GATES, BIASES, GATE_BIASES, HIDDEN, INNER, ARRANGED, SUMS, PARAMETERS = range(9)


@lru_cache
def unpack_task(name: str, lanes: int = LANES) -> int:
    """Unpack rows of a matrix; a task is a block of rows."""

    def kernel(arguments: int, block: int) -> None:
        width, size = int_at(arguments, WIDTH), int_at(arguments, BLOCK)
        for row in range(block * size, min((block + 1) * size, int_at(arguments, ROWS))):
            scale = row * int_at(arguments, SCALE_BYTES)
            unpack(
                name, lanes, int_at(arguments, UNPACK_W) + row * int_at(arguments, ROW_BYTES),
                int_at(arguments, UNPACK_S) + scale, int_at(arguments, UNPACK_B) + scale, width,
                int_at(arguments, OUT) + 4 * row * width,
            )  # fmt: skip

    return task(kernel)


@lru_cache
def activate_task(second: str, kind: str, bias: str, lanes: int = LANES) -> int:
    """Add biases, activate, and arrange for format `second`; a task is a row."""
    gated, biased = KINDS[kind], bias != "none"

    def kernel(arguments: int, row: int) -> None:
        hidden = int_at(arguments, HIDDEN)
        first = row * hidden
        a, b = (
            float_at(int_at(arguments, PARAMETERS), 0),
            float_at(int_at(arguments, PARAMETERS), 1),
        )
        for column in range(hidden):
            value = float_at(int_at(arguments, VALUES), first + column)
            gate = float_at(int_at(arguments, GATES), first + column) if gated else value
            if biased:
                value += as_float_at(bias, int_at(arguments, BIASES), column)
                if gated:
                    gate += as_float_at(bias, int_at(arguments, GATE_BIASES), column)
            put_float(int_at(arguments, INNER), first + column, activate(kind, value, gate, a, b))
        arrange(second, lanes, int_at(arguments, INNER) + 4 * first, hidden,
                int_at(arguments, ARRANGED) + 4 * first,
                int_at(arguments, SUMS) + 4 * row * (hidden // UNIT), 0)  # fmt: skip

    return task(kernel)


def arranged(x: F32s, name: str, lanes: int = LANES) -> F32s:
    """x [rows, width] in the order of format `name`'s vectors."""
    rows, width = x.shape
    out, sums = np.empty_like(x), np.empty((rows, max(1, width // UNIT)), np.float32)
    few = np.zeros(rows, np.int64)
    arguments = np.array([width, address(x), address(out), address(sums), address(few)], np.int64)
    run(arguments, x.nbytes, Stage(arrange_task(name, lanes), rows))
    return out


def product(x: F32s, matrix: Matrix | Bank, slot: int = 0, lanes: int = LANES) -> F32s:
    """Arranged x [rows, width] · one matrix of packed weights → [rows, height], without bias."""
    width, height, form = matrix.width, matrix.height, matrix.form
    w, s, b = matrix.entry()[:3]
    row_bytes, scale_bytes = form.row_bytes(width), form.scale_bytes(width)
    first = slot * height
    block = min(height, max(LANES, BLOCK_BYTES // (4 * width)))
    scratch = np.empty((block, width), np.float32)
    out = np.empty((len(x), height), np.float32)
    code = unpack_task(form.name, lanes)
    size = -(-block // (4 * threads()))
    for start in range(0, height, block):
        rows = min(block, height - start)
        at = first + start
        arguments = np.array(
            [w + at * row_bytes, s + at * scale_bytes, b + at * scale_bytes, row_bytes, scale_bytes,
             width, address(scratch), rows, size],
            np.int64,
        )  # fmt: skip
        run(arguments, 4 * rows * width, Stage(code, -(-rows // size)))
        out[:, start : start + rows] = x @ scratch[:rows].T
    return out


def multiply_many(x: F32s, stack: Stack) -> F32s:
    """`Stack.multiply` for many rows: x [rows, width] → [rows, height of all matrices]."""
    laid = arranged(x, stack.matrices[0].form.name)
    parts = []
    for matrix in stack.matrices:
        found = product(laid, matrix)
        if matrix.bias is not None:
            found += matrix.bias
        parts.append(found)
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def experts_many(x: F32s, slots: Slots, experts: Experts) -> F32s:
    """`Experts.multiply` for many rows: expert by expert; experts with few rows run packed."""
    rows, k = slots.shape
    pairs = slots.ravel()
    order = np.argsort(pairs, kind="stable")
    chosen, first, count = np.unique(pairs[order], return_index=True, return_counts=True)
    out = np.empty((rows * k, experts.output), np.float32)
    few = np.flatnonzero(count < MANY_ROWS)
    if len(few):
        mine = np.concatenate([order[first[i] : first[i] + count[i]] for i in few])
        out[mine] = experts.runs(x[mine // k], pairs[mine])
    for i in np.flatnonzero(count >= MANY_ROWS):
        mine = order[first[i] : first[i] + count[i]]
        out[mine] = expert_many(x[mine // k], int(chosen[i]), experts)
    return out.reshape(rows, k, experts.output)


def expert_many(x: F32s, slot: int, experts: Experts) -> F32s:
    """One expert's MLP on many rows: x [rows, width] → [rows, output]."""
    up, gate, down = experts.banks
    laid = arranged(x, up.form.name)
    values = product(laid, up, slot)
    gates = product(laid, gate, slot) if experts.activation.gated else values
    inner = _activated(values, gates, slot, experts)
    out = product(inner, down, slot)
    if down.bias is not None:
        out += _as_float(down.bias[slot], down.bias_kind)
    return out


def _activated(values: F32s, gates: F32s, slot: int, experts: Experts) -> F32s:
    up, gate, down = experts.banks
    rows, hidden = values.shape
    inner, out = np.empty_like(values), np.empty_like(values)
    sums = np.empty((rows, max(1, hidden // UNIT)), np.float32)
    bias, gate_bias = (None if b.bias is None else b.bias[slot] for b in (up, gate))
    parameters = experts.parameters
    arguments = np.array(
        [address(values), address(gates), address(bias), address(gate_bias), hidden,
         address(inner), address(out), address(sums), address(parameters)],
        np.int64,
    )  # fmt: skip
    kind: Activation = experts.activation
    run(
        arguments,
        values.nbytes,
        Stage(activate_task(down.form.name, kind.kind, up.bias_kind), rows),
    )
    return out


def _as_float(bias: npt.NDArray[np.generic], kind: str) -> F32s:
    if kind == "bf16":
        return (bias.astype(np.uint32) << 16).view(np.float32)
    return bias.astype(np.float32)
