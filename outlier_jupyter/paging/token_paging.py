"""One pager's table and reads for compiled code that runs a token's layers, and what that leaves
to Python: reads that the kernel cannot make or did not make, and the events.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..events import Event, Evicted, PagedIn, Routed, Waited
from ..residency import ExpertKey, Int64s
from ..residency.slot_table import Placement
from ..residency.slots import FREE, HIT
from ..residency.table_order import slots_of
from ..residency.token_arrays import (
    COMPUTED,
    EVICTED,
    HITS,
    IDS,
    INSTALL_NS,
    KEYS,
    LOOKED_UP,
    MISSES,
    OFFSET,
    READ_NS,
    READ_START,
    START,
    STATE,
    THERE,
    UNREAD,
    WAIT_NS,
    WHERE,
    PagedArrays,
    TokenLog,
    no_pages,
    table_arrays,
)
from .fetch import Read
from .kernel_sources import KernelSources
from .record_fetch import EndedRead

if TYPE_CHECKING:
    from .pager import Pager


class TokenPaging:
    """What compiled code needs to page the layers of one pager.

    An expert's source is looked up when its first miss finds that it is not known: asking the
    reader for those of all experts would take longer than many a run.
    """

    def __init__(self, pager: Pager) -> None:
        self._pager = pager
        self._sources: KernelSources | None = None
        self._width, self._nbytes = 1, pager.bank.expert_nbytes

    @property
    def usable(self) -> bool:
        """Whether compiled code may serve this pager's layers: the clock is the system's."""
        return self._pager.clock is time.perf_counter_ns

    @property
    def stop(self) -> Int64s:
        """int64 [1], which is set to end the run."""
        return self._pager.stop.number

    def forget(self) -> None:
        """Look sources up again: the bank's memory moved, or there is another reader."""
        self._sources = None

    def begin(self, k: int) -> PagedArrays:
        """The arrays for one token; nothing is under way that could write to a slot.

        Raises:
            Stopped, EngineClosed: as `Pager.check_running`.
        """
        pager = self._pager
        pager.check_running()
        pager.finish()
        pager.bank.settle()
        slots, policy, state, clock = table_arrays(pager.table, k)
        self._width = slots.score.shape[1]
        queued, sources = pager.queued, self._sources
        if sources is None or sources.reader is not pager.reader or k > sources.k:
            sources = self._sources = KernelSources(
                pager.reader, pager.bank, queued, pager.parts, slots.score.size, k
            )
        queue = no_pages().queue if queued is None else queued.queue.words
        return PagedArrays(
            slots, policy, state, clock, sources.sources, sources.reads, queue, sources.beside,
            pager.overlap,
        )  # fmt: skip

    def check_running(self) -> None:
        """As `Pager.check_running`."""
        self._pager.check_running()

    def find_sources(self, layer: int, experts: Iterable[int]) -> bool:
        """Look up the sources of these experts.

        Returns:
            whether some were not known, and the kernel can read all that misses: compiled code can
            then make the lookup that it could not make before.
        """
        pager, sources = self._pager, self._sources
        if sources is None or pager.queued is None or pager.queued.queue.pending:
            return False
        numbers = {
            layer * self._width + expert: ExpertKey(layer, expert)
            for expert in experts
            if ExpertKey(layer, expert) not in pager.table
        }
        known = sources.sources[[*numbers], 0, OFFSET] >= 0
        found = [sources.find(key, number) for number, key in numbers.items()]
        return not bool(known.all()) and all(found)

    def complete(self, layer: int, log: TokenLog) -> None:
        """Make the reads of a layer that compiled code could not, commit all, and report them.

        Called again, after an interrupt, it does what is left.

        Raises:
            ReadFailed: an expert could not be read; the others stay resident.
        """
        pager, rows, times = self._pager, log.rows[layer], log.times[layer]
        queue = pager.queued.queue if pager.queued is not None else None
        while queue is not None and queue.pending:
            queue.completed(True)
        if self._sources is not None:
            self._sources.sources[rows[KEYS][rows[STATE] == UNREAD], 0, OFFSET] = -1
        start = int(times[READ_START])
        read = [
            (self._nbytes, start, ns) if state in (THERE, COMPUTED) else None
            for state, ns, gone in rows[[STATE, READ_NS, EVICTED]].T.tolist()
            if gone != HIT
        ]

        def reads(placements: Sequence[Placement]) -> Iterable[Read]:
            for placement, result in zip(placements, read, strict=True):
                yield pager.submit(placement) if result is None else EndedRead(result)

        if times[MISSES]:
            times[MISSES] = 0  # from here on the fetch knows what is under way
            plan = pager.table.reserved(rows[KEYS], rows[WHERE], rows[EVICTED])
            with pager.reading(plan, reads):
                self._report_routed(layer, log)
        pager.finish()
        pager.map_if_resident(layer)

    def slots_of(self, layer: int, ids: Int64s) -> Int64s:
        """The slots of these resident experts of a layer."""
        return slots_of(self._pager.table, layer, self._width)[ids]

    def _report_routed(self, layer: int, log: TokenLog) -> None:
        """Report a layer's choice, whose reads may still be under way."""
        start, looked_up = log.times[layer, [START, LOOKED_UP]].tolist()
        ids, hits = log.rows[layer, [IDS, HITS]].astype(np.int32)
        self._pager.report(Routed(layer, ids[None], hits[None] > 0, 0, looked_up - start))

    def report(self, layers: Sequence[int], log: TokenLog) -> None:
        """Report the choices, hits and reads of `layers`, in the order in which they ran."""
        pager = self._pager
        events: list[Event] = []
        experts = log.rows[layers, None, IDS].astype(np.int32)
        hits = log.rows[layers, None, HITS] > 0
        times = log.times[layers].tolist()
        for n, layer in enumerate(layers):
            looked_up = times[n][LOOKED_UP] - times[n][START]
            events.append(Routed(layer, experts[n], hits[n], 0, looked_up))
            if times[n][MISSES]:
                events += self._reads_of(layer, log, times[n])
                pager.map_if_resident(layer)
        for event in events:
            pager.report(event)

    def _reads_of(self, layer: int, log: TokenLog, times: list[int]) -> Iterable[Event]:
        """What a layer evicted and read, and its wait."""
        fields = [KEYS, WHERE, EVICTED, READ_NS]
        for key, slot, gone, ns in log.rows[layer, fields].T.tolist():
            if gone != HIT:
                expert = key % self._width
                if gone != FREE:
                    yield Evicted(gone // self._width, gone % self._width, slot, layer, expert)
                yield PagedIn(layer, expert, slot, self._nbytes, times[READ_START], ns)
        yield Waited(layer, times[WAIT_NS], times[INSTALL_NS])
