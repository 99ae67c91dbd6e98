"""Who leaves when a slot is needed. A policy knows keys and their order of use, nothing else."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Set
from typing import NamedTuple, Protocol


class ExpertKey(NamedTuple):
    """One expert of one MoE layer: what the cache is keyed by."""

    layer: int
    expert: int


class Policy(Protocol):
    """Keeps the order in which held experts would leave."""

    def add(self, key: ExpertKey) -> None:
        """`key` was read into a slot just now."""

    def touch(self, key: ExpertKey) -> None:
        """`key`, which is held, was asked for just now."""

    def demote(self, key: ExpertKey) -> None:
        """`key`, which is held, is to leave before all others."""

    def remove(self, key: ExpertKey) -> None:
        """`key` left its slot."""

    def __iter__(self) -> Iterator[ExpertKey]:
        """The held experts, the next to leave first."""

    def victim(self, keep: Set[ExpertKey]) -> ExpertKey:
        """The held expert to leave next, none of `keep`.

        Raises:
            LookupError: all that are held are in `keep`.
        """


class LRU:
    """The least recently asked for leaves first."""

    name = "lru"

    def __init__(self) -> None:
        self._order: OrderedDict[ExpertKey, None] = OrderedDict()

    def add(self, key: ExpertKey) -> None:
        self._order[key] = None

    def touch(self, key: ExpertKey) -> None:
        self._order.move_to_end(key)

    def demote(self, key: ExpertKey) -> None:
        self._order.move_to_end(key, last=False)

    def remove(self, key: ExpertKey) -> None:
        del self._order[key]

    def __iter__(self) -> Iterator[ExpertKey]:
        return iter(self._order)

    def victim(self, keep: Set[ExpertKey]) -> ExpertKey:
        for key in self._order:
            if key not in keep:
                return key
        raise LookupError("every expert in a slot is needed by this very call")
