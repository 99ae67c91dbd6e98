"""Resizes the banks of a loaded model between two runs; experts last in eviction order stay.

The memory is checked before anything changes: without enough, MLX does not raise on every device,
and the process just ends. A bank is replaced part by part, so that only one tensor's rows exist
twice at a time. Nothing may be computing with the model meanwhile; the engine makes sure of that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import mlx.core as mx

from ..errors import OptionError
from ..formatting import size_words
from ..residency import ExpertKey
from ..residency.table_order import slots_of
from ..system.memory_info import machine_memory
from .install import Geometry, Installed, MoeSwitch, bind, share_slots
from .pager import Pager

Change = tuple[Geometry, Pager, int]
"""A geometry, its pager, and how many slots that is to have."""


def resize(
    installed: Installed, cache_gb: float, cache_experts: int | None,
    wanted: Mapping[Geometry, int] | None = None,
) -> None:  # fmt: skip
    """Give each bank the slots that `share_slots` computes, or those `wanted`.

    Raises:
        OptionError: the model is dense, not one expert fits, or there is not enough memory. The
            banks are as before then.
    """
    if not installed.switches:
        raise OptionError("this model is dense: it has no experts, and so no cache to resize")
    shared = wanted or share_slots(installed.switches, cache_gb, cache_experts)
    paired = zip(shared.items(), installed.pagers, strict=True)
    changes = [(geometry, pager, slots) for (geometry, slots), pager in paired]
    changes.sort(key=lambda change: change[2] - change[1].bank.slots)  # shrinking ones first
    needed, free = _needed(changes), machine_memory().available
    if needed > free:
        total = sum(pager.bank.expert_nbytes * slots for _, pager, slots in changes)
        raise OptionError(
            f"a cache of {size_words(total)} does not fit: the resize needs "
            f"{size_words(needed)} more, and {size_words(free)} are free; give less"
        )
    for _, pager, slots in changes:
        pinned = pager.table.capacity - pager.table.room
        if slots <= pinned:
            raise OptionError(
                f"{slots:,} slots leave none beside the {pinned:,} pinned experts: give more"
            )
    installed.settle()
    for geometry, pager, slots in changes:
        if slots == pager.bank.slots == pager.table.capacity:
            continue
        members = [switch for switch in installed.switches if switch.geometry == geometry]
        try:
            pager.resize(slots, partial(_rebind, members))
        except (MemoryError, RuntimeError) as error:  # how Metal and CUDA refuse
            raise OptionError(
                f"MLX has no memory for {slots:,} experts ({error}); "
                f"{installed.slots:,} fit as before: give less"
            ) from error


def change_capacity(installed: Installed, pager: Pager, slots: int) -> list[tuple[ExpertKey, int]]:
    """Let a pager's cache have `slots` slots of those it was loaded with, without a copy if it can.

    Where memory can be given back to the system in place, the bank stays and its last rows are
    empty; elsewhere it is replaced. The bank must be settled, and nothing be computing.

    Returns:
        the experts that were evicted, in eviction order, each with the slot it was in.
    """
    table, bank = pager.table, pager.bank
    if slots == table.capacity:
        return []
    before = table.order()
    where = {
        layer: slots_of(table, layer, parts[0].experts) for layer, parts in pager.parts.items()
    }
    if slots <= bank.slots and bank.give_back(bank.used):
        pager.forget_slot_maps()
        if slots < table.capacity:
            bank.move(table.shrink(slots))
            bank.give_back(slots)
        else:
            table.grow(slots)
            bank.used = slots
    else:
        [geometry] = {s.geometry for n, s in enumerate(installed.switches) if n in pager.layers}
        members = [switch for switch in installed.switches if switch.geometry == geometry]
        pager.resize(slots, partial(_rebind, members))
    return [(key, int(where[key.layer][key.expert])) for key in before if key not in table]


def _rebind(members: Sequence[MoeSwitch], name: str, array: mx.array) -> None:
    for switch in members:
        bind(switch.module, name, array)


def _needed(changes: Sequence[Change]) -> int:
    """How much more memory than now the changes need at their peak, in bytes."""
    more = most = 0
    for _, pager, slots in changes:
        for nbytes in pager.bank.row_nbytes.values():
            most = max(most, more + nbytes * slots)
            more += nbytes * (slots - pager.bank.slots)
    return most
