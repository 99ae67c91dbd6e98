"""The table of slots: which expert sits in which slot, and what must move for the next call.

A slot is always in exactly one of three states: free, reserved (being read into) or held. The
table decides and books; it reads nothing itself, so a read that fails only hands its slot back.

Asking is done for all experts of one (call, layer) at once: hits are those held before any of
them is read, and none of those asked for is a victim.

Some more slots may lie beside the cache, `aside`. Who has read an expert into one of them ahead of
time can `exchange` it for the slot that the expert was given; who is held never depends on that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import islice
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
    """`capacity` slots, all free at first, and `aside` more beside them."""

    def __init__(self, capacity: int, policy: Policy | None = None, aside: int = 0) -> None:
        if capacity < 1:
            raise ValueError(f"a table of {capacity} slots holds nothing: give 1 or more")
        self.capacity = capacity
        self._policy: Policy = policy or LRU()
        self._slot_of: dict[ExpertKey, int] = {}
        self._free = list(range(capacity - 1, -1, -1))
        self._reserved: dict[int, ExpertKey] = {}
        self._aside = set(range(capacity, capacity + aside))
        self._pinned: frozenset[ExpertKey] = frozenset()
        self._spare: dict[ExpertKey, None] = {}  # the first to leave first, before all others

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
    def aside(self) -> frozenset[int]:
        """The slots that lie beside the cache now."""
        return frozenset(self._aside)

    @property
    def room(self) -> int:
        """How many experts fit at once beside those pinned."""
        return self.capacity - len(self._pinned)

    def order(self) -> list[ExpertKey]:
        """The held experts, the first to leave first; those pinned never leave."""
        known, spare = self._slot_of, self._spare
        return [*spare, *(k for k in self._policy.order() if k in known and k not in spare)]

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

    def split(
        self, keys: Sequence[ExpertKey], uses: Mapping[ExpertKey, int] | None = None
    ) -> list[tuple[ExpertKey, ...]]:
        """Cut a request into parts that fit the slots, those held first, so that they still hit.

        One token's experts that fit stay as they are: LRU's order must not depend on what is held.

        Args:
            uses: how often each of `keys` is needed, when they are those of a whole prompt. Then
                the most used come last, and parts are kept to the slots that others can spare,
                so that what other layers were left with stays.
        """
        if uses is None and len(keys) <= self.room:
            return [tuple(keys)]
        held = [key for key in keys if key in self._slot_of]
        missing = [key for key in keys if key not in self._slot_of]
        window = self.room
        if uses is not None:
            missing.sort(key=lambda key: uses[key])
            window = max(len(self._free) + len(self._spare.keys() - held), self.passing)
            window = min(window, self.room)
        first = min(window, self.capacity - len(self._pinned.union(held)))
        starts = range(first, len(missing), window)
        parts = [(*held, *missing[:first]), *(tuple(missing[s : s + window]) for s in starts)]
        return [part for part in parts if part]

    @property
    def passing(self) -> int:
        """Slots through which the experts of a prompt pass, where none are free or spare."""
        return max(1, self.room // 4)

    def favourites(
        self, layer: int, uses: Mapping[ExpertKey, int], layers: int
    ) -> frozenset[ExpertKey]:
        """The experts of `layer` that should stay when a chunk of a prompt was read.

        They are those the chunk uses most, then those of earlier that would leave last, as many as
        are the layer's share of the slots that are not passed through.

        Args:
            uses: how often the chunk uses each of its experts.
            layers: how many layers share the slots.
        """
        share = max(1, (self.room - self.passing) // layers)
        used = sorted(uses, key=lambda key: -uses[key])
        before = [key for key in self.order() if key.layer == layer and key not in uses]
        return frozenset([*used, *reversed(before)][:share])

    def spare_all_but(self, layer: int, keep: Set[ExpertKey]) -> None:
        """Have the held experts of `layer` leave before all others, except those of `keep`."""
        stay = keep | self._pinned
        going = [key for key in self.order() if key.layer == layer and key not in stay]
        self._spare = dict.fromkeys(going) | self._spare

    def reserve(self, keys: Iterable[ExpertKey]) -> Plan:
        """Book slots for distinct `keys`, which are looked up together: evict for those not held.

        Every placement must be followed by `commit` or `release`.

        Raises:
            ValueError: more keys than slots; use `split` first. Nothing has changed then.
        """
        wanted = list(dict.fromkeys(keys))
        together = len(self._pinned.union(wanted)) if self._pinned else len(wanted)
        if together > self.capacity - len(self._reserved):
            raise ValueError(f"{len(wanted)} experts at once do not fit {self.capacity} slots")
        hits = {key: self._slot_of[key] for key in wanted if key in self._slot_of}
        missing = [key for key in wanted if key not in hits]
        victims: list[ExpertKey] = []
        if len(missing) > len(self._free):
            keep = {*wanted, *self._reserved.values(), *self._pinned}
            victims = self._victims(len(missing) - len(self._free), keep)
        self._policy.ask(wanted)
        for key in hits:
            self._spare.pop(key, None)
        leaving = iter(victims)
        return Plan(hits, tuple(self._place(key, leaving) for key in missing))

    def _victims(self, count: int, keep: Set[ExpertKey]) -> list[ExpertKey]:
        """The spare ones first, then those that the policy names; they are spare no more."""
        if not self._spare:
            return self._policy.victims(count, keep)
        spare = list(islice((key for key in self._spare if key not in keep), count))
        others = self._policy.victims(count - len(spare), keep | set(spare))
        for key in spare:
            del self._spare[key]
        return [*spare, *others]

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

    def exchange(self, placement: Placement, slot: int) -> Placement:
        """Have a reserved `placement` sit in `slot`, one of `aside`; its own lies there then."""
        self._aside.remove(slot)
        self._aside.add(placement.slot)
        self._reserved[slot] = self._reserved.pop(placement.slot)
        return placement._replace(slot=slot)

    def commit(self, placement: Placement) -> None:
        """The read is done: `placement.key` is held from now on."""
        del self._reserved[placement.slot]
        self._slot_of[placement.key] = placement.slot

    def release(self, placement: Placement) -> None:
        """The read failed: the slot is free again (what was evicted for it stays gone)."""
        del self._reserved[placement.slot]
        self._policy.drop(placement.key)
        self._free.append(placement.slot)

    def straighten(self) -> list[tuple[int, int]]:
        """Have the slots of the cache be the first `capacity`, and those aside come after them.

        Returns:
            (from, to) for each held expert that must move; no slot is in two of them.
        """
        assert not self._reserved, "slots are being read into"
        room = sorted(slot for slot in self._aside if slot < self.capacity)
        moves = []
        for key, slot in self._slot_of.items():
            if slot >= self.capacity:
                self._slot_of[key] = room.pop()
                moves.append((slot, self._slot_of[key]))
        self._free = [slot if slot < self.capacity else room.pop() for slot in self._free]
        self._aside = set(range(self.capacity, self.capacity + len(self._aside)))
        return moves

    def grow(self, capacity: int) -> None:
        """Add free slots, up to `capacity`; those held stay where they are (straightened)."""
        self._free[:0] = range(capacity - 1, self.capacity - 1, -1)
        self._set_capacity(capacity)

    def _set_capacity(self, capacity: int) -> None:
        self.capacity = capacity
        self._aside = set(range(capacity, capacity + len(self._aside)))

    def shrink(self, capacity: int) -> list[tuple[int, int]]:
        """Give up all slots from `capacity` on: the policy's victims leave until the rest fit.

        Slots must be straightened.

        Returns:
            (from, to) for each held expert that must move; no slot is in two of them.

        Raises:
            ValueError: a slot is reserved, or none would be left beside those of pinned experts.
                Nothing has changed then.
        """
        if self._reserved or capacity <= len(self._pinned):
            raise ValueError(f"{len(self._reserved)} slots are reserved, {capacity} would be left")
        for leaving in self._victims(max(0, len(self) - capacity), self._pinned):
            self._policy.drop(leaving)
            self._free.append(self._slot_of.pop(leaving))
        self._free = [slot for slot in self._free if slot < capacity]
        self._set_capacity(capacity)
        moves = []
        for key, slot in self._slot_of.items():
            if slot >= capacity:
                self._slot_of[key] = self._free.pop()
                moves.append((slot, self._slot_of[key]))
        return moves

    def check(self) -> None:
        """Assert that every slot is in exactly one state; for tests."""
        states = [*self._free, *self._reserved, *self._slot_of.values(), *self._aside]
        assert self._spare.keys() <= self._slot_of.keys(), "a spare expert is not held"
        every = list(range(self.capacity + len(self._aside)))
        assert sorted(states) == every, f"slots lost or shared: {states}"
