"""The memory of the slots: its alignment, its largest size, and writes to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from outlier_jupyter.checkpoint import PAGE, ExpertPart
from outlier_jupyter.checkpoint.array_views import ArrayView
from outlier_jupyter.paging import slot_bank
from outlier_jupyter.paging.slot_bank import SlotBank, host_bytes


def part(dtype: str, itemsize: int, *shape: int) -> ExpertPart:
    """One of two experts' tensors of `shape`."""
    return ExpertPart("weight", dtype, ArrayView.of(Path("none"), 0, (2, *shape), itemsize))


def address(bank: SlotBank) -> int:
    return np.frombuffer(host_bytes(bank.arrays["weight"]), np.uint8).ctypes.data


@pytest.mark.parametrize(
    "tensor",
    [part("U32", 4, 6, 8), part("BF16", 2, 4, 4), part("U8", 1, 3, 5), part("BF16", 2, 1)],
    ids=["words", "halves", "odd bytes", "one number"],
)
def test_a_bank_begins_with_a_page_and_holds_what_is_written(tensor):
    """Direct reads write straight into the bank, and MLX sees each row's bytes in its slot."""
    bank = SlotBank([tensor], 5)
    assert address(bank) % PAGE == 0
    rows = [np.full(tensor.nbytes, 60 + slot, np.uint8).tobytes() for slot in range(5)]
    for slot, row in enumerate(rows):
        bank.row("weight", slot)[:] = row
    array = bank.arrays["weight"]
    assert array.shape == (5, *tensor.shape)
    assert [bytes(host_bytes(array[slot])) for slot in range(5)] == rows


def test_a_bank_of_more_bytes_than_an_axis_may_have_elements_begins_with_a_page():
    """An 8 GB cache has parts of over 2 GiB: they are allocated, aligned and usable to the end."""
    tensor = part("U32", 4, 1 << 14, 1 << 10)
    bank = SlotBank([tensor], 33)
    assert bank.arrays["weight"].nbytes > 1 << 31
    assert address(bank) % PAGE == 0
    bank.row("weight", 32)[-4:] = b"\x07\0\0\0"
    assert bank.arrays["weight"][32, -1, -1].item() == 7


def test_a_bank_beyond_all_axes_begins_where_it_may(monkeypatch):
    """MLX allocates it at any address; direct reads then pass through a buffer."""
    monkeypatch.setattr(slot_bank, "MAX_AXIS", 100)
    tensor = part("U32", 4, 6, 8)
    bank = SlotBank([tensor], 40)
    bank.row("weight", 39)[:] = bytes(tensor.nbytes)
    assert bank.arrays["weight"].shape == (40, *tensor.shape)
