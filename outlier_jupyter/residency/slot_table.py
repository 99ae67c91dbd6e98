"""The slot table of an engine: which expert is in which slot, and what must move next.

It decides and keeps track; it reads no file, so a failed read only returns its slot. All experts of
one (call, layer) are looked up at once: hits are those resident before any of them is read, and no
requested expert is evicted. Its decisions are the functions of `slots`, which a replay calls too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from . import ExpertKey, Int64s, slots
from .policies import Policy, make_policy
from .slots import CAPACITY, FREE, HIT, IN_USE, PINNED, UNUSED


class Placement(NamedTuple):
    """`key` is to be read into `slot`, from which `evicted` (if any) was evicted."""

    key: ExpertKey
    slot: int
    evicted: ExpertKey | None


@dataclass(frozen=True)
class Lookup:
    """The result of a lookup: the slots of the hits, and the placements of the misses."""

    hits: dict[ExpertKey, int]
    placements: tuple[Placement, ...]


class SlotTable:
    """`capacity` slots, all free at first.

    Args:
        policy: scores the experts; no other table may use it.

    Raises:
        ValueError: the capacity is below 1.
    """

    def __init__(self, capacity: int, policy: Policy) -> None:
        if capacity < 1:
            raise ValueError(f"a table of {capacity} slots holds no expert: give 1 or more")
        precompile()
        self._policy = policy
        self._width: int = policy.score.shape[1]
        self._slots = slots.new_slots(capacity, policy.score, policy.weight)
        self._reserved: set[int] = set()

    def __len__(self) -> int:
        """How many experts are resident."""
        return int(self._slots.counts[IN_USE])

    def __contains__(self, key: ExpertKey) -> bool:
        return bool(self._slots.slot_of[key[0] * self._width + key[1]] >= 0)

    def __iter__(self) -> Iterator[ExpertKey]:
        """The resident experts, by slot."""
        return iter(self._keys(self._slots.key_of[self._slots.key_of >= 0]))

    @property
    def capacity(self) -> int:
        """The number of slots."""
        return int(self._slots.counts[CAPACITY])

    @property
    def policy(self) -> str:
        """The name of the policy that scores the experts."""
        return self._policy.name

    @property
    def room(self) -> int:
        """The slots that are not pinned: how many other experts fit at once."""
        return self.capacity - int(self._slots.counts[PINNED])

    def order(self) -> list[ExpertKey]:
        """The resident experts in eviction order; pinned ones, which are never evicted, last."""
        return self._keys(slots.order(self._slots))

    def pin(self, keys: Iterable[ExpertKey]) -> None:
        """Pin `keys`, and no others: once resident, they are never evicted.

        Raises:
            ValueError: no slot would be left for other experts.
        """
        pinned = np.unique(self._codes(keys))
        if len(pinned) >= self.capacity:
            raise ValueError(f"{len(pinned)} pinned experts leave none of {self.capacity} slots")
        self._slots.keep[:] = 0
        self._slots.keep[pinned] = 1
        self._slots.counts[PINNED] = len(pinned)

    def routed(self, layer: int, experts: npt.NDArray[Any]) -> None:
        """Report the choice `experts` [tokens, k] of `layer` to the policy, before their lookup."""
        self._policy.routed(layer, np.ascontiguousarray(experts, np.int16))

    def split(
        self, keys: Sequence[ExpertKey], uses: Mapping[ExpertKey, int] | None = None
    ) -> list[tuple[ExpertKey, ...]]:
        """Split a lookup into parts that fit the slots; see `slots.split`.

        Args:
            uses: how often a chunk of a prompt uses each of `keys`; None for one token.
        """
        if uses is None and len(keys) <= self.room:
            return [tuple(keys)]
        codes = self._codes(keys)
        order = np.empty_like(codes)
        counts = np.zeros(0, np.int64) if uses is None else _counts(keys, uses)
        first, window = slots.split(self._slots, codes, counts, uses is not None, order)
        cut = self._keys(order)
        starts = [0, *range(first, len(cut), window)] if first else range(0, len(cut), window)
        ends = [*starts[1:], len(cut)]
        return [tuple(cut[a:b]) for a, b in zip(starts, ends, strict=True)]

    @property
    def streaming_slots(self) -> int:
        """Slots that a prompt streams its experts through, where none are free or demoted."""
        return int(slots.streaming_slots(self._slots))

    def most_used(
        self, layer: int, uses: Mapping[ExpertKey, int], layers: int
    ) -> frozenset[ExpertKey]:
        """The experts of `layer` to keep after a chunk of a prompt; see `slots.most_used`.

        Args:
            uses: how often the chunk uses each of its experts.
            layers: how many layers share the slots.
        """
        keys = list(uses)
        codes, counts = self._codes(keys), _counts(keys, uses)
        return frozenset(self._keys(slots.most_used(self._slots, codes, counts, layer, layers)))

    def demote_except(self, layer: int, keep: Set[ExpertKey]) -> None:
        """Demote the resident experts of `layer`, except `keep`: they are evicted first."""
        slots.demote_except(self._slots, self._codes(keep), layer)

    def reserve(self, keys: Iterable[ExpertKey]) -> Lookup:
        """Look up distinct `keys` together, and reserve slots for those that are not resident.

        Every placement must be followed by `commit` or `release`.

        Raises:
            ValueError: there are more keys than slots; use `split` first. Nothing has changed then.
        """
        codes = self._codes(dict.fromkeys(keys))
        if not slots.fits(self._slots, codes):
            raise ValueError(f"{len(codes)} experts at once do not fit {self.capacity} slots")
        self._policy.used(codes)
        where, evicted = np.empty_like(codes), np.empty_like(codes)
        slots.reserve(self._slots, codes, where, evicted)
        return self.reserved(codes, where, evicted)

    def reserved(self, codes: Int64s, where: Int64s, evicted: Int64s) -> Lookup:
        """The lookup that `slots.reserve` has made of `codes`; the arrays are its arguments."""
        found = list(zip(self._keys(codes), where.tolist(), evicted.tolist(), strict=True))
        hits = {key: slot for key, slot, gone in found if gone == HIT}
        placements = tuple(
            Placement(key, slot, None if gone == FREE else self._key(gone))
            for key, slot, gone in found if gone != HIT
        )  # fmt: skip
        self._reserved.update(placement.slot for placement in placements)
        return Lookup(hits, placements)

    def commit(self, placement: Placement) -> None:
        """Make `placement.key` resident: its read has ended."""
        self._reserved.remove(placement.slot)
        layer, expert = placement.key
        slots.put(self._slots, layer * self._width + expert, placement.slot)

    def release(self, placement: Placement) -> None:
        """Free the slot of `placement`, whose read failed; its evicted expert stays evicted."""
        self._reserved.remove(placement.slot)
        slots.free_slot(self._slots, placement.slot)

    def grow(self, capacity: int) -> None:
        """Add free slots, up to `capacity`; resident experts stay in place."""
        new = range(capacity - 1, self.capacity - 1, -1)
        free = [*new, *self._slots.free[: self._slots.counts[UNUSED]].tolist()]
        self._resize(capacity, free)

    def shrink(self, capacity: int) -> list[tuple[int, int]]:
        """Remove all slots from `capacity` on; experts are evicted until the rest fit.

        Returns:
            (from, to) for each resident expert that must move; no slot is in two of them.

        Raises:
            ValueError: a slot is reserved, or pinned experts would fill all slots. Nothing has
                changed then.
        """
        table = self._slots
        if self._reserved or capacity <= table.counts[PINNED]:
            raise ValueError(f"{len(self._reserved)} slots are reserved, {capacity} would be left")
        slots.evict(table, max(0, len(self) - capacity))
        free = [s for s in table.free[: table.counts[UNUSED]].tolist() if s < capacity]
        moves = []
        resident = np.flatnonzero(table.key_of >= 0)
        for slot in resident[resident >= capacity].tolist():
            to, key = free.pop(), table.key_of[slot]
            table.key_of[to], table.key_of[slot] = key, FREE
            table.slot_of[key] = to
            moves.append((slot, to))
        self._resize(capacity, free)
        return moves

    def _resize(self, capacity: int, free: Sequence[int]) -> None:
        """Change to `capacity` slots, of which `free` are free."""
        table = self._slots
        key_of = np.full(capacity, FREE, np.int64)
        both = min(capacity, self.capacity)
        resident = table.key_of[:both] >= 0
        key_of[:both][resident] = table.key_of[:both][resident]
        stack = np.zeros(capacity, np.int64)
        stack[: len(free)] = free
        table.counts[[UNUSED, CAPACITY]] = len(free), capacity
        self._slots = table._replace(key_of=key_of, free=stack)

    def check(self) -> None:
        """Assert that every slot is in exactly one state; for tests."""
        slots.check(self._slots, np.isin(np.arange(self.capacity), list(self._reserved)))

    def _codes(self, keys: Iterable[ExpertKey]) -> Int64s:
        width = self._width
        return np.array([key[0] * width + key[1] for key in keys], np.int64)

    def _keys(self, codes: Int64s) -> list[ExpertKey]:
        return [self._key(code) for code in codes.tolist()]

    def _key(self, code: int) -> ExpertKey:
        return ExpertKey(*divmod(code, self._width))


def _counts(keys: Iterable[ExpertKey], uses: Mapping[ExpertKey, int]) -> Int64s:
    return np.array([uses[key] for key in keys], np.int64)


@lru_cache(maxsize=1)
def precompile() -> None:
    """Compile, or load cached machine code, now and not at the first token."""
    policy = make_policy("predictive", [4, 4])
    policy.routed(0, np.zeros((1, 1), np.int16))
    table = slots.new_slots(1, policy.score, policy.weight)
    keys = np.array([0], np.int64)
    out, gone = np.empty(1, np.int64), np.empty(1, np.int64)
    slots.fits(table, keys)
    slots.streaming_slots(table)
    for slot in (0, 0):
        slots.reserve(table, keys, out, gone)
        slots.put(table, 0, slot)
    slots.split(table, keys, keys, True, out)
    slots.demote_except(table, slots.most_used(table, keys, keys, 0, 1), 0)
    slots.evict(table, 1)
    table.counts[slots.UNUSED] = 0  # as if the slot were taken: a slot is freed once
    slots.free_slot(table, 0)
