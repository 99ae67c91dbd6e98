"""The experts' MLP over slots, for the few rows of a decode step.

x·gate, x·up, the activation and ·down of every expert are tasks of one kernel. Tasks of the first
half come first; the thread that finishes an expert's last one arranges its activations for the
second half. A thread waits only for tasks that other threads already run, so it cannot wait for
ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba.extending import register_jitable

from .activations import KINDS, activate
from .arguments import as_float_at, count_at, float_at, increment, int_at, put_float
from .compiled import RUNNING, Array, Prepared, Stage, address, task, work_memory
from .formats import UNIT, Format
from .gating import gate_values
from .kernel_chain import CHAIN_NUMBERS, Chain, links_of
from .linear import F32s, arrange_task
from .rows import FOUR, LANES, arrange, dots
from .work_partition import END, FIELDS, RUN, SIBLINGS, START, partition

Slots = npt.NDArray[np.integer]

SPREAD = 8
"""The distance of two experts' counters: the int64s in a cache line."""

# Indices of the arguments; the first five are `linear.arrange_task`'s. Strides are bytes.
(WIDTH, X, ARRANGED, SUMS, FEW, HIDDEN, OUTPUT, ROW_STRIDE, SUMS_STRIDE, VALUES, GATES, INNER,
 INNER_SUMS, OUT, SHARES, OUT_SHARES, TABLE, DONE, READY, PARAMETERS) = range(20)  # fmt: skip
UP, GATE, DOWN = 20, 26, 32
W, S, B, BIAS, ROW_BYTES, SCALE_BYTES = range(6)
"""Fields of each bank: its arrays' addresses, and the bytes of one row."""
NUMBERS = 38
SLOT, PAIR, COUNT = range(3)
"""Fields of each run of pairs that share an expert: its slot, its first pair, their number."""


@dataclass(frozen=True)
class Bank:
    """One of the experts' matrices, in slots: [slots, height, width], packed.

    Attributes:
        weight, scales, biases: contiguous, as MLX packs them.
        bias: [slots, height] or None, its numbers of type `bias_kind`.
    """

    form: Format
    height: int
    width: int
    weight: Array
    scales: Array | None = None
    biases: Array | None = None
    bias: Array | None = None
    bias_kind: str = "none"

    def entry(self) -> list[int]:
        """The kernels' fields of the bank."""
        arrays = (self.weight, self.scales, self.biases, self.bias)
        sizes = (self.form.row_bytes(self.width), self.form.scale_bytes(self.width))
        return [*(address(array) for array in arrays), *sizes]


@dataclass(frozen=True)
class Activation:
    """One of `KINDS` with its parameters."""

    kind: str
    a: float = 0.0
    b: float = 0.0

    @property
    def gated(self) -> bool:
        """Whether it has a gate."""
        return KINDS[self.kind]


def _bank_row(bank: int, row: int) -> tuple[int, int, int]:
    """Addresses of the codes (packed weights), scales and biases of a bank's row."""
    scale = row * int_at(bank, SCALE_BYTES)
    return (
        int_at(bank, W) + row * int_at(bank, ROW_BYTES),
        int_at(bank, S) + scale,
        int_at(bank, B) + scale,
    )


bank_row = register_jitable(_bank_row)


@lru_cache
def hidden_task(first: str, second: str, kind: str, bias: str, lanes: int = LANES) -> int:
    """The first half of the MLP: x → inner activations; a task is a block of one expert's rows.

    Args:
        first, second: the formats of up and gate, and of down.
        kind: one of `KINDS`.
        bias: the type of the experts' biases, or "none".
    """
    gated, biased = KINDS[kind], bias != "none"
    in_vectors = kind == "swiglu" and not biased

    def kernel(arguments: int, number_of_task: int) -> None:
        width, hidden = int_at(arguments, WIDTH), int_at(arguments, HIDDEN)
        values, gates = int_at(arguments, VALUES), int_at(arguments, GATES)
        share = int_at(arguments, SHARES) + 8 * FIELDS * number_of_task
        run, start, end = int_at(share, RUN), int_at(share, START), int_at(share, END)
        run_of = int_at(arguments, TABLE) + 24 * run
        slot, pair, count = int_at(run_of, SLOT), int_at(run_of, PAIR), int_at(run_of, COUNT)
        x = int_at(arguments, ARRANGED) + pair * int_at(arguments, ROW_STRIDE)
        y = int_at(arguments, SUMS) + pair * int_at(arguments, SUMS_STRIDE)
        for half in range(2 if gated else 1):
            bank = arguments + 8 * (UP if half == 0 else GATE)
            to = (values if half == 0 else gates) + 4 * pair * hidden
            w, s, b = bank_row(bank, slot * hidden + start)
            dots(first, lanes, end - start, w, int_at(bank, ROW_BYTES), s, b,
                 int_at(bank, SCALE_BYTES), count, x, int_at(arguments, ROW_STRIDE), y,
                 int_at(arguments, SUMS_STRIDE), width, to + 4 * start, 4 * hidden)  # fmt: skip
        a, c = (
            float_at(int_at(arguments, PARAMETERS), 0),
            float_at(int_at(arguments, PARAMETERS), 1),
        )
        for place in range(pair * hidden, (pair + count) * hidden, hidden):
            if in_vectors:
                at = 4 * (place + start)
                gate_values(1, gates + at, values + at, int_at(arguments, INNER) + at, end - start)
                continue
            for row in range(start, end):
                value = float_at(values, place + row)
                gate = float_at(gates, place + row) if gated else value
                if biased:
                    value += as_float_at(bias, int_at(arguments, UP + BIAS), slot * hidden + row)
                    if gated:
                        gate += as_float_at(
                            bias, int_at(arguments, GATE + BIAS), slot * hidden + row
                        )
                put_float(int_at(arguments, INNER), place + row, activate(kind, value, gate, a, c))
        if increment(int_at(arguments, DONE), SPREAD * run) == int_at(share, SIBLINGS) - 1:
            for done in range(pair, pair + count):
                # The values are no longer needed: the arranged activations reuse their memory.
                arrange(second, lanes, int_at(arguments, INNER) + 4 * done * hidden, hidden,
                        values + 4 * done * hidden,
                        int_at(arguments, INNER_SUMS) + 4 * done * (hidden // UNIT),
                        int(count < FOUR))  # fmt: skip
            increment(int_at(arguments, READY), SPREAD * run)

    return task(kernel)


@lru_cache
def output_task(second: str, bias: str, lanes: int = LANES) -> int:
    """The second half of the MLP: inner activations → output; a task is a block of rows."""
    biased = bias != "none"

    def kernel(arguments: int, number_of_task: int) -> None:
        hidden, output = int_at(arguments, HIDDEN), int_at(arguments, OUTPUT)
        share = int_at(arguments, OUT_SHARES) + 8 * FIELDS * number_of_task
        run, start, end = int_at(share, RUN), int_at(share, START), int_at(share, END)
        run_of = int_at(arguments, TABLE) + 24 * run
        slot, pair, count = int_at(run_of, SLOT), int_at(run_of, PAIR), int_at(run_of, COUNT)
        x = int_at(arguments, VALUES) + 4 * pair * hidden
        y = int_at(arguments, INNER_SUMS) + 4 * pair * (hidden // UNIT)
        out = int_at(arguments, OUT)
        while count_at(int_at(arguments, READY), SPREAD * run) == 0:
            pass
        bank = arguments + 8 * DOWN
        w, s, b = bank_row(bank, slot * output + start)
        dots(second, lanes, end - start, w, int_at(bank, ROW_BYTES), s, b,
             int_at(bank, SCALE_BYTES), count, x, 4 * hidden, y, hidden // UNIT * 4, hidden,
             out + 4 * (pair * output + start), 4 * output)  # fmt: skip
        if biased:
            for place in range(pair * output, (pair + count) * output, output):
                for row in range(start, end):
                    more = as_float_at(bias, int_at(arguments, DOWN + BIAS), slot * output + row)
                    put_float(out, place + row, float_at(out, place + row) + more)

    return task(kernel)


class _ExpertsCall(NamedTuple):
    """A prepared kernel, and the arrays to write before it runs.

    Attributes:
        slots: the slot of each run of pairs that share an expert.
        counters: counts of finished tasks; set to 0.
    """

    prepared: Prepared
    slots: npt.NDArray[np.int64]
    counters: npt.NDArray[np.int64]
    pairs: int


TABLE_OF_RUNS, TO_CLEAR, CLEARED = range(CHAIN_NUMBERS, CHAIN_NUMBERS + 3)
"""Fields of `ExpertGroups.numbers` after those of the chain: the address of the table of runs,
where the slot and the pair of each expert are written, and counters to set to 0 before."""


class ExpertGroups:
    """Chains that compute 1 … k of a row's k chosen experts.

    Attributes:
        numbers: int64 [k, fields], for compiled code: row i computes i + 1 experts.
    """

    def __init__(self, calls: Sequence[_ExpertsCall], x: F32s, out: F32s, nbytes: int) -> None:
        self._calls = calls
        self._chains = [
            Chain(links_of(call.prepared, x, out), count * nbytes)
            for count, call in enumerate(calls, 1)
        ]
        self.numbers = np.array(
            [
                (*chain.numbers, call.slots.ctypes.data, address(call.counters), call.counters.size)
                for chain, call in zip(self._chains, calls, strict=True)
            ],
            np.int64,
        )


class Experts:
    """The MLP of experts in slots: up, optional gate, activation, down.

    Args:
        up, gate, down: their matrices; `gate` is None if the activation has none.
        lanes: 32-bit lanes of a vector; only tests pass another number than the machine's.

    Raises:
        ValueError: the matrices do not fit each other.
    """

    def __init__(
        self, up: Bank, gate: Bank | None, down: Bank, activation: Activation, lanes: int = LANES
    ) -> None:
        if gate is not None and (gate.form, gate.height, gate.bias_kind) != (
            up.form, up.height, up.bias_kind
        ):  # fmt: skip
            raise ValueError("gate and up differ in format or size")
        if (gate is not None) != activation.gated or down.bias_kind != up.bias_kind:
            raise ValueError(f"{activation.kind} does not fit the matrices")
        self.width, self.hidden, self.output = up.width, up.height, down.height
        self.banks = (up, gate or up, down)
        self.activation = activation
        first, second = up.form.name, down.form.name
        self._arrange = arrange_task(first, lanes)
        self._first = hidden_task(first, second, activation.kind, up.bias_kind, lanes)
        self._second = output_task(second, up.bias_kind, lanes)
        self.parameters = np.array([activation.a, activation.b], np.float32)
        self._arguments = np.zeros(NUMBERS, np.int64)
        self._ones: dict[int, _ExpertsCall] = {}  # for one row, by its number of experts
        self._groups: dict[tuple[int, int], ExpertGroups] = {}
        used = self.banks if activation.gated else (up, down)
        self.nbytes = sum(bank.height * bank.form.row_bytes(bank.width) for bank in used)
        for place, bank in zip((UP, GATE, DOWN), self.banks, strict=True):
            self._arguments[place : place + 6] = bank.entry()

    def multiply(self, x: F32s, slots: Slots) -> F32s:
        """x [rows, width], slots [rows, k] → each chosen expert's output, [rows, k, output].

        Rows that choose the same expert share the reading of its weights.
        """
        rows, k = slots.shape
        pairs = slots.ravel()
        if rows == 1:
            return self._one(x, pairs)[None]
        order = np.argsort(pairs, kind="stable")
        out = np.empty((rows * k, self.output), np.float32)
        out[order] = self.runs(x[order // k], pairs[order])
        return out.reshape(rows, k, self.output)

    def groups(self, x: F32s, out: F32s) -> ExpertGroups:
        """`multiply` for one row, some of its experts at a time: x [width] → out [k, output].

        Neither may move. The same object for the same arrays, as long as these experts exist.
        """
        key = address(x), address(out)
        if key not in self._groups:
            calls = [self._call(1, _table_of(count), len(out)) for count in range(1, len(out) + 1)]
            self._groups[key] = ExpertGroups(calls, x, out, self.nbytes)
        return self._groups[key]

    def runs(self, x: F32s, slots: Slots) -> F32s:
        """x [pairs, width], one slot each, equal slots adjacent → [pairs, output]."""
        starts = np.flatnonzero(np.diff(slots, prepend=-1))
        counts = np.diff(starts, append=len(slots))
        table = np.stack([slots[starts], starts, counts], axis=1).astype(np.int64)
        call = self._call(len(x), table, len(slots))
        return self._run(call, np.ascontiguousarray(x), table[:, SLOT])

    def _one(self, x: F32s, slots: Slots) -> F32s:
        """x [1, width], slots [k] → [k, output]."""
        k = len(slots)
        if k not in self._ones:
            self._ones[k] = self._call(1, _table_of(k), k)
        return self._run(self._ones[k], x, slots)

    def _run(self, call: _ExpertsCall, x: F32s, slots: Slots) -> F32s:
        out = np.empty((call.pairs, self.output), np.float32)
        with RUNNING:
            call.slots[:] = slots
            call.counters[:] = 0
            call.prepared.run(x, out)
        return out

    def _call(self, rows: int, table: npt.NDArray[np.int64], pairs: int) -> _ExpertsCall:
        """The kernel for x [1 or pairs, width] and runs of pairs [runs, 3]."""
        width, hidden, runs = self.width, self.hidden, len(table)
        sizes = [
            rows * width, rows * (width // UNIT), pairs * hidden, pairs * hidden, pairs * hidden,
            pairs * (hidden // UNIT),
        ]  # fmt: skip
        shared = rows == 1  # one row of activations for all pairs
        count = sum(sizes)
        scratch = work_memory(count) if shared else np.empty(count, np.float32)
        starts = np.cumsum([0, *sizes[:-1]]) * 4 + address(scratch)
        arranged, sums, values, gates, inner, inner_sums = starts
        counters = np.zeros(2 * SPREAD * runs, np.int64)
        dealt, out_dealt = partition(runs, hidden), partition(runs, self.output)
        few = np.ones(1, np.int64) if shared else _few(table[:, COUNT])
        arguments = self._arguments.copy()
        arguments[:UP] = (
            width, 0, arranged, sums, address(few), hidden, self.output,
            0 if shared else 4 * width, 0 if shared else 4 * (width // UNIT),
            values, gates, inner, inner_sums, 0, address(dealt), address(out_dealt),
            address(table), address(counters), address(counters) + 8 * SPREAD * runs,
            address(self.parameters),
        )  # fmt: skip
        prepared = Prepared(
            arguments, (X, OUT), pairs * self.nbytes, Stage(self._first, len(dealt)),
            before=Stage(self._arrange, rows), then=Stage(self._second, len(out_dealt)),
            memory=[scratch, few, table, counters, self.parameters, dealt, out_dealt],
        )  # fmt: skip
        return _ExpertsCall(prepared, table[:, SLOT], counters, pairs)


def _table_of(k: int) -> npt.NDArray[np.int64]:
    """The table of runs for one row; its slots are written later."""
    table = np.ones((k, 3), np.int64)
    table[:, PAIR] = np.arange(k)
    return table


def _few(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """For each pair, whether fewer than `FOUR` pairs share its expert, however calls are split."""
    return np.repeat(counts < FOUR, counts).astype(np.int64)
