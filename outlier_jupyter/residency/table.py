"""The table of slots: which expert sits in which slot, and what must move for the next call.

A slot is always in exactly one of three states: free, reserved (being read into) or held. The
table decides and books; it reads nothing itself, so a read that fails only hands its slot back.

Asking is done for all experts of one (call, layer) at once: hits are those held before any of
them is read, and none of those asked for is a victim.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import NamedTuple

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
        self._policy = policy or LRU()
        self._slot_of: dict[ExpertKey, int] = {}
        self._free = list(range(capacity - 1, -1, -1))
        self._reserved: set[int] = set()
        self._spare: set[ExpertKey] = set()

    def __len__(self) -> int:
        """How many experts are held."""
        return len(self._slot_of)

    def __contains__(self, key: ExpertKey) -> bool:
        return key in self._slot_of

    def __iter__(self) -> Iterator[ExpertKey]:
        """The held experts, in the order in which they came."""
        return iter(self._slot_of)

    def split(
        self, keys: Sequence[ExpertKey], uses: Mapping[ExpertKey, int] | None = None
    ) -> list[tuple[ExpertKey, ...]]:
        """Cut a request into parts that fit the slots, those held first, so that they still hit.

        Args:
            uses: how often each of `keys` is needed, when they are those of a whole prompt. Then
                the most used come last, and parts are kept to the slots that others can spare,
                so that what other layers were left with stays.
        """
        held = [key for key in keys if key in self._slot_of]
        missing = [key for key in keys if key not in self._slot_of]
        window = self.capacity
        if uses is not None:
            missing.sort(key=lambda key: uses[key])
            window = max(len(self._free) + len(self._spare.difference(held)), self.passing)
        first = min(window, self.capacity - len(held))
        starts = range(first, len(missing), window)
        parts = [(*held, *missing[:first]), *(tuple(missing[s : s + window]) for s in starts)]
        return [part for part in parts if part]

    @property
    def passing(self) -> int:
        """Slots through which the experts of a prompt pass, where none are free or spare."""
        return max(1, self.capacity // 4)

    def favourites(
        self, layer: int, uses: Mapping[ExpertKey, int], layers: int
    ) -> frozenset[ExpertKey]:
        """The experts of `layer` that should stay when a chunk of a prompt was read.

        They are those the chunk uses most, then those of earlier that were asked for last, as
        many as are the layer's share of the slots that are not passed through.

        Args:
            uses: how often the chunk uses each of its experts.
            layers: how many layers share the slots.
        """
        share = max(1, (self.capacity - self.passing) // layers)
        used = sorted(uses, key=lambda key: -uses[key])
        before = [key for key in self._policy if key.layer == layer and key not in uses]
        return frozenset([*used, *reversed(before)][:share])

    def spare_all_but(self, layer: int, keep: Set[ExpertKey]) -> None:
        """Have the held experts of `layer` leave before all others, except those of `keep`."""
        going = [key for key in self._policy if key.layer == layer and key not in keep]
        for key in reversed(going):
            self._policy.demote(key)
        self._spare.update(going)

    def reserve(self, keys: Iterable[ExpertKey]) -> Plan:
        """Book slots for distinct `keys`: touch those held, evict for the others.

        Every placement must be followed by `commit` or `release`.

        Raises:
            ValueError: more keys than slots; use `split` first. Nothing has changed then.
        """
        wanted = dict.fromkeys(keys)
        if len(wanted) > self.capacity - len(self._reserved):
            raise ValueError(f"{len(wanted)} experts at once do not fit {self.capacity} slots")
        hits = {key: self._slot_of[key] for key in wanted if key in self._slot_of}
        for key in hits:
            self._policy.touch(key)
            self._spare.discard(key)
        missing = [key for key in wanted if key not in hits]
        return Plan(hits, tuple(self._place(key, wanted.keys()) for key in missing))

    def _place(self, key: ExpertKey, keep: Set[ExpertKey]) -> Placement:
        evicted = None
        if self._free:
            slot = self._free.pop()
        else:
            evicted = self._policy.victim(keep)
            self._policy.remove(evicted)
            self._spare.discard(evicted)
            slot = self._slot_of.pop(evicted)
        self._reserved.add(slot)
        return Placement(key, slot, evicted)

    def commit(self, placement: Placement) -> None:
        """The read is done: `placement.key` is held from now on."""
        self._reserved.remove(placement.slot)
        self._slot_of[placement.key] = placement.slot
        self._policy.add(placement.key)

    def release(self, placement: Placement) -> None:
        """The read failed: the slot is free again (what was evicted for it stays gone)."""
        self._reserved.remove(placement.slot)
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
            ValueError: a slot is reserved, or none would be left. Nothing has changed then.
        """
        if self._reserved or capacity < 1:
            raise ValueError(f"{len(self._reserved)} slots are reserved, {capacity} would be left")
        while len(self._slot_of) > capacity:
            leaving = self._policy.victim(frozenset())
            self._policy.remove(leaving)
            self._spare.discard(leaving)
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
        assert self._spare <= self._slot_of.keys(), "a spare expert is not held"
        assert sorted(states) == list(range(self.capacity)), f"slots lost or shared: {states}"
