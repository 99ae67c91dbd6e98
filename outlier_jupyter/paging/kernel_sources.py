"""Where the kernel reads each expert from and to, as numbers for compiled code.

An expert in a record is one read, into all its tensors' rows. Another is a read for each tensor
that lies in one piece: straight into its row where that is aligned as the file's reads must be, or
with its surroundings into memory beside the slots, from which it is copied. Large experts are not
copied: reader threads copy them while others are computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..checkpoint import PAGE, ByteRange, ExpertPart, Reader
from ..checkpoint.records import crc_code
from ..residency import ExpertKey
from ..residency.token_arrays import LENGTH, SKIP
from ..system.huge_pages import buffer
from .fetch import LARGE
from .record_fetch import QueuedReads, record_of
from .slot_bank import SlotBank


class KernelSources:
    """The reads of a pager's experts that the kernel's queue can make.

    Valid until the bank's memory moves or the pager gets another reader.

    Args:
        queued: None where there is no queue: then no expert has a source.
        keys: how many numbers keys have.
        k: the most experts of a token that are looked up.

    Attributes:
        reader: the pager's; `k`: as the argument.
        sources, reads, beside: as of `PagedArrays`; `find` sets them.
    """

    def __init__(
        self, reader: Reader, bank: SlotBank, queued: QueuedReads | None,
        parts: Mapping[int, Sequence[ExpertPart]], keys: int, k: int,
    ) -> None:  # fmt: skip
        self.reader, self._bank, self._queued = reader, bank, queued
        self._parts, self.k = parts, k
        recorded = all(record_of(each) is not None for each in parts.values())
        count = 1 if recorded else max(len(each) for each in parts.values())
        self.sources = np.full((keys, count, 5), -1, np.int64)
        self.reads = np.zeros((max(parts) + 1, count, 4), np.int64)
        self.beside = np.array([0, 0, crc_code()], np.int64)
        self._memory = memoryview(b"")

    def find(self, key: ExpertKey, number: int) -> bool:
        """Set the sources of an expert, by its number among the keys; False if it has none."""
        found = None if self._queued is None else self._of(key, self._queued)
        self.sources[number] = -1
        if found is None or len(found[0]) != self.sources.shape[1]:
            return False
        self.sources[number], self.reads[key.layer] = found
        length = max((source[LENGTH] for source in found[0] if source[SKIP] >= 0), default=0)
        if length > self.beside[1]:
            self._memory = buffer(length * self.k * self.sources.shape[1])
            self.beside[:2] = np.frombuffer(self._memory, np.uint8).ctypes.data, length
        return True

    def _of(
        self, key: ExpertKey, queued: QueuedReads
    ) -> tuple[list[Sequence[int]], list[Sequence[int]]] | None:
        """The expert's sources and its layer's reads."""
        memory = queued.memory(key.layer)
        if memory is not None:
            record = queued.source(key)
            if record is None or (record[2] >= 0 and not self.beside[2]):
                return None
            offset, descriptor, checksum = record
            return [(offset, descriptor, memory.nbytes, -1, checksum)], [memory]
        sources: list[Sequence[int]] = []
        reads: list[Sequence[int]] = []
        for part in self._parts[key.layer]:
            where, rows = part.range_of(key.expert), self._bank.pieces((part.name,))
            if part.in_memory is not None or where is None or rows is None:
                return None
            source = self._source(where, rows)
            if source is None:
                return None
            sources.append(source)
            reads.append((int(rows[0, 0, 0]), part.nbytes, 0, part.nbytes))
        return sources, reads

    def _source(self, where: ByteRange, rows: np.ndarray) -> Sequence[int] | None:
        """One range's source, for rows at the addresses [slots, 1, (address, bytes)]."""
        readable = self.reader.kernel_readable(where)
        if readable is not None and not (rows % readable.block).any():
            return where.offset, readable.descriptor, where.nbytes, -1, -1
        skip = where.offset % PAGE
        length = -(-(skip + where.nbytes) // PAGE) * PAGE
        around = ByteRange(where.file, where.offset - skip, length)
        readable = self.reader.kernel_readable(around) if self._bank.expert_nbytes < LARGE else None
        return None if readable is None else (around.offset, readable.descriptor, length, skip, -1)
