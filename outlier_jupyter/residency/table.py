"""The table of slots: which expert sits in which slot, and what must move for the next call.

A slot is always in exactly one of three states: free, reserved (being read into) or held. The
table decides and books; it reads nothing itself, so a read that fails only hands its slot back.

Asking is done for all experts of one (call, layer) at once: hits are those held before any of
them is read, and none of those asked for is a victim.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy.typing as npt

from .policies import LRU, ExpertKey, Policy


class Placement(NamedTuple):
    """`key` is to be read into `slot`, which `evicted` (if any) has left."""

    key: ExpertKey
    slot: int
    evicted: ExpertKey | None


@dataclass(frozen=True)
class Plan:
    """What one request needs: the slots of those held, and where the others are to go."""

    hits: dict[ExpertKey, int]
    placements: tuple[Placement, ...]


class SlotTable:
    """`capacity` slots, all free at first."""

    def __init__(self, capacity: int, policy: Policy | None = None) -> None:
        if capacity < 1:
            raise ValueError(f"a table of {capacity} slots holds nothing: give 1 or more")
        self.capacity = capacity
        self._policy: Policy = policy or LRU()
        self._slot_of: dict[ExpertKey, int] = {}
        self._free = list(range(capacity - 1, -1, -1))
        self._reserved: dict[int, ExpertKey] = {}
        self._pinned: frozenset[ExpertKey] = frozenset()

    def __len__(self) -> int:
        """How many experts are held."""
        return len(self._slot_of)

    def __contains__(self, key: ExpertKey) -> bool:
        return key in self._slot_of

    def __iter__(self) -> Iterator[ExpertKey]:
        """The held experts, in the order in which they came."""
        return iter(self._slot_of)

    @property
    def policy(self) -> str:
        """The name of the policy that says who leaves."""
        return self._policy.name

    @property
    def room(self) -> int:
        """How many experts fit at once beside those pinned."""
        return self.capacity - len(self._pinned)

    def order(self) -> list[ExpertKey]:
        """The held experts, the first to leave first; those pinned never leave."""
        return [key for key in self._policy.order() if key in self._slot_of]

    def pin(self, keys: Iterable[ExpertKey]) -> None:
        """From now on `keys` never leave once they are held; others may again.

        Raises:
            ValueError: no slot would be left for the others.
        """
        pinned = frozenset(keys)
        if len(pinned) >= self.capacity:
            raise ValueError(f"{len(pinned)} pinned experts leave none of {self.capacity} slots")
        self._pinned = pinned

    def routed(self, layer: int, experts: npt.NDArray[Any]) -> None:
        """Tell the policy what the router of `layer` chose, [tokens, k], before it is asked for."""
        self._policy.routed(layer, experts)

    def split(self, keys: Sequence[ExpertKey]) -> list[tuple[ExpertKey, ...]]:
        """Cut a request into parts that fit the slots, those held first, so that they still hit.

        One that fits stays as it is: LRU's order must not depend on what is held.
        """
        size = self.room
        if len(keys) <= size:
            return [tuple(keys)]
        ordered = sorted(keys, key=lambda key: key not in self._slot_of)
        return [tuple(ordered[start : start + size]) for start in range(0, len(ordered), size)]

    def reserve(self, keys: Iterable[ExpertKey]) -> Plan:
        """Book slots for distinct `keys`, which are looked up together: evict for those not held.

        Every placement must be followed by `commit` or `release`.

        Raises:
            ValueError: more keys than slots; use `split` first. Nothing has changed then.
        """
        wanted = list(dict.fromkeys(keys))
        pinned = sum(key not in self._pinned for key in wanted) + len(self._pinned)
        if pinned > self.capacity - len(self._reserved):
            raise ValueError(f"{len(wanted)} experts at once do not fit {self.capacity} slots")
        hits = {key: self._slot_of[key] for key in wanted if key in self._slot_of}
        missing = [key for key in wanted if key not in hits]
        victims: list[ExpertKey] = []
        if len(missing) > len(self._free):
            keep = {*wanted, *self._reserved.values(), *self._pinned}
            victims = self._policy.victims(len(missing) - len(self._free), keep)
        self._policy.ask(wanted)
        leaving = iter(victims)
        return Plan(hits, tuple(self._place(key, leaving) for key in missing))

    def _place(self, key: ExpertKey, leaving: Iterator[ExpertKey]) -> Placement:
        evicted = None
        if self._free:
            slot = self._free.pop()
        else:
            evicted = next(leaving)
            self._policy.drop(evicted)
            slot = self._slot_of.pop(evicted)
        self._reserved[slot] = key
        return Placement(key, slot, evicted)

    def commit(self, placement: Placement) -> None:
        """The read is done: `placement.key` is held from now on."""
        del self._reserved[placement.slot]
        self._slot_of[placement.key] = placement.slot

    def release(self, placement: Placement) -> None:
        """The read failed: the slot is free again (what was evicted for it stays gone)."""
        del self._reserved[placement.slot]
        self._policy.drop(placement.key)
        self._free.append(placement.slot)

    def grow(self, capacity: int) -> None:
        """Add free slots, up to `capacity`; those held stay where they are."""
        self._free[:0] = range(capacity - 1, self.capacity - 1, -1)
        self.capacity = capacity

    def shrink(self, capacity: int) -> list[tuple[int, int]]:
        """Give up all slots from `capacity` on: the policy's victims leave until the rest fit.

        Returns:
            (from, to) for each held expert that must move; no slot is in two of them.

        Raises:
            ValueError: a slot is reserved, or none would be left beside those of pinned experts.
                Nothing has changed then.
        """
        if self._reserved or capacity <= len(self._pinned):
            raise ValueError(f"{len(self._reserved)} slots are reserved, {capacity} would be left")
        for leaving in self._policy.victims(max(0, len(self) - capacity), self._pinned):
            self._policy.drop(leaving)
            self._free.append(self._slot_of.pop(leaving))
        self._free = [slot for slot in self._free if slot < capacity]
        self.capacity = capacity
        moves = []
        for key, slot in self._slot_of.items():
            if slot >= capacity:
                self._slot_of[key] = self._free.pop()
                moves.append((slot, self._slot_of[key]))
        return moves

    def check(self) -> None:
        """Assert that every slot is in exactly one state; for tests."""
        states = [*self._free, *self._reserved, *self._slot_of.values()]
        assert sorted(states) == list(range(self.capacity)), f"slots lost or shared: {states}"
