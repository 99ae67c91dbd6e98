"""Makes the expert cache smaller while memory is short, and as large as before when it is not.

The system's report comes on a thread of its own. It is acted on where nothing computes: by that
thread if the engine is idle, else by the decode thread before its next call of the model. Rows that
are no longer used are given back to the system where that needs no copy; elsewhere the bank is
replaced by a smaller one. Nothing changes what is computed: evicted experts are read again.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..events import Evicted, Resized
from ..formatting import size_words
from ..paging.resize_banks import change_capacity
from ..system.memory_info import Machine, machine_memory
from ..system.memory_pressure import PressureWatch, pressure_watch
from .memory import give_back
from .memory_budget import SPARED

if TYPE_CHECKING:
    from ..paging.pager import Pager
    from .engine import Engine

LEAST_SHARE = 0.125
"""The share of the cache that is given up at a report, at least. Reports are 2 s apart."""
CALM_S = 30.0
"""How long there must be no report before the cache grows back."""
LOOK_S = 5.0
"""How often it is looked whether it can."""
STEP = 0.25
"""The share of the cache's full size by which it grows at a time."""


class MemoryRelief:
    """An engine's answer to memory pressure.

    Args:
        memory: the machine's memory.
        clock: seconds, monotonic.

    Attributes:
        note: what was done, as a sentence for the status and the view; "" while all is as loaded.
    """

    def __init__(
        self,
        engine: Engine,
        memory: Callable[[], Machine] = machine_memory,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine, self._memory, self._clock = engine, memory, clock
        self._short = False
        self._full: list[int] = []
        self._last = self._looked = clock()
        self.note = ""

    def report(self) -> None:
        """Memory is short: shrink now if the engine is idle, else before the next call."""
        self._short = True
        lock = self._engine.run_lock
        if lock.acquire_if_free():
            try:
                if not self._engine.closed:
                    self.act()
            finally:
                lock.release()

    def act(self) -> None:
        """Shrink or grow back, if there is reason to; the caller has the engine's lock."""
        if self._short:
            self._short = False
            self._shrink()
        elif self._full and self._clock() - self._looked >= LOOK_S:
            self._looked = self._clock()
            if self._looked - self._last >= CALM_S:
                self._grow()

    def forget(self) -> None:
        """The cache was resized: this is its full size now."""
        self._full, self.note = [], ""

    def _shrink(self) -> None:
        machine = self._memory()
        missing = SPARED * machine.total - machine.available
        pagers = self._engine._installed.pagers
        if (
            missing <= 0 or not self._engine._installed.bank_nbytes
        ):  # others wait for memory, in a group of their own
            return
        self._last = self._clock()
        have = sum(_nbytes(pager, pager.table.capacity) for pager in pagers)
        share = max(LEAST_SHARE, min(1.0, missing / have))
        sizes = [
            max(min(_floor(self._engine, p), p.table.capacity), int(p.table.capacity * (1 - share)))
            for p in pagers
        ]
        self._full = self._full or [pager.table.capacity for pager in pagers]
        self._change(sizes)
        give_back()

    def _grow(self) -> None:
        machine = self._memory()
        room = machine.available - SPARED * machine.total
        pagers = self._engine._installed.pagers
        sizes = [
            min(full, pager.table.capacity + max(1, int(STEP * full)))
            for full, pager in zip(self._full, pagers, strict=True)
        ]
        more = sum(
            _nbytes(pager, size - pager.table.capacity)
            for size, pager in zip(sizes, pagers, strict=True)
        )
        if 2 * more < room:  # what it fills must not be the next shortage
            self._change(sizes)

    def _change(self, sizes: list[int]) -> None:
        """Give each pager's cache its size, and report what was evicted."""
        engine, installed = self._engine, self._engine._installed
        before = installed.slots
        installed.settle()
        for pager, size in zip(installed.pagers, sizes, strict=True):
            for key, slot in change_capacity(installed, pager, size):
                engine._bus(Evicted(*key, slot, *key))
        now = installed.slots
        if now == before:
            return
        full = sum(self._full)
        if now == full:
            self._full, self.note = [], ""
        else:
            nbytes = sum(_nbytes(p, p.table.capacity) for p in installed.pagers)
            self.note = (
                f"memory was short: the cache has {now:,} of {full:,} experts' room now "
                f"({size_words(nbytes)}); it grows back when memory is free"
            )
        engine._bus(Resized(now))


def _nbytes(pager: Pager, slots: int) -> int:
    return slots * pager.bank.expert_nbytes


def _floor(engine: Engine, pager: Pager) -> int:
    """The fewest slots that serve a token at once, beside pinned ones."""
    k = engine.options.top_k or engine.info.native_top_k or 1
    return pager.table.capacity - pager.table.room + max(2, k)


def watch(engine: Engine, watched: PressureWatch = pressure_watch) -> Callable[[], object]:
    """Act on the system's reports while `engine` is open; the returned function ends that."""
    known = weakref.ref(engine)

    def report() -> None:
        found = known()
        if found is not None and not found.closed:
            found._relief.report()

    end = weakref.finalize(engine, watched.add(report))
    end.atexit = False
    return end
