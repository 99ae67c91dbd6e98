"""From the ids a router chose to the slots their experts sit in: plan, read, commit, tell.

One pager serves all layers whose experts have the same geometry. It decides nothing about who
leaves (residency does) and knows nothing about what the experts compute.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Executor, Future, wait

import mlx.core as mx

from ..checkpoint import ExpertPart, Reader, read_expert
from ..errors import EngineClosed
from ..events import Event, Evicted, PagedIn, Sink, Waited
from ..residency import ExpertKey, Placement, SlotTable
from .slots import SlotBank


class Stopped(Exception):
    """The run was asked to stop, and does so between two layers. Never leaves the engine."""


class Pager:
    """Brings experts into slots.

    Args:
        parts: MoE layer → the tensors of its experts on disk.
        bank, table: the memory and the booking of the same number of slots.
        reader: reads byte ranges; called on the executor's threads.
        clock: nanoseconds, monotonic.
    """

    def __init__(
        self,
        parts: Mapping[int, Sequence[ExpertPart]],
        bank: SlotBank,
        table: SlotTable,
        reader: Reader,
        executor: Executor,
        clock: Callable[[], int],
    ) -> None:
        self.bank = bank
        self.table = table
        self.clock = clock
        self.stop = threading.Event()
        self.closed = False
        self.told_ns = 0
        self.sink: Sink = _nobody
        self._parts = parts
        self._reader = reader
        self._executor = executor
        self._experts = sum(layer[0].experts for layer in parts.values())
        self._slot_maps: dict[int, mx.array] = {}

    @property
    def layers(self) -> int:
        """How many layers share its slots."""
        return len(self._parts)

    @property
    def served(self) -> Collection[int]:
        """The MoE layers it serves."""
        return self._parts.keys()

    def close(self) -> None:
        """Refuse all further requests; the reader may be closed after this."""
        self.closed = True

    def tell(self, event: Event) -> None:
        """Hand one event to whoever listens; `told_ns` is what all of that took so far."""
        begin = self.clock()
        self.sink(event)
        self.told_ns += self.clock() - begin

    def enter(self) -> None:
        """Called before every layer.

        Raises:
            Stopped: the run was asked to stop.
            EngineClosed: the readers are gone.
        """
        if self.stop.is_set():
            raise Stopped
        if self.closed:
            raise EngineClosed("this model's engine was closed: load the model again")

    def slot_map(self, layer: int) -> mx.array | None:
        """Expert → slot as uint32 [experts], once all of `layer` is held for good; before, None.

        Whoever changes the bank's size or moves its rows must `forget_slot_maps`.
        """
        return self._slot_maps.get(layer)

    def forget_slot_maps(self) -> None:
        """No layer is held for good any more, until the next reading finds it is."""
        self._slot_maps.clear()

    def load_all(self, each: Callable[[], object]) -> None:
        """Read every expert, in the order of layers and experts; `each` is called after a layer.

        There must be a slot for each.
        """
        for layer, parts in self._parts.items():
            self.bank.settle()
            self.acquire([ExpertKey(layer, expert) for expert in range(parts[0].experts)])
            each()

    def acquire(self, keys: Sequence[ExpertKey]) -> dict[ExpertKey, int]:
        """Make `keys` resident, at most as many as there are slots, and say where they sit.

        The bank must be settled. Whatever goes wrong, every slot is held or free again.

        Raises:
            ReadFailed: an expert could not be read; those that could stay resident.
        """
        plan = self.table.reserve(keys)
        slots = dict(plan.hits)
        if plan.placements:
            self._fetch(plan.placements)
            slots.update((placement.key, placement.slot) for placement in plan.placements)
        if self.table.capacity >= self._experts:  # then nobody ever leaves
            for layer in {key.layer for key in slots} - self._slot_maps.keys():
                self._map_if_whole(layer)
        return slots

    def resize(self, slots: int, bind: Callable[[str, mx.array], object]) -> None:
        """Have `slots` slots. The bank must be settled; see `SlotBank.resize` for `bind`.

        At every moment table and bank agree on the slots both have, so that a failure leaves a
        pager that works.
        """
        self.forget_slot_maps()
        if slots < self.table.capacity:
            self.bank.move(self.table.shrink(slots))
        self.bank.resize(slots, bind)
        if slots > self.table.capacity:
            self.table.grow(slots)

    def _map_if_whole(self, layer: int) -> None:
        keys = [ExpertKey(layer, expert) for expert in range(self._parts[layer][0].experts)]
        if all(key in self.table for key in keys):
            held = self.table.reserve(keys).hits
            self._slot_maps[layer] = mx.array([held[key] for key in keys], mx.uint32)

    def _fetch(self, placements: Sequence[Placement]) -> None:
        begin = self.clock()
        reads = [self._executor.submit(self._read, placement) for placement in placements]
        try:
            wait(reads)
        finally:
            # Also after a KeyboardInterrupt: a thread may still write into a booked slot, so
            # wait for all of them before any slot changes hands.
            wait(reads)
            waited = self.clock()
            installed = self._install(placements, reads)
        self._tell_fetched(placements, reads, waited - begin, installed - waited)
        for read in reads:
            read.result()  # raises the first failure, if any

    def _read(self, placement: Placement) -> tuple[int, int, int]:
        """On a reader thread: (bytes, start, nanoseconds) of one expert's tensors."""
        start = self.clock()
        (layer, expert), slot, _ = placement
        nbytes = read_expert(
            self._reader, self._parts[layer], expert, lambda part: self.bank.row(part, slot)
        )
        return nbytes, start, self.clock() - start

    def _install(
        self, placements: Sequence[Placement], reads: Sequence[Future[tuple[int, int, int]]]
    ) -> int:
        good = [read.exception() is None for read in reads]
        self.bank.commit([p.slot for p, ok in zip(placements, good, strict=True) if ok])
        for placement, ok in zip(placements, good, strict=True):
            if ok:
                self.table.commit(placement)
            else:
                self.table.release(placement)
        return self.clock()

    def _tell_fetched(
        self,
        placements: Sequence[Placement],
        reads: Sequence[Future[tuple[int, int, int]]],
        wait_ns: int,
        install_ns: int,
    ) -> None:
        for placement, read in zip(placements, reads, strict=True):
            (layer, expert), slot, evicted = placement
            if evicted is not None:
                self.tell(Evicted(*evicted, slot, layer, expert))
            if read.exception() is None:
                nbytes, start, ns = read.result()
                self.tell(PagedIn(layer, expert, slot, nbytes, start, ns))
        self.tell(Waited(placements[0].key.layer, wait_ns, install_ns))


def _nobody(event: Event) -> None:
    """The sink between runs."""
