"""A slot table in plain Python, as simple as possible, as reference for the compiled one."""

from __future__ import annotations

from collections.abc import Sequence

Key = tuple[int, int]


class NaiveTable:
    """LRU in lists; demoted experts of prompts are evicted before all others."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.recent: list[Key] = []  # least recently used first
        self.spare: list[Key] = []  # in eviction order
        self.pinned: set[Key] = set()

    def order(self) -> list[Key]:
        """The resident experts in eviction order; pinned ones last."""
        order = self.spare + [key for key in self.recent if key not in self.spare]
        return sorted(order, key=lambda key: key in self.pinned)

    def serve(self, keys: Sequence[Key]) -> list[Key]:
        """Look up `keys` together and make them resident; return the evicted ones, in order."""
        missing = [key for key in keys if key not in self.recent]
        over = len(self.recent) + len(missing) - self.capacity
        may_go = [k for k in self.order() if k not in keys and k not in self.pinned]
        evicted = may_go[: max(0, over)]
        self.recent = [k for k in self.recent if k not in evicted and k not in keys] + list(keys)
        self.spare = [k for k in self.spare if k not in evicted and k not in keys]
        return evicted

    def split(self, keys: Sequence[Key], uses: dict[Key, int] | None) -> list[tuple[Key, ...]]:
        """The parts of a lookup: resident experts first; in prefill the most used last."""
        room = self.capacity - len(self.pinned)
        if uses is None and len(keys) <= room:
            return [tuple(keys)]
        there = [key for key in keys if key in self.recent]
        missing = [key for key in keys if key not in self.recent]
        window = room
        if uses is not None:
            missing.sort(key=lambda key: uses[key])
            free = self.capacity - len(self.recent) + len(set(self.spare) - set(keys))
            window = min(max(free, room // 4, 1), room)
        first = max(0, min(window, self.capacity - len(self.pinned | set(there))))
        parts = [there + missing[:first]]
        parts += [missing[at : at + window] for at in range(first, len(missing), window)]
        return [tuple(part) for part in parts if part]

    def most_used(self, layer: int, uses: dict[Key, int], layers: int) -> set[Key]:
        """A layer's experts to keep: the most used, then those last in eviction order."""
        room = self.capacity - len(self.pinned)
        share = max(1, (room - max(1, room // 4)) // layers)
        most = sorted(uses, key=lambda key: -uses[key])
        before = [
            key
            for key in reversed(self.order())
            if key[0] == layer and key not in uses and key not in self.pinned
        ]
        return set([*most, *before][:share])

    def demote_except(self, layer: int, keep: set[Key]) -> None:
        """Put the other experts of `layer` first in eviction order."""
        going = [
            key
            for key in self.order()
            if key[0] == layer and key not in keep and key not in self.pinned
        ]
        self.spare = going + [key for key in self.spare if key not in going]
