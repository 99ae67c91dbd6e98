"""The pager: makes experts resident. It looks them up, reads misses into slots, reports events.

One pager serves all layers whose experts have the same geometry. It does not choose what is evicted
(residency does) and knows nothing about what the experts compute.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager

import mlx.core as mx
import numpy as np

from ..checkpoint import ExpertPart, KernelQueue, Reader, read_expert
from ..errors import EngineClosed
from ..events import Event, Sink
from ..residency import ExpertKey
from ..residency.slot_table import Lookup, Placement, SlotTable
from ..residency.table_order import slots_of
from .batch_call import BatchCall
from .fetch import Fetch, Read, ReadResult
from .record_fetch import QueuedReads
from .slot_bank import SlotBank
from .switch_inputs import SlotMap
from .token_paging import TokenPaging


class Stopped(Exception):
    """Ends a run between two layers, after `Pager.stop` was set. Never leaves the engine."""


class StopFlag(threading.Event):
    """An event that compiled code sees, too.

    Attributes:
        number: int64 [1], 1 while it is set.
    """

    def __init__(self) -> None:
        super().__init__()
        self.number = np.zeros(1, np.int64)

    def set(self) -> None:
        """As `threading.Event`'s."""
        self.number[0] = 1
        super().set()

    def clear(self) -> None:
        """As `threading.Event`'s."""
        self.number[0] = 0
        super().clear()


class Pager:
    """Brings experts into slots.

    Args:
        parts: MoE layer → the tensors of its experts on disk.
        bank, table: the slots' memory and the table of what is in them, of the same number of
            slots.
        reader: reads byte ranges; called on the executor's threads.
        clock: nanoseconds, monotonic.
        overlap: whether hits are computed while misses are read.
        queue: the kernel's queue of asynchronous reads, if there is one.

    Attributes:
        stop: set from any thread to end the run before the next layer.
        sink: receives the events of a run.
        report_ns: nanoseconds spent in `sink` so far.
        parts: as the argument.
        queued: its reads in the kernel's queue, if there is one.
        token: what compiled code needs to page a token's layers.
        batch: of a call that serves several prompts at once; None for all others.
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
        self.stop = StopFlag()
        self.closed = False
        self.overlap = overlap
        self.report_ns = 0
        self.sink: Sink = _no_sink
        self._current: Fetch | None = None
        self.parts = parts
        self.reader = reader
        self._executor = executor
        self._experts = sum(layer[0].experts for layer in parts.values())
        self._slot_maps: dict[int, SlotMap] = {}
        self.queued = (
            None if queue is None
            else QueuedReads(
                queue, lambda where: self.reader.kernel_readable(where),
                parts, bank, clock, self.submit,
            )
        )  # fmt: skip
        self.token = TokenPaging(self)
        self.batch: BatchCall | None = None

    @property
    def layer_count(self) -> int:
        """How many layers share the slots."""
        return len(self.parts)

    @property
    def layers(self) -> Collection[int]:
        """The MoE layers that this pager serves."""
        return self.parts.keys()

    def close(self) -> None:
        """Refuse all further requests; the reader may be closed after this."""
        self.closed = True
        if self.queued is not None:
            self.queued.close()

    def release(self) -> None:
        """Close, and free the bank's memory; no read may be under way."""
        self.close()
        self.sink = _no_sink
        self.forget_slot_maps()
        self.bank.release()

    def report(self, event: Event) -> None:
        """Send one event to the sink, and add the time that takes to `report_ns`."""
        begin = self.clock()
        self.sink(event)
        self.report_ns += self.clock() - begin

    def check_running(self) -> None:
        """Check, before every layer, that the run may go on.

        Raises:
            Stopped: `stop` is set.
            EngineClosed: the pager is closed.
        """
        if self.stop.is_set():
            raise Stopped
        if self.closed:
            raise EngineClosed("this model's engine was closed: load the model again")

    def slot_map(self, layer: int) -> SlotMap | None:
        """Expert → slot, once `layer` is fully resident; before, None.

        Code that resizes the bank or moves its rows must call `forget_slot_maps`.
        """
        return self._slot_maps.get(layer)

    def forget_slot_maps(self) -> None:
        """Treat no layer as fully resident until the next fetch finds that it is."""
        self._slot_maps.clear()
        self.token.forget()

    def load_all(self, each: Callable[[], object]) -> None:
        """Read every expert, in the order of layers and experts; call `each` after each layer.

        There must be a slot for every expert.
        """
        for layer, parts in self.parts.items():
            self.bank.settle()
            self.acquire([ExpertKey(layer, expert) for expert in range(parts[0].experts)])
            each()

    @contextmanager
    def fetch(self, keys: Sequence[ExpertKey]) -> Iterator[Fetch]:
        """Make `keys` resident, at most as many as there are slots, while the context lasts.

        The bank must be settled. Inside the context, `Fetch.arrivals` yields the experts that can
        be computed with. On exit, also by an exception, every slot is resident or free again.

        Raises:
            ReadFailed: on exit, if an expert could not be read; the others stay resident.
        """
        self.finish()
        with self.reading(self.table.reserve(keys), self._start) as fetch:
            yield fetch
        for layer in {key.layer for key in fetch.slots}:
            self.map_if_resident(layer)

    @contextmanager
    def reading(
        self, plan: Lookup, start: Callable[[Sequence[Placement]], Iterable[Read]]
    ) -> Iterator[Fetch]:
        """The fetch of a lookup whose reads `start` begins, as long as the context lasts.

        On exit every slot is resident or free again, as of `fetch`.
        """
        fetch = self._current = Fetch(
            plan, self.bank, self.table,
            at_once=not self.overlap, clock=self.clock, report=self.report,
            collect=self._collect,
        )  # fmt: skip
        try:
            fetch.begin(start)
            yield fetch
        finally:
            self.finish()
        fetch.check()

    def finish(self) -> None:
        """Wait for the reads that an interrupt may have left under way, and commit them."""
        if self._current is not None:
            self._current.finish()
            self._current = None

    def acquire(self, keys: Sequence[ExpertKey]) -> dict[ExpertKey, int]:
        """Make `keys` resident and return their slots: `fetch`, waited for."""
        with self.fetch(keys) as fetch:
            return fetch.slots

    def resize(self, slots: int, bind: Callable[[str, mx.array], object]) -> None:
        """Change the number of slots. The bank must be settled; see `SlotBank.resize` for `bind`.

        Table and bank agree at every moment on the slots that both have, so that a failure leaves
        a pager that works.
        """
        self.forget_slot_maps()
        if slots < self.table.capacity:
            self.bank.move(self.table.shrink(slots))
        self.bank.resize(slots, bind)
        if slots > self.table.capacity:
            self.table.grow(slots)

    def map_if_resident(self, layer: int) -> None:
        """Make the `slot_map` of `layer`, if all its experts are resident and none is evicted."""
        if self.table.capacity < self._experts or layer in self._slot_maps:
            return
        slots = slots_of(self.table, layer, self.parts[layer][0].experts)
        if (slots >= 0).all():
            self._slot_maps[layer] = SlotMap(mx.array(slots.astype(np.uint32)), slots)

    def _start(self, placements: Sequence[Placement]) -> Iterator[Read]:
        """Begin to read, by the kernel or on threads."""
        queued = {} if self.queued is None else self.queued.start(placements)
        for placement in placements:
            yield queued.get(placement.key) or self.submit(placement)

    def submit(self, placement: Placement) -> Future[ReadResult]:
        """Begin to read one expert on a reader thread."""
        return self._executor.submit(self._read, placement)

    def _collect(self, wait: bool) -> bool:
        """As `Fetch`'s argument `collect`."""
        return self.queued is not None and self.queued.collect(wait)

    def _read(self, placement: Placement) -> ReadResult:
        """Read one expert's tensors, on a reader thread."""
        start = self.clock()
        (layer, expert), slot, _ = placement
        nbytes = read_expert(
            self.reader, self.parts[layer], expert, lambda part: self.bank.row(part, slot)
        )
        return nbytes, start, self.clock() - start


def _no_sink(event: Event) -> None:
    """The sink between runs."""
