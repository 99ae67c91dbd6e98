"""Who leaves when a slot is needed. A policy knows keys and what the routers chose, nothing else.

One interface serves the table of a running engine and the replay of a trace. `Belady` needs the
future, so only a replay can have it; it is the bound that no policy can pass.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Sequence, Set
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt


class ExpertKey(NamedTuple):
    """One expert of one MoE layer: what the cache is keyed by."""

    layer: int
    expert: int


class Policy(Protocol):
    """Knows which experts are held and in which order they would leave."""

    name: str

    def routed(self, layer: int, experts: npt.NDArray[Any]) -> None:
        """The router of `layer` chose `experts` [tokens, k], which will be looked up next.

        -1 stands for no expert. A call of the model over many tokens is told at once.
        """

    def ask(self, keys: Sequence[ExpertKey]) -> None:
        """`keys` are looked up together now: those not held come into slots."""

    def drop(self, key: ExpertKey) -> None:
        """`key` left its slot, or could not be read into it."""

    def victims(self, count: int, keep: Set[ExpertKey]) -> list[ExpertKey]:
        """The `count` held experts that leave next, none of `keep`.

        Raises:
            LookupError: fewer are held outside `keep`.
        """

    def order(self) -> list[ExpertKey]:
        """All that are held, the first to leave first."""


class LRU:
    """The least recently asked for leaves first; of those asked for together, the first asked.

    The order does not depend on which of them were held, so what a small cache holds is always
    part of what a larger one holds: the replay finds the hits of every size in one go.
    """

    name = "lru"

    def __init__(self) -> None:
        self._order: OrderedDict[ExpertKey, None] = OrderedDict()

    def routed(self, layer: int, experts: npt.NDArray[Any]) -> None:
        """Nothing: what counts is when a key is asked for."""

    def ask(self, keys: Sequence[ExpertKey]) -> None:
        for key in keys:
            self._order.pop(key, None)
            self._order[key] = None

    def drop(self, key: ExpertKey) -> None:
        del self._order[key]

    def victims(self, count: int, keep: Set[ExpertKey]) -> list[ExpertKey]:
        found: list[ExpertKey] = []
        for key in self._order:
            if len(found) == count:
                break
            if key not in keep:
                found.append(key)
        return enough(found, count)

    def order(self) -> list[ExpertKey]:
        return list(self._order)


class Belady:
    """The one whose next use is furthest away leaves first (Belady, 1966): needs the future.

    Args:
        lookups: every look-up there will be: its layer and its distinct experts, in order. Each
            `routed` is the next of them.
    """

    name = "belady"

    def __init__(self, lookups: Iterable[tuple[int, Iterable[int]]]) -> None:
        self._uses: dict[ExpertKey, list[int]] = defaultdict(list)
        for time, (layer, experts) in enumerate(lookups):
            for expert in experts:
                self._uses[ExpertKey(layer, int(expert))].append(time)
        self._now = -1
        self._held: set[ExpertKey] = set()

    def routed(self, layer: int, experts: npt.NDArray[Any]) -> None:
        self._now += 1

    def ask(self, keys: Sequence[ExpertKey]) -> None:
        self._held.update(keys)

    def drop(self, key: ExpertKey) -> None:
        self._held.remove(key)

    def victims(self, count: int, keep: Set[ExpertKey]) -> list[ExpertKey]:
        return enough([key for key in self.order() if key not in keep], count)

    def order(self) -> list[ExpertKey]:
        return self.furthest_first(self._held)

    def furthest_first(self, keys: Iterable[ExpertKey]) -> list[ExpertKey]:
        """`keys` by their next use, the furthest first."""
        return sorted(keys, key=lambda key: (-self._next_use(key), key))

    def _next_use(self, key: ExpertKey) -> float:
        uses = self._uses[key]
        at = bisect_right(uses, self._now)
        return uses[at] if at < len(uses) else np.inf


def enough(found: list[ExpertKey], count: int) -> list[ExpertKey]:
    """The first `count` of those found.

    Raises:
        LookupError: there are fewer.
    """
    if len(found) < count:
        raise LookupError(f"{count} slots are needed, but only {len(found)} can be emptied")
    return found[:count]


def _habit(experts_per_layer: Sequence[int]) -> Policy:
    from .habit import Habit  # compiled code: only where it is used

    return Habit(experts_per_layer)


POLICIES: dict[str, Callable[[Sequence[int]], Policy]] = {
    "habit": _habit,
    "lru": lambda experts_per_layer: LRU(),
}
"""What an engine can be given, by name: each makes a policy for a model with so many experts."""


def make_policy(name: str, experts_per_layer: Sequence[int]) -> Policy:
    """The policy called `name`, for a model whose MoE layers have so many experts each."""
    return POLICIES[name](experts_per_layer)
