"""One layer's experts: from a router's ids to the output of those it chose.

A token's few experts usually fit the slots. Compiled modules compute the hits while the misses are
read, then each miss as it arrives; MLX's compute once all are resident.

A prompt may need more distinct experts than there are slots. Its tokens are then taken expert by
expert, in as many passes as it needs; the arithmetic of a row does not change with it. What a layer
of a prompt used most stays resident, up to its share of the slots, so that decode starts warm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from functools import partial
from typing import Any

import numpy as np

from ..events import Routed
from ..residency import ExpertKey
from .expert_pairs import pairs_in, slots_of_ids
from .fetch import Fetch
from .ownership import OWNS_ALL, Elsewhere, Owner
from .pager import Pager
from .partial_experts import PartialExperts
from .shared_expert import OverlappedSharedExpert
from .switch_inputs import Ids, SlotMap, Stopwatch, SwitchInputs


class PagedLayer:
    """Serves the calls of one layer's switch.

    Args:
        inner: the original switch, which computes over the bank's slots.
        experts: how many the layer has.
        timed: measures what `inner` takes.

    Attributes:
        owner: which experts are computed here; the outputs of others are zeros.
        elsewhere: computes all of them, where none is computed here.
        shared_expert: is computed while experts are read.
    """

    def __init__(
        self, inner: Any, layer: int, experts: int, pager: Pager, timed: Stopwatch
    ) -> None:
        self.owner: Owner = OWNS_ALL
        self.elsewhere: Elsewhere | None = None
        self.shared_expert: OverlappedSharedExpert | None = None
        self._inner, self._layer, self._pager, self._timed = inner, layer, pager, timed
        self._keys = [ExpertKey(layer, each) for each in range(experts)]

    def slot_map(self) -> SlotMap | None:
        """Expert → slot of a fully resident layer that this process computes alone."""
        return self._pager.slot_map(self._layer) if self._owns_all else None

    @property
    def alone(self) -> bool:
        """Whether a lookup and its reads are all there is to do, as compiled code can."""
        return self._owns_all

    def serve(
        self, inputs: SwitchInputs, begin: int, meanwhile: Callable[[], object] | None
    ) -> Any:
        """Read the ids back, make their experts resident, compute.

        Args:
            begin: when the switch was called.
            meanwhile: as `PagedSwitch.__call__`.
        """
        ids = inputs.ids(self._pager.bank)
        routed = self._pager.clock()
        few, batch = ids.size == ids.shape[-1], self._pager.batch
        if batch is not None:
            ids, few = batch.without_padding(ids), few or batch.decoding
        if self.elsewhere is not None:
            return self._timed(self._serve_elsewhere, inputs, ids, (begin, routed), meanwhile)
        serve = self._token if few else self._prompt
        return serve(inputs, ids, (begin, routed), meanwhile)

    def _serve_elsewhere(
        self,
        inputs: SwitchInputs,
        ids: Ids,
        times: tuple[int, int],
        meanwhile: Callable[[], object] | None,
    ) -> Any:
        """The output that other processes compute; their wait for reads is not the experts'."""
        assert self.elsewhere is not None
        output, wait_ns = self.elsewhere.serve(self._layer, inputs, ids, times, meanwhile)
        self._timed.ns -= wait_ns
        return output

    def _token(
        self,
        inputs: SwitchInputs,
        ids: Ids,
        times: tuple[int, int],
        meanwhile: Callable[[], object] | None,
    ) -> Any:
        """Serve one token, or each prompt's next one: their few experts usually fit the slots."""
        pager = self._pager
        keys, report = self._request(ids, sorted(set(ids.ravel().tolist())), times)
        parts = pager.table.split(keys)
        if len(parts) > 1:  # fewer slots than experts of a token
            return self._passes(inputs, ids, parts, None, meanwhile, report)
        work: PartialExperts | None = None
        with pager.fetch(keys) as fetch:
            report()  # while the reads that have begun go on
            overlap = self._overlaps(fetch)
            self._compute_beside(inputs, overlap, meanwhile)
            if overlap or not self._owns_all:
                work = inputs.partial(self._inner, pager.bank)
                for slots in fetch.arrivals():
                    self._timed(self._add, work, ids, slots)
        return self._output(inputs, ids, work, fetch.slots)

    def _prompt(
        self,
        inputs: SwitchInputs,
        ids: Ids,
        times: tuple[int, int],
        meanwhile: Callable[[], object] | None,
    ) -> Any:
        """Serve many tokens: in as many passes as their experts need, the most used kept."""
        table = self._pager.table
        experts, counts = (found.tolist() for found in np.unique(ids, return_counts=True))
        tokens_of = dict(zip(experts, counts, strict=True))
        keys, report = self._request(ids, experts, times)
        uses = {key: tokens_of[key.expert] for key in keys}
        keep = table.most_used(self._layer, uses, self._pager.layer_count)
        return self._passes(inputs, ids, table.split(keys, uses), keep, meanwhile, report)

    def _request(
        self, ids: Ids, experts: list[int], times: tuple[int, int]
    ) -> tuple[list[ExpertKey], Callable[[], object]]:
        """The keys of the `experts` that are computed here, and what reports the choice.

        Args:
            times: when the switch was called, and when the ids were there.
        """
        keys = [self._keys[expert] for expert in self.owner.owned(self._layer, experts)]
        hits = [key.expert for key in keys if key in self._pager.table]
        rows = ids.reshape(-1, ids.shape[-1])
        self._pager.table.routed(self._layer, rows)
        return keys, partial(self._report_routed, rows, hits, *times)

    def _report_routed(self, experts: Ids, resident: list[int], begin: int, routed: int) -> None:
        """Report the choice `experts` [tokens, k]; those in `resident` were hits."""
        hits = np.zeros(len(self._keys), bool)
        hits[resident] = True
        self._pager.report(
            Routed(
                layer=self._layer,
                experts=experts.astype(np.int32),
                hits=hits[experts],
                route_ns=routed - begin,
                lookup_ns=self._pager.clock() - routed,
            )
        )

    def _passes(
        self,
        inputs: SwitchInputs,
        ids: Ids,
        parts: list[tuple[ExpertKey, ...]],
        keep: Set[ExpertKey] | None,
        meanwhile: Callable[[], object] | None,
        report: Callable[[], object],
    ) -> Any:
        """Fetch the experts part by part, and compute with each part.

        Args:
            keep: the experts of this layer that stay resident after use; None for all.
            report: reports the choice; called once the first reads have begun, to overlap them.
        """
        pager = self._pager
        work: PartialExperts | None = None
        parts = parts or [()]  # where none of the experts is computed here
        for number, part in enumerate(parts):
            if number:  # what the last part computes must be done before its slots are written
                pager.bank.settle()
            with pager.fetch(part) as fetch:
                overlap = self._overlaps(fetch)
                if number == 0:
                    report()
                    self._compute_beside(inputs, overlap, meanwhile)
                if len(parts) > 1 or overlap or not self._owns_all:
                    work = work or inputs.partial(self._inner, pager.bank)
                    for slots in fetch.arrivals():
                        self._timed(self._add, work, ids, slots)
            if keep is not None:
                # This only changes the eviction order: nothing is written before the bank is
                # settled again.
                pager.table.demote_except(self._layer, keep)
        return self._output(inputs, ids, work, fetch.slots)

    def _overlaps(self, fetch: Fetch) -> bool:
        """Whether to compute with what is there while the rest is read."""
        return bool(fetch.reads) and self._pager.overlap and self._native

    def _compute_beside(
        self, inputs: SwitchInputs, overlap: bool, meanwhile: Callable[[], object] | None
    ) -> None:
        """Compute what needs no expert, while experts are read if any are."""
        if meanwhile is not None:
            self._timed(meanwhile)
        elif overlap and self.shared_expert is not None:
            self._timed(self.shared_expert.compute, inputs.array())

    def _output(
        self,
        inputs: SwitchInputs,
        ids: Ids,
        work: PartialExperts | None,
        slot_of: Mapping[ExpertKey, int],
    ) -> Any:
        """What was computed in parts, or else all at once over the slots."""
        if work is not None:
            return self._timed(inputs.combined, work)
        slots = slots_of_ids(ids, slot_of, len(self._keys))
        return self._timed(inputs.compute, self._inner, slots, self._pager.bank)

    def _add(self, work: PartialExperts, ids: Ids, slot_of: Mapping[ExpertKey, int]) -> None:
        """Compute all (token, expert) pairs of the call whose experts are in `slot_of`."""
        if slot_of:
            work.add(*pairs_in(ids, slot_of, len(self._keys)))

    @property
    def _owns_all(self) -> bool:
        return self.owner is OWNS_ALL and self.elsewhere is None

    @property
    def _native(self) -> bool:
        """Whether the module computes when it is called, and so can compute in parts for free."""
        return hasattr(self._inner, "parts")
