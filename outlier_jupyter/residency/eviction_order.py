"""The eviction order at any moment of a recorded run: its policy replays the routing up to it.

A replay decides again what is evicted; which experts were resident is known from the recording. So
the replay's policy only ranks those: by its scores, and by what prompts demoted. A `CacheStart`, a
copy of the engine's tables before the run, makes the replay exact. Without it the policy lacks what
it had learned before the run; of LRU the order of the experts at the start says all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from . import ExpertKey, Int64s
from .policies import POLICIES, PolicySpec, canonical_name, make_policy
from .replay import Keys, RecordedRouting, part_of, serve

if TYPE_CHECKING:
    from .slot_table import SlotTable

Tables: TypeAlias = "list[tuple[npt.NDArray[np.bool_], SlotTable]]"
"""The layers of each table, bool [layers], and the table."""

KEPT_STATES = 24
"""How many states of a replay are kept, to go back to; evenly spaced over its calls."""

KEPT_STARTS = 4
"""For how many of an engine's newest runs the cache at the start is kept: about a MB each."""


class CacheStart:
    """A copy of an engine's slot tables: what they hold, and what their policies have learned.

    Args:
        tables: the layers of each table, and the table. Those of a policy in plain Python, which
            may hold anything, are not copied.
    """

    def __init__(self, tables: Sequence[tuple[Sequence[int], SlotTable]]) -> None:
        self.tables: Tables = []
        layers = sum(len(members) for members, _ in tables)
        for members, table in tables:
            spec = POLICIES.get(table.policy)
            if spec is not None and spec.kernel is not None:
                mine = np.isin(np.arange(layers), list(members))
                self.tables.append((mine, deepcopy(table)))

    def __getstate__(self) -> dict[str, Tables]:
        """A pickled run does not take it along."""
        return {"tables": []}


class CacheStarts:
    """Makes the copies of an engine's runs, and lets only the newest few take memory."""

    def __init__(self) -> None:
        self._newest: list[CacheStart] = []

    def take(self, tables: Sequence[tuple[Sequence[int], SlotTable]]) -> CacheStart:
        """Copy the tables now, before a run; arguments as of `CacheStart`."""
        self._newest.append(CacheStart(tables))
        for old in self._newest[:-KEPT_STARTS]:
            old.tables.clear()
        del self._newest[:-KEPT_STARTS]
        return self._newest[-1]


class OrderReplay:
    """Replays a routing call by call, forwards and back.

    Args:
        policy: the name of one of `POLICIES` that an engine can use.
        at_start: the experts resident before, in eviction order; unused with a `start`.
        start: the engine's tables before the run.

    Attributes:
        ranks: whether the policy can tell an order.
    """

    def __init__(
        self,
        routing: RecordedRouting,
        policy: str,
        slot_count: int,
        at_start: Keys = (),
        start: CacheStart | None = None,
    ) -> None:
        from .table_order import ranks

        self._routing = routing
        self._spec = POLICIES[canonical_name(policy)]
        known = [] if start is None else start.tables[:]
        self._begin: Callable[[], Tables] = (
            (lambda: deepcopy(known))
            if known
            else (lambda: _filled(routing, self._spec, slot_count, at_start))
        )
        self._every = max(1, routing.calls // KEPT_STATES)
        self._kept: dict[int, Tables] = {}
        self._tables, self._call = self._begin(), 0
        self.ranks = all(ranks(table) for _, table in self._tables)

    def order(self, calls: int, resident: npt.NDArray[np.bool_]) -> tuple[Int64s, int, bool]:
        """The eviction order after `calls` calls.

        Args:
            resident: bool [layers, width], the experts that were resident then.

        Returns:
            the resident keys (layer × width + expert), next to be evicted first; how many of them,
            at the end, are pinned; and whether the replay had the same experts resident.
        """
        from .table_order import ranked

        self._go_to(calls)
        orders, pinned, same = [], 0, True
        for mine, table in self._tables:
            keys = np.flatnonzero((resident & mine[:, None]).ravel())
            found, kept, alike = ranked(table, keys)
            orders.append(found)
            pinned, same = pinned + kept, same and alike
        return interleaved(orders), pinned, same

    def _go_to(self, calls: int) -> None:
        before = max((at for at in self._kept if at <= calls), default=0)
        if calls < self._call or self._call < before:
            self._tables = deepcopy(self._kept[before]) if before else self._begin()
            self._call = before
        while self._call < calls:
            end = min(calls, (self._call // self._every + 1) * self._every)
            self._replay(self._call, end)
            self._call = end
            if end % self._every == 0 and end not in self._kept and self._spec.kernel is not None:
                self._kept[end] = deepcopy(self._tables)

    def _replay(self, first: int, end: int) -> None:
        if self._spec.kernel is None:
            layers = {int(n): table for mine, table in self._tables for n in np.flatnonzero(mine)}
            serve(part_of(self._routing, first, end), layers)
            return
        from .table_order import replay_calls

        for mine, table in self._tables:
            replay_calls(table, self._spec.kernel, self._routing, mine, first, end)


def _filled(routing: RecordedRouting, spec: PolicySpec, count: int, at_start: Keys) -> Tables:
    """Tables of `count` slots in all that hold the experts at the start."""
    from .slot_table import SlotTable

    tables: Tables = []
    pairs = np.asarray(at_start, np.int64).reshape(-1, 2)
    for mine, share in routing.banks(count):
        table = SlotTable(share, make_policy(spec.name, routing.experts_per_layer))
        for layer, expert in pairs[mine[pairs[:, 0]]][-share:].tolist():
            for placement in table.reserve([ExpertKey(layer, expert)]).placements:
                table.commit(placement)
        tables.append((mine, table))
    return tables


def interleaved(orders: Sequence[Int64s]) -> Int64s:
    """One order of the experts of several tables, by the place that each has in its own."""
    if len(orders) == 1:
        return orders[0]
    if not orders:
        return np.zeros(0, np.int64)
    places = [(np.arange(len(order)) + 0.5) / max(1, len(order)) for order in orders]
    found: Int64s = np.concatenate(orders)[np.argsort(np.concatenate(places), kind="stable")]
    return found
