"""What the ranks report of one layer, as words behind its output in the same `all_sum`.

A rank writes its own row and the rows of its own experts, and zeros elsewhere; so the sum holds
what each has written. All words are uint32, whose sums with zeros are exact for any bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..events import Event, Evicted, PagedIn, RanksServed, Routed, Waited

Words = npt.NDArray[np.uint32]

CHECK, FAILED, BUSY_US, WAIT_US, INSTALL_US, READS = range(6)
"""A rank's words: what it computed, whether it failed, microseconds from input to output, of them
waiting for reads and putting them into slots, and how many experts it read."""
RANK_WORDS = 6
STATE, SLOT, GONE_LAYER, GONE_EXPERT, START_US, NS, ORDER = range(7)
"""An expert's words: HIT or READ, its slot, what was evicted from it (plus 1; 0 for nothing), when
its read began after the input came, nanoseconds of the read, and its place among the reads."""
EXPERT_WORDS = 7
HIT, READ = 1, 2
LONGEST = (1 << 32) - 1


def size(ranks: int, experts: int) -> int:
    """Words of a report on `experts` different experts."""
    return ranks * RANK_WORDS + experts * EXPERT_WORDS


def check_word(call: int, layer: int, experts: Sequence[int]) -> int:
    """What ranks that compute the same agree on; never 0."""
    total = sum((place + 1) * expert for place, expert in enumerate(experts))
    return (call * 1_000_003 + layer * 4_099 + total) % LONGEST + 1


def written(
    ranks: int, rank: int, own: Sequence[int], experts: Sequence[int], events: Sequence[Event],
    start_ns: int,
) -> Words:  # fmt: skip
    """One rank's words.

    Args:
        own: its own words, in the order of `CHECK` …
        experts: the call's different experts, sorted.
        events: of the rank's pagers, while it served the layer.
        start_ns: when the input came, on the rank's clock.
    """
    words = np.zeros(size(ranks, len(experts)), np.uint32)
    words[rank * RANK_WORDS : (rank + 1) * RANK_WORDS] = np.minimum(own, LONGEST)
    rows = words[ranks * RANK_WORDS :].reshape(-1, EXPERT_WORDS)
    row_of = {expert: row for row, expert in enumerate(experts)}
    order = 0
    for event in events:
        if isinstance(event, Routed):
            for expert in np.unique(event.experts[event.hits]).tolist():
                rows[row_of[expert], STATE] = HIT
        elif isinstance(event, Evicted) and event.by_expert in row_of:
            row = rows[row_of[event.by_expert]]
            row[GONE_LAYER], row[GONE_EXPERT] = event.layer + 1, event.expert + 1
        elif isinstance(event, PagedIn):
            row, order = rows[row_of[event.expert]], order + 1
            since = max(0, event.start_ns - start_ns) // 1000
            row[[STATE, SLOT, START_US, NS, ORDER]] = (
                READ, event.slot, min(since, LONGEST), min(event.ns, LONGEST), order
            )  # fmt: skip
    return words


class LayerReport(NamedTuple):
    """The sum of all ranks' words, read.

    Attributes:
        ranks: [ranks, RANK_WORDS].
        rows: [experts, EXPERT_WORDS].
        experts: the call's different experts, sorted.
    """

    ranks: Words
    rows: Words
    experts: list[int]

    @classmethod
    def of(cls, words: Words, ranks: int, experts: list[int]) -> LayerReport:
        """From the words behind an output."""
        own = words[: ranks * RANK_WORDS].reshape(ranks, RANK_WORDS)
        rows = words[ranks * RANK_WORDS : size(ranks, len(experts))]
        return cls(own, rows.reshape(-1, EXPERT_WORDS), experts)

    def events(
        self, layer: int, ids: npt.NDArray[Any], times: tuple[int, int, int], nbytes: int,
        slots: Sequence[int], rank_of: npt.NDArray[np.int64], resident: Sequence[int],
    ) -> list[Event]:  # fmt: skip
        """The layer's events, as one process would report them.

        Args:
            ids: [tokens, k].
            times: when the switch was called, when the ids were there, when the input was sent.
            nbytes: bytes of an expert.
            slots: the number of the first slot of each rank, if all ranks' slots are counted on.
            rank_of: the rank of each of the layer's experts.
            resident: how many experts each rank has in its cache afterwards.
        """
        begin, routed, sent = times
        hits = np.zeros(len(rank_of), bool)
        hits[[e for e, row in zip(self.experts, self.rows, strict=True) if row[STATE] == HIT]] = (
            True
        )
        found: list[Event] = [
            Routed(layer, ids.astype(np.int32), hits[ids], routed - begin, sent - routed)
        ]
        read = np.flatnonzero(self.rows[:, STATE] == READ)
        for n in read[np.argsort(self.rows[read, ORDER], kind="stable")].tolist():
            expert, row = self.experts[n], self.rows[n].tolist()
            rank = int(rank_of[expert])
            slot = slots[rank] + row[SLOT]
            if row[GONE_LAYER]:
                gone = row[GONE_LAYER] - 1, row[GONE_EXPERT] - 1
                found.append(Evicted(*gone, slot, layer, expert))
            start = sent + 1000 * row[START_US]
            found.append(PagedIn(layer, expert, slot, nbytes, start, row[NS], rank))
        if len(read):
            found.append(Waited(layer, self.wait_ns, 1000 * int(self.ranks[:, INSTALL_US].max())))
        owners = rank_of[ids]
        hit, lookups = (
            np.bincount(each, minlength=len(self.ranks))
            for each in (owners[hits[ids]], owners.ravel())
        )
        busy = 1000 * self.ranks[:, BUSY_US].astype(np.int64)
        after = np.array(resident, np.int64)
        found.append(RanksServed(layer, busy, hit, lookups, after, rank_of))
        return found

    @property
    def wait_ns(self) -> int:
        """The longest wait for reads of any rank."""
        return 1000 * int(self.ranks[:, WAIT_US].max())
