"""The bank: one stable MLX array per expert tensor, with a row per slot, written in place.

`gather_qmm` over this bank with slot ids gives the same bits as over the model's own stacked
tensor with expert ids, so nothing is ever built per token. Which expert sits in which row is
the residency table's knowledge, not the bank's.

MLX does not know of a write that happens behind its back. The rule that keeps this sound: an
array computed from the bank is announced with `reading`, and `settle` evaluates all that were
announced; the pager settles before anything is written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from ..checkpoint import PAGE, ExpertPart
from ..system import huge_pages as large_pages

MLX_DTYPES = {
    "U8": mx.uint8, "U16": mx.uint16, "U32": mx.uint32, "U64": mx.uint64,
    "I8": mx.int8, "I16": mx.int16, "I32": mx.int32, "I64": mx.int64,
    "F16": mx.float16, "BF16": mx.bfloat16, "F32": mx.float32, "BOOL": mx.bool_,
    "F64": mx.float64, "F8_E4M3": mx.uint8, "F8_E8M0": mx.uint8,
}  # fmt: skip
"""safetensors' dtypes as MLX loads them (MLX holds 8-bit floats as bytes)."""


MOST = 2**31 - 1
"""The longest axis that MLX's arrays can have."""


class SlotBank:
    """Rows for `slots` experts of one geometry, given by the `parts` of any of their layers.

    Attributes:
        arrays: part name → array [slots, *shape of one expert's tensor].
        row_nbytes: part name → bytes of one row.
        expert_nbytes: bytes of one row over all parts.
    """

    def __init__(self, parts: Sequence[ExpertPart], slots: int) -> None:
        self.slots = slots
        self.row_nbytes = {part.name: part.nbytes for part in parts}
        self.expert_nbytes = sum(self.row_nbytes.values())
        self.arrays = {part.name: self._made(part, slots) for part in parts}
        self._parts = {part.name: part for part in parts}
        self._views = {name: host_bytes(array) for name, array in self.arrays.items()}
        self._begin = {name: _address(view) for name, view in self._views.items()}
        self._pieces: dict[tuple[str, ...], npt.NDArray[np.uint64]] = {}
        self._unsettled: list[mx.array] = []

    def row(self, name: str, slot: int) -> memoryview:
        """The bytes of part `name` in `slot`, to be read into."""
        nbytes = self.row_nbytes[name]
        return self._views[name][slot * nbytes : (slot + 1) * nbytes]

    def pieces(self, names: tuple[str, ...]) -> npt.NDArray[np.uint64] | None:
        """Address and length of the rows of these parts, uint64 [slots, parts, 2].

        None where it has no memory that the host may write. The same array until a resize.
        """
        if not self._begin:
            return None
        if names not in self._pieces:
            first = np.array([(self._begin[name], self.row_nbytes[name]) for name in names])
            step = np.array([(self.row_nbytes[name], 0) for name in names])
            rows = first + np.arange(self.slots)[:, None, None] * step
            self._pieces[names] = rows.astype(np.uint64)
        return self._pieces[names]

    def commit(self, slots: Sequence[int]) -> None:
        """The rows of `slots` were filled; here they are the arrays' own memory already."""

    def abandon(self, slots: Sequence[int]) -> None:
        """The rows of `slots` were not filled, or not whole."""

    def reading(self, array: mx.array) -> None:
        """`array` was computed from the bank and may not have been evaluated yet."""
        self._unsettled.append(array)

    def settle(self, *others: mx.array) -> None:
        """Evaluate `others` and all that was announced: the bank may be written after this.

        In a forward pass the announced arrays are ancestors of the next layer's ids, so that
        evaluating both together adds nothing to what the ids ask for.
        """
        if others or self._unsettled:
            mx.eval(*others, *self._unsettled)
        self._unsettled.clear()

    def move(self, moves: Sequence[tuple[int, int]]) -> None:
        """Copy the rows of a settled bank: (from, to), none of them twice."""
        for name in self.arrays:
            for origin, to in moves:
                self.row(name, to)[:] = self.row(name, origin)

    def release(self) -> None:
        """Let go of all rows, whoever still points to this bank."""
        self.slots = 0
        for known in (self.arrays, self._views, self._begin, self._pieces, self._unsettled):
            known.clear()

    def resize(self, slots: int, bind: Callable[[str, mx.array], object]) -> None:
        """Give a settled bank so many rows; those that are in both keep number and content.

        One part after the other, so that beside the larger of the two banks only one part is
        held twice. Where one cannot be had, the bank is left with the lesser number of rows.

        Args:
            bind: told name and array of each new part, to be used in the place of the old one.
        """
        kept = min(slots, self.slots)
        try:
            for name, part in self._parts.items():
                array = self._made(part, slots)
                self._take_over(name, array, kept)
                self.arrays[name] = array
                bind(name, array)
                mx.clear_cache()  # the old rows' memory is for whoever needs it, not for MLX
        except BaseException:
            # MLX computes with parts of one length only; a shorter view of an array costs nothing.
            for name, array in self.arrays.items():
                self.arrays[name] = array[:kept]
                mx.eval(self.arrays[name])
                self._take_over(name, self.arrays[name], 0)
                bind(name, self.arrays[name])
            self.slots = kept
            raise
        self.slots = slots

    def _made(self, part: ExpertPart, slots: int) -> mx.array:
        return _rows(part, slots)

    def _take_over(self, name: str, array: mx.array, rows: int) -> None:
        """Copy the first rows of a part into its new array."""
        new, nbytes = host_bytes(array), rows * self.row_nbytes[name]
        new[:nbytes] = self._views[name][:nbytes]
        self._views[name], self._begin[name] = new, _address(new)
        self._pieces.clear()


class StagedSlotBank(SlotBank):
    """For devices whose arrays the host had better not write: rows are staged, then copied by MLX.

    Serves CUDA, whose managed memory takes longer to fetch what the host wrote than MLX to copy it;
    on the CPU the tests run it.
    """

    def __init__(self, parts: Sequence[ExpertPart], slots: int) -> None:
        self._staged: dict[tuple[str, int], np.ndarray] = {}
        super().__init__(parts, slots)
        self._views.clear()
        self._begin.clear()

    def row(self, name: str, slot: int) -> memoryview:
        staged = np.empty(self.row_nbytes[name], np.uint8)
        self._staged[name, slot] = staged
        return staged.data

    def commit(self, slots: Sequence[int]) -> None:
        for name, part in self._parts.items():
            for slot in slots:
                rows = mx.array(self._staged.pop((name, slot)))
                # A view needs its bytes along the last axis; a row of no length has none.
                row = rows.view(MLX_DTYPES[part.dtype]).reshape(part.shape)
                self.arrays[name][slot] = row
        mx.eval(list(self.arrays.values()))

    def abandon(self, slots: Sequence[int]) -> None:
        """Forget what was staged for these."""
        for name in self._parts:
            for slot in slots:
                self._staged.pop((name, slot), None)

    def release(self) -> None:
        """Let go of all rows, and of what was staged for them."""
        super().release()
        self._staged.clear()

    def move(self, moves: Sequence[tuple[int, int]]) -> None:
        """Copy the rows of a settled bank: (from, to), none of them twice."""
        for array in self.arrays.values():
            for origin, to in moves:
                array[to] = array[origin]
        mx.eval(list(self.arrays.values()))

    def _made(self, part: ExpertPart, slots: int) -> mx.array:
        array = mx.zeros((slots, *part.shape), MLX_DTYPES[part.dtype])
        mx.eval(array)
        return array

    def _take_over(self, name: str, array: mx.array, rows: int) -> None:
        array[:rows] = self.arrays[name][:rows]
        mx.eval(array)


def _rows(part: ExpertPart, slots: int) -> mx.array:
    """Memory for a part of so many experts, from the beginning of a page on.

    MLX's own memory begins 8 or 24 bytes into one, which direct reads do not take: without
    this each would pass through a buffer. An array that begins within another shares it, but the
    other is flat, and no axis of MLX's may be longer than 2³¹ - 1: it is one of long words, and
    what even those are too many for begins where MLX has it begin.
    """
    unit = mx.uint64 if part.nbytes % mx.uint64.size == 0 else mx.uint8
    count, spare = slots * part.nbytes // unit.size, PAGE // unit.size
    if count + spare > MOST:
        array = mx.zeros((slots, *part.shape), MLX_DTYPES[part.dtype])
    else:
        whole = mx.zeros((count + spare,), unit)
        with large_pages.coming(whole.nbytes):
            mx.eval(whole)
        address = _address(host_bytes(whole))
        large_pages.gather(address, whole.nbytes)
        begin = -address % PAGE // unit.size
        rows = whole[begin : begin + count].reshape(slots, part.nbytes // unit.size)
        array = rows.view(MLX_DTYPES[part.dtype]).reshape(slots, *part.shape)
    mx.eval(array)
    return array


def host_bytes(array: mx.array) -> memoryview:
    """The memory of an evaluated array as bytes, writable, with no copy (CPU and Metal)."""
    return memoryview(array).cast("B")  # type: ignore[arg-type]  # it has the buffer protocol


def _address(memory: memoryview) -> int:
    return int(np.frombuffer(memory, np.uint8).ctypes.data) if len(memory) else 0


def make_bank(parts: Sequence[ExpertPart], slots: int) -> SlotBank:
    """The bank for this machine's default device."""
    cuda = getattr(mx, "cuda", None)
    if cuda is not None and cuda.is_available():
        return StagedSlotBank(parts, slots)
    return SlotBank(parts, slots)


def safetensors_dtype(dtype: mx.Dtype) -> str:
    """The name safetensors gives to `dtype` (to bytes, U8: MLX knows no 8-bit floats)."""
    return next(name for name, known in MLX_DTYPES.items() if known == dtype)
