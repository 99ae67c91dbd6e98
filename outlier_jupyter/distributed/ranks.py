"""The ranks of one model: load it, compute its layers, resize, and what is resident."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from ..errors import OutlierError, RankLost
from ..residency.placement import Placement
from .hosts import Host
from .layer_report import BUSY_US, CHECK, FAILED, GONE_LAYER, READS, LayerReport, check_word
from .messages import Message, Payload
from .rank_group import LOAD_S, LOAD_SILENT_S, RankGroup
from .rank_state import LayerOutput


class Ranks(RankGroup):
    """The ranks of one model. Close it, or they end with this process.

    Attributes:
        placement: the rank of each expert.
    """

    def __init__(self, hosts: Sequence[Host]) -> None:
        super().__init__(hosts)
        self.placement: Placement = []

    @property
    def slots(self) -> int:
        """Experts that fit all caches together."""
        return sum(rank.state.slots for rank in self._ranks)

    @property
    def first_slots(self) -> list[int]:
        """The number of each rank's first slot, counted on from rank to rank."""
        ends = np.cumsum([rank.state.slots for rank in self._ranks])
        return [0, *ends[:-1].tolist()]

    def load(
        self, placement: Placement, wanted: Message, each: Sequence[Message], payload: Payload = b""
    ) -> list[Message]:
        """Have all ranks load their share, and join the ring; their answers to the first.

        Args:
            wanted: the model's options.
            each: what differs from rank to rank: the model's folder.

        Raises:
            OutlierError: a rank cannot load it, or ended.
        """
        self.placement = placement
        layers = [each.tolist() for each in placement]
        messages = [
            {"do": "load", "rank": rank, "ranks": len(self), "placement": layers}
            | wanted
            | each[rank]
            for rank in range(len(self))
        ]
        found = self._all(messages, (LOAD_S, LOAD_SILENT_S), payload)
        for rank, message in zip(self._ranks, found, strict=True):
            rank.state.take(message)
        addresses = [host.address for host in self._hosts]
        self._all([{"do": "join", "addresses": addresses}] * len(self))
        return found

    def compute(
        self, layer: int, ids: npt.NDArray[np.int64], inputs: Message, x: Payload,
        meanwhile: Callable[[], object] | None = None,
    ) -> LayerOutput:  # fmt: skip
        """Have all ranks compute a layer, each its own experts; the sum of their outputs.

        Args:
            ids: [..., k].
            inputs: how `x`, the layer's input as bytes, is read.
            meanwhile: called once, while they compute.

        Raises:
            RankLost: a rank died, hung or disagreed; all are ended.
            ReadFailed: one could not read; all go on.
        """
        with self._lock:
            self._call += 1
            experts = np.unique(ids).tolist()
            message = inputs | {"do": "compute", "call": self._call, "layer": layer,
                                "ids": list(ids.shape)}  # fmt: skip
            data = ids.astype(np.int32).tobytes() + bytes(x)
            self._send([message] * len(self), data)
            if meanwhile is not None:
                meanwhile()
            answer, output = self._await_output()
            nbytes = answer["nbytes"]
            words = np.frombuffer(output, np.uint32, offset=-(-nbytes // 4) * 4)
            report = LayerReport.of(words, len(self), experts)
            self._check(report, check_word(self._call, layer, experts))
            self._count(report, layer)
        return LayerOutput(memoryview(output)[:nbytes], answer["dtype"], answer["shape"], report)

    def resize(self, cache_gb: float | str, cache_experts: int | None) -> None:
        """Give each rank's cache another size.

        Raises:
            OptionError: a rank has no memory for it; all have their earlier size again.
        """
        message = {"do": "resize", "cache_gb": cache_gb, "cache_experts": cache_experts}
        before = [message | {"cache_experts": state.slots} for state in self.states]
        try:
            self._resize([message] * len(self))
        except RankLost:
            raise
        except OutlierError:
            self._resize(before)
            raise

    def _resize(self, messages: Sequence[Message]) -> None:
        for rank, found in zip(self._ranks, self._all(messages), strict=True):
            rank.state.take(found)

    def resident(self) -> list[list[int]]:
        """The resident [layer, expert] pairs, rank by rank, each in eviction order; none of ranks
        that ended.
        """
        try:
            found = self._all([{"do": "resident"}] * len(self))
        except RankLost:
            return []
        for rank, message in zip(self._ranks, found, strict=True):
            rank.state.process_nbytes = message["process_nbytes"]
        return [pair for each in found for pair in each["resident"]]

    def _await_output(self) -> tuple[Message, bytes]:
        found: list[tuple[Message, bytes]] = []

        def take(rank: int, message: Message, payload: bytes = b"") -> None:
            if rank == 0:
                found.append((message, payload))

        self._wait(lambda: bool(found), take)
        return found[0]

    def _check(self, report: LayerReport, wanted: int) -> None:
        """Raises: a rank computed something else, or could not read."""
        for rank in range(len(self)):
            if int(report.ranks[rank, CHECK]) != wanted:
                raise self._lost(rank, "disagrees with the others on what is computed")
        failed = np.flatnonzero(report.ranks[:, FAILED]).tolist()
        if failed:
            [message] = self._failures(failed[0])
            raise self._error_of(failed[0], message)

    def _failures(self, rank: int) -> list[Message]:
        """Why the newest computation failed on `rank`."""
        connection = self._ranks[rank].process.connection
        connection.send({"do": "why", "call": self._call})
        found: list[Message] = []

        def take(number: int, message: Message, payload: bytes = b"") -> None:
            if number == rank and "error" in message:
                found.append(message)

        self._wait(lambda: bool(found), take)
        return found

    def _count(self, report: LayerReport, layer: int) -> None:
        evicted = np.array(report.experts)[report.rows[:, GONE_LAYER] > 0]
        gone = np.bincount(self.placement[layer][evicted], minlength=len(self)).tolist()
        nbytes = [rank.state.expert_nbytes / max(1, rank.state.experts) for rank in self._ranks]
        rows = zip(self._ranks, report.ranks.tolist(), nbytes, gone, strict=True)
        for rank, words, each, fewer in rows:
            rank.state.reads += words[READS]
            rank.state.resident += words[READS] - fewer
            rank.state.nbytes += round(words[READS] * each)
            rank.state.busy_s += words[BUSY_US] / 1e6
        self._ranks[int(report.ranks[:, BUSY_US].argmax())].state.awaited += 1
