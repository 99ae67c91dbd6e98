"""The slot bank: one stable MLX array per expert tensor, with a row per slot, written in place.

`gather_qmm` over this bank with slot ids gives the same bits as over the model's own stacked
tensor with expert ids, so no array is built per token. The slot table knows which expert is in
which row; the bank does not.

MLX does not see the host's writes, so a lazy array could read a row after it was overwritten. One
rule prevents this: every array computed from the bank is registered with `reading`, `settle`
evaluates all of them, and the pager calls it before anything is written.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from ..checkpoint import PAGE, ExpertPart
from ..system import huge_pages
from .release import clear_cache

MLX_DTYPES = {
    "U8": mx.uint8, "U16": mx.uint16, "U32": mx.uint32, "U64": mx.uint64,
    "I8": mx.int8, "I16": mx.int16, "I32": mx.int32, "I64": mx.int64,
    "F16": mx.float16, "BF16": mx.bfloat16, "F32": mx.float32, "BOOL": mx.bool_,
    "F64": mx.float64, "F8_E4M3": mx.uint8, "F8_E8M0": mx.uint8,
}  # fmt: skip
"""safetensors' dtypes as MLX loads them (8-bit floats as bytes)."""


MAX_AXIS = 2**31 - 1
"""The longest axis of an MLX array."""


class SlotBank:
    """Rows for `slots` experts of one geometry, described by the `parts` of any of their layers.

    Attributes:
        arrays: part name → array [slots, *shape of one expert's tensor].
        row_nbytes: part name → bytes of one row.
        expert_nbytes: bytes of one row over all parts.
        used: how many rows take memory; the last ones may have been given back to the system.
    """

    def __init__(self, parts: Sequence[ExpertPart], slots: int) -> None:
        self.slots = self.used = slots
        self.row_nbytes = {part.name: part.nbytes for part in parts}
        self.expert_nbytes = sum(self.row_nbytes.values())
        self.arrays = {part.name: self._made(part, slots) for part in parts}
        self._parts = {part.name: part for part in parts}
        self._views = {name: host_bytes(array) for name, array in self.arrays.items()}
        self._begin = {name: _address(view) for name, view in self._views.items()}
        self._pieces: dict[tuple[str, ...], npt.NDArray[np.uint64]] = {}
        self._unsettled: list[mx.array] = []

    def row(self, name: str, slot: int) -> memoryview:
        """The bytes of part `name` in `slot`, for a reader to fill."""
        nbytes = self.row_nbytes[name]
        return self._views[name][slot * nbytes : (slot + 1) * nbytes]

    def pieces(self, names: tuple[str, ...]) -> npt.NDArray[np.uint64] | None:
        """Address and length of the rows of these parts, uint64 [slots, parts, 2].

        None if the host may not write the bank's memory. The same array until a resize.
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
        """Put the filled rows of `slots` into the arrays; here they are the arrays' own memory."""

    def abandon(self, slots: Sequence[int]) -> None:
        """Drop the rows of `slots`, which were filled in part or not at all."""

    def reading(self, array: mx.array) -> None:
        """Register a lazy `array` computed from the bank, for `settle` to evaluate."""
        self._unsettled.append(array)

    def settle(self, *others: mx.array) -> None:
        """Evaluate `others` and all registered arrays: the bank may be written after this.

        In a forward pass the registered arrays are ancestors of the next layer's ids, so that
        evaluating both together adds no work.
        """
        if others or self._unsettled:
            mx.eval(*others, *self._unsettled)
        self._unsettled.clear()

    def move(self, moves: Sequence[tuple[int, int]]) -> None:
        """Copy the rows of a settled bank: (from, to), none of them twice."""
        for name in self.arrays:
            for origin, to in moves:
                self.row(name, to)[:] = self.row(name, origin)

    def give_back(self, first: int) -> bool:
        """Return the memory of the rows from `first` on to the system; they read as zeros.

        The bank must be settled, and nothing be in these rows. They can be filled again: the system
        provides memory when they are written.

        Returns:
            whether that is possible here: the memory is the host's, and the system is Linux.
        """
        if not self._begin or not sys.platform.startswith("linux"):
            return False
        for name, begin in self._begin.items():
            nbytes = self.row_nbytes[name]
            from_, to = begin + first * nbytes, begin + self.slots * nbytes
            from_, to = -(-from_ // PAGE) * PAGE, to // PAGE * PAGE
            if to > from_:
                huge_pages.madvise()(from_, to - from_, huge_pages.DONT_NEED)
        self.used = first
        return True

    def release(self) -> None:
        """Free all rows, even if references to this bank remain."""
        self.slots = self.used = 0
        for known in (self.arrays, self._views, self._begin, self._pieces, self._unsettled):
            known.clear()

    def resize(self, slots: int, bind: Callable[[str, mx.array], object]) -> None:
        """Resize a settled bank to `slots` rows; rows in both keep their number and content.

        Parts are replaced one by one, so that beside the larger of the two banks only one part
        exists twice. If memory runs out, the bank keeps the smaller number of rows.

        Args:
            bind: called with name and array of each new part, to replace the old one.
        """
        kept = min(slots, self.slots)
        clear_cache()  # an earlier error is not taken for one of this
        try:
            for name, part in self._parts.items():
                array = self._made(part, slots)
                self._take_over(name, array, kept)
                self.arrays[name] = array
                bind(name, array)
                clear_cache()  # the old rows' memory goes back to the system
        except BaseException:
            # MLX computes with parts of one length only; a shorter view of an array costs nothing.
            for name, array in self.arrays.items():
                self.arrays[name] = array[:kept]
                mx.eval(self.arrays[name])
                self._take_over(name, self.arrays[name], 0)
                bind(name, self.arrays[name])
            self.slots = self.used = kept
            raise
        self.slots = self.used = slots

    def _made(self, part: ExpertPart, slots: int) -> mx.array:
        return allocate_rows(part, slots)

    def _take_over(self, name: str, array: mx.array, rows: int) -> None:
        """Copy the first rows of a part into its new array."""
        new, nbytes = host_bytes(array), rows * self.row_nbytes[name]
        new[:nbytes] = self._views[name][:nbytes]
        self._views[name], self._begin[name] = new, _address(new)
        self._pieces.clear()


class StagedSlotBank(SlotBank):
    """A bank whose rows are staged on the host and then copied by MLX.

    It serves CUDA, whose managed memory takes longer to fetch what the host wrote than MLX takes to
    copy it. The tests run it on the CPU.
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
        """Drop the staged rows of `slots`."""
        for name in self._parts:
            for slot in slots:
                self._staged.pop((name, slot), None)

    def release(self) -> None:
        """Free all rows, staged ones included."""
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


def allocate_rows(part: ExpertPart, slots: int) -> mx.array:
    """Memory for a part of `slots` experts that begins on a page.

    MLX's own memory begins 8 or 24 bytes into a page, and direct reads into it would need a buffer
    each. So the part is a view within a larger flat array, of long words, because no axis of an MLX
    array may be longer than 2³¹ - 1. A part too long even for that begins where MLX puts it.
    """
    unit = mx.uint64 if part.nbytes % mx.uint64.size == 0 else mx.uint8
    count, spare = slots * part.nbytes // unit.size, PAGE // unit.size
    if count + spare > MAX_AXIS:
        array = mx.zeros((slots, *part.shape), MLX_DTYPES[part.dtype])
    else:
        whole = mx.zeros((count + spare,), unit)
        with huge_pages.prepare(whole.nbytes):
            mx.eval(whole)
        address = _address(host_bytes(whole))
        huge_pages.collapse(address, whole.nbytes)
        begin = -address % PAGE // unit.size
        rows = whole[begin : begin + count].reshape(slots, part.nbytes // unit.size)
        array = rows.view(MLX_DTYPES[part.dtype]).reshape(slots, *part.shape)
    mx.eval(array)
    return array


def host_bytes(array: mx.array) -> memoryview:
    """The memory of an evaluated array as writable bytes, without a copy (CPU and Metal)."""
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
    """safetensors' name of `dtype` (U8 for bytes: MLX knows no 8-bit floats)."""
    return next(name for name, known in MLX_DTYPES.items() if known == dtype)
