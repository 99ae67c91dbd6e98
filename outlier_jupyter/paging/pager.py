"""From the ids a router chose to the slots their experts sit in: plan, read, hand out, book, tell.

One pager serves all layers whose experts have the same geometry. It decides nothing about who
leaves (residency does) and knows nothing about what the experts compute.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager

import mlx.core as mx
import numpy as np

from ..checkpoint import ExpertPart, KernelQueue, Reader, read_expert
from ..errors import EngineClosed
from ..events import Event, Prefetched, Sink
from ..residency import ExpertKey
from ..residency.slot_table import Placement, SlotTable
from .fetch import Ended, Fetch, Read
from .record_fetch import QueuedReads
from .slots import SlotBank
from .staging import Fate, Staging
from .switch_inputs import SlotMap


class Stopped(Exception):
    """The run was asked to stop, and does so between two layers. Never leaves the engine."""


class Pager:
    """Brings experts into slots.

    Args:
        parts: MoE layer → the tensors of its experts on disk.
        bank, table: the memory and the booking of the same number of slots, those aside included.
        reader: reads byte ranges; called on the executor's threads.
        clock: nanoseconds, monotonic.
        overlap: whether what is held may be computed with while the rest is read.
        queue: where the kernel reads by itself what it can, if there is one.
    """

    def __init__(
        self,
        parts: Mapping[int, Sequence[ExpertPart]],
        bank: SlotBank,
        table: SlotTable,
        reader: Reader,
        executor: Executor,
        clock: Callable[[], int],
        overlap: bool = True,
        queue: KernelQueue | None = None,
    ) -> None:
        self.bank = bank
        self.table = table
        self.clock = clock
        self.stop = threading.Event()
        self.closed = False
        self.overlap = overlap
        self.report_ns = 0
        self.sink: Sink = _nobody
        self._under_way: Fetch | None = None
        self._parts = parts
        self._reader = reader
        self._executor = executor
        self._experts = sum(layer[0].experts for layer in parts.values())
        self._slot_maps: dict[int, SlotMap] = {}
        self._staging = Staging(table, bank, executor, self._read)
        self._queued = (
            None if queue is None
            else QueuedReads(
                queue, lambda where: self._reader.straight(where), parts, bank, clock, self._submit
            )
        )  # fmt: skip

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
        if self._queued is not None:
            self._queued.close()

    def release(self) -> None:
        """Close, and let go of the bank's memory; no read may be under way."""
        self.close()
        self.sink = _nobody
        self.forget_slot_maps()
        self.bank.release()

    def tell(self, event: Event) -> None:
        """Hand one event to whoever listens; `report_ns` is what all of that took so far."""
        begin = self.clock()
        self.sink(event)
        self.report_ns += self.clock() - begin

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

    def slot_map(self, layer: int) -> SlotMap | None:
        """Expert → slot, once all of `layer` is held for good; before, None.

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

    @contextmanager
    def fetch(self, keys: Sequence[ExpertKey]) -> Iterator[Fetch]:
        """Make `keys` resident, at most as many as there are slots, while the context lasts.

        The bank must be settled. Inside the context, `Fetch.arrivals` hands out what can be
        computed with; when it is left, however that happens, every slot is held or free again.

        Raises:
            ReadFailed: on leaving, an expert could not be read; those that could stay resident.
        """
        self.finish()
        plan, early = self._staging.take(self.table.reserve(keys))
        fetch = self._under_way = Fetch(
            plan, self.bank, self.table,
            whole=not self.overlap, clock=self.clock, tell=self.tell, reap=self._reap,
        )  # fmt: skip
        try:
            fetch.begin(lambda placements: self._start(placements, early))
            yield fetch
        finally:
            self.finish()
        fetch.check()
        if self.table.capacity >= self._experts:  # then nobody ever leaves
            for layer in {key.layer for key in fetch.slots} - self._slot_maps.keys():
                self._map_if_whole(layer)

    def finish(self) -> None:
        """Wait for the reads that an interrupt may have left under way, and book them."""
        if self._under_way is not None:
            self._under_way.finish()
            self._under_way = None

    def foresee(self, keys: Sequence[ExpertKey]) -> list[ExpertKey]:
        """Begin to read `keys`, which a layer to come may ask for; those that were begun.

        None of them is held by it, nor is anything evicted. Reads only what is neither held nor
        coming, while there are slots aside, and nothing if any other read is under way.
        """
        if self.closed or not (self._under_way is None or self._under_way.landed):
            return []
        return self._staging.begin(keys)

    def looked_up(self, keys: Sequence[ExpertKey]) -> list[Fate]:
        """A router has chosen `keys`: what else was foreseen is dropped, and all of it is told."""
        fates = self._staging.looked_up(keys)
        for (layer, expert), used, nbytes in fates:
            self.tell(Prefetched(layer, expert, nbytes, used))
        return fates

    def forget_predicted(self) -> None:
        """Drop what was foreseen, and wait until nothing of it is being read."""
        self._staging.clear()

    def acquire(self, keys: Sequence[ExpertKey]) -> dict[ExpertKey, int]:
        """Make `keys` resident and say where they sit: `fetch`, waited for."""
        with self.fetch(keys) as fetch:
            return fetch.slots

    def resize(self, slots: int, bind: Callable[[str, mx.array], object]) -> None:
        """Have `slots` slots. The bank must be settled; see `SlotBank.resize` for `bind`.

        At every moment table and bank agree on the slots both have, so that a failure leaves a
        pager that works.
        """
        self.forget_slot_maps()
        self.forget_predicted()
        self.bank.move(self.table.straighten())
        if slots < self.table.capacity:
            self.bank.move(self.table.shrink(slots))
        self.bank.resize(slots + len(self.table.aside), bind)
        if slots > self.table.capacity:
            self.table.grow(slots)

    def _map_if_whole(self, layer: int) -> None:
        keys = [ExpertKey(layer, expert) for expert in range(self._parts[layer][0].experts)]
        if all(key in self.table for key in keys):
            held = self.table.reserve(keys).hits
            slots = np.array([held[key] for key in keys], np.int64)
            self._slot_maps[layer] = SlotMap(mx.array(slots.astype(np.uint32)), slots)

    def _start(
        self, placements: Sequence[Placement], early: Mapping[ExpertKey, Read]
    ) -> Iterator[Read]:
        """Have experts read, by the kernel or by threads, but for those that were begun `early`."""
        late = [place for place in placements if place.key not in early] if early else placements
        queued = {} if self._queued is None else self._queued.start(late)
        for placement in placements:
            read = early.get(placement.key) or queued.get(placement.key)
            yield read or self._submit(placement)

    def _submit(self, placement: Placement) -> Future[Ended]:
        return self._executor.submit(self._read, placement)

    def _reap(self, wait: bool) -> bool:
        """As `Fetch` asks it."""
        return self._queued is not None and self._queued.reap(wait)

    def _read(self, placement: Placement) -> Ended:
        """On a reader thread: (bytes, start, nanoseconds) of one expert's tensors."""
        start = self.clock()
        (layer, expert), slot, _ = placement
        nbytes = read_expert(
            self._reader, self._parts[layer], expert, lambda part: self.bank.row(part, slot)
        )
        return nbytes, start, self.clock() - start


def _nobody(event: Event) -> None:
    """The sink between runs."""
