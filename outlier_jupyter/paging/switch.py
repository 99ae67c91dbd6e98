"""The paged switch: replaces mlx-lm's SwitchGLU or SwitchMLP in one MoE layer.

It reads the router's ids back from the device (the one synchronisation per MoE layer), has the
pager make those experts resident, and calls the original module over the bank with slot ids in
place of expert ids. Activation, expert biases and the sorting of long prompts stay mlx-lm's own.

Once all experts of a layer are resident for good, nothing is read back: slot ids are looked up on
the device, nothing is evaluated, and the tap reads the ids when the call ends.

Native modules compute while misses are read: first with the hits, then with each group that lands.
MLX's lazy graphs are built when all experts are resident.

A prompt may need more distinct experts than there are slots. Its experts are then processed in
parts that fit, in as many passes as that takes; the arithmetic of a row does not depend on it. The
experts that a layer of the prompt used most stay resident, up to the layer's share of the slots, so
that decode starts warm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from functools import partial
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten
from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchLinear

from ..events import Routed
from ..residency import ExpertKey
from .fetch import Fetch
from .lookahead import Lookahead
from .ownership import OWNS_ALL, Combine, Owner, as_it_is
from .pager import Pager
from .partial_experts import PartialExperts
from .router_tap import RouterTap
from .routing_override import LayerOverride
from .shared_expert import OverlappedSharedExpert
from .switch_inputs import F32s, Ids, LazyInputs, SlotMap, Stopwatch, SwitchInputs, TokenInputs

PROJECTIONS = (SwitchLinear, QuantizedSwitchLinear)


def expert_tensors(switch: nn.Module) -> dict[str, mx.array]:
    """A switch's tensors with one row per expert, [experts, …], by name below the switch."""
    tensors: dict[str, mx.array] = {}
    for name, child in switch.children().items():
        if isinstance(child, PROJECTIONS):
            found: Any = tree_flatten(child.parameters(), prefix=f".{name}", destination={})
            tensors |= found
    return tensors


class PagedSwitch(nn.Module):
    """Called as the switch it replaces: x [..., width], indices [..., k] → [..., k, width]."""

    def __init__(self, inner: nn.Module, layer: int, experts: int, pager: Pager, tap: RouterTap):
        super().__init__()  # type: ignore[no-untyped-call]  # mlx.nn's has no types
        # Kept outside the module's own dictionary, or the bank, which all layers share, would be
        # counted once per layer by whatever walks the model (MLX's wired limit, a save).
        object.__setattr__(self, "_inner", inner)
        self._inner: Any
        # And these, or they would be taken for parameters.
        object.__setattr__(self, "_keys", [ExpertKey(layer, each) for each in range(experts)])
        self._keys: list[ExpertKey]
        self._layer = layer
        self._pager = pager
        self._timed = Stopwatch(pager.clock)  # of the experts' own module
        self._tap = tap
        self._owner: Owner = OWNS_ALL
        self._combine: Combine = as_it_is
        self._override: LayerOverride | None = None
        self._lookahead: Lookahead | None = None
        self._next_lookahead: Lookahead | None = None
        self._shared_expert: OverlappedSharedExpert | None = None
        # Other children with weights (muse_spark hangs a norm on its switch) stay in the model.
        for name, child in inner.children().items():
            if not isinstance(child, PROJECTIONS) and tree_flatten(child):
                self[name] = child

    def overlap_shared_expert(self, shared: OverlappedSharedExpert | None) -> None:
        """Compute the block's shared expert while this layer's experts are read."""
        self._shared_expert = shared

    def predict_next(self, lookahead: Lookahead | None) -> None:
        """Predict the next layer's experts from this layer's input, and prefetch them."""
        self._next_lookahead = lookahead

    def check_predictions(self, lookahead: Lookahead | None) -> None:
        """Compare the predictions for this layer with what its router chooses."""
        self._lookahead = lookahead

    def share_out(self, owner: Owner, combine: Combine) -> None:
        """Compute only the experts that `owner` gives this process, and `combine` the outputs."""
        self._owner, self._combine = owner, combine

    def override_routing(self, override: LayerOverride | None) -> None:
        """Check each choice of the router against `override`, until it is None again."""
        self._override = override

    def __getattr__(self, name: str) -> object:
        """The original switch's other attributes stay reachable."""
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return getattr(self._inner, name)

    def __call__(
        self, x: mx.array, indices: mx.array, meanwhile: Callable[[], object] | None = None
    ) -> mx.array:
        """As the switch it replaces.

        Args:
            meanwhile: called once, while reads are under way if there are any. Without it, a
                native module has its block's shared expert computed then.
        """
        output: mx.array = self._serve(LazyInputs(x, indices), meanwhile)
        return output

    def decode(
        self, x: F32s, ids: Ids, weights: F32s, meanwhile: Callable[[], object] | None = None
    ) -> F32s:
        """The same for one token of a native decoder layer, without MLX.

        Args:
            x, ids, weights: [1, width], [1, k] with no expert twice, [1, k]. The weights are
                reported to the trace, not applied; they must not change during the call.

        Returns:
            float32 [1, k, width].
        """
        output: F32s = self._serve(TokenInputs(x, ids, weights), meanwhile)
        return output

    @property
    def inner(self) -> Any:
        """The original switch, which computes over the bank's slots."""
        return self._inner

    @property
    def resident_map(self) -> SlotMap | None:
        """Expert → slot, if the layer is resident for good and its routing is not overridden."""
        return self._slot_map() if self._override is None else None

    def choice_buffers(self, k: int) -> tuple[Ids, F32s]:
        """The memory that a native layer writes its choice to: ids and weights, both [1, k]."""
        return self._tap.resident.buffers(self._layer, k)

    def decode_resident(self, k: int, compute: Callable[[], object]) -> None:
        """`decode` of a layer with a `resident_map`: the caller's `compute` does the arithmetic.

        Ids and weights for the trace stay in `choice_buffers(k)` until the call ends.
        """
        pager = self._pager
        pager.check_running()
        begin = pager.clock()
        compute()
        self._tap.note((k, self._layer, begin, pager.clock() - begin))

    def _serve(self, inputs: SwitchInputs, meanwhile: Callable[[], object] | None) -> Any:
        pager, timed = self._pager, self._timed
        pager.check_running()
        begin, report_begin, timed.ns = pager.clock(), pager.report_ns, 0
        if self._override is not None:
            self._override.check(np.array(inputs.indices))
        slot_map = self._slot_map()
        if slot_map is not None:
            if meanwhile is not None:
                timed(meanwhile)
            self._tap.record_ids(self._layer, inputs.indices)
            output = timed(inputs.compute_resident, self._inner, slot_map)
        else:
            output = self._combine(self._paged(inputs, begin, meanwhile))
        output = inputs.tap_weights(self._tap, self._layer, output)
        report_ns, spent = pager.report_ns - report_begin, pager.clock() - begin
        self._tap.record_served(self._layer, begin, spent, timed.ns, report_ns)
        return output

    def _paged(
        self, inputs: SwitchInputs, begin: int, meanwhile: Callable[[], object] | None
    ) -> Any:
        """Read the ids back, make their experts resident, compute."""
        ids = inputs.ids(self._pager.bank)
        routed = self._pager.clock()
        serve = self._token if ids.size == ids.shape[-1] else self._prompt
        return serve(inputs, ids, (begin, routed), meanwhile)

    def _token(
        self,
        inputs: SwitchInputs,
        ids: Ids,
        times: tuple[int, int],
        meanwhile: Callable[[], object] | None,
    ) -> Any:
        """Serve one token: its few experts fit the slots, and the next layer's can be predicted."""
        pager = self._pager
        keys, report = self._request(ids, sorted(set(ids.ravel().tolist())), times)
        outcomes = pager.resolve_prefetched(keys)
        if self._lookahead is not None and self._may_predict(self._lookahead):
            self._lookahead.learn(inputs.array(), ids, outcomes)
        parts = pager.table.split(keys)
        if len(parts) > 1:  # fewer slots than experts of a token
            output = self._passes(inputs, ids, parts, None, meanwhile, report)
            self._prefetch_next(inputs, True)
            return output
        work: PartialExperts | None = None
        with pager.fetch(keys) as fetch:
            report()  # while the reads that have begun go on
            prefetched = self._prefetch_next(inputs, fetch.landed)
            overlap = self._overlaps(fetch)
            self._compute_beside(inputs, overlap, meanwhile)
            if overlap or not self._owns_all:
                work = inputs.partial(self._inner, pager.bank)
                for slots in fetch.arrivals():
                    prefetched = prefetched or self._prefetch_next(inputs, fetch.landed)
                    self._timed(self._compute_group, work, ids, slots)
        if not prefetched:
            self._prefetch_next(inputs, True)
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
        self._pager.resolve_prefetched(keys)
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
        keys = [self._keys[expert] for expert in self._owner.owned(self._layer, experts)]
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
                        self._timed(self._compute_group, work, ids, slots)
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
        elif overlap and self._shared_expert is not None:
            self._timed(self._shared_expert.compute, inputs.array())

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
        return self._timed(
            inputs.compute, self._inner, self._slot_ids(ids, slot_of), self._pager.bank
        )

    @property
    def _owns_all(self) -> bool:
        return self._owner is OWNS_ALL

    def _slot_map(self) -> SlotMap | None:
        """Expert → slot once nothing has to be looked up or combined any more."""
        return self._pager.slot_map(self._layer) if self._owns_all else None

    def _prefetch_next(self, inputs: SwitchInputs, idle: bool) -> bool:
        """Prefetch for the next layer if the disk is `idle`; returns `idle`."""
        if idle and self._next_lookahead is not None and self._may_predict(self._next_lookahead):
            self._next_lookahead.prefetch(inputs.array())
        return idle

    def _may_predict(self, lookahead: Lookahead) -> bool:
        """Whether `lookahead` predicts for the kind of module this layer computes with."""
        return self._native or not lookahead.native_only

    @property
    def _native(self) -> bool:
        """Whether the module computes when it is called, and so can compute in parts for free."""
        return hasattr(self._inner, "parts")

    def _compute_group(
        self, work: PartialExperts, ids: Ids, slots: Mapping[ExpertKey, int]
    ) -> None:
        """Compute all (token, expert) pairs of the call whose experts are in `slots`."""
        if not slots:
            return
        if ids.size < len(self._keys):  # one token: few ids, looked up one by one
            slot_of = {key.expert: slot for key, slot in slots.items()}
            pairs = [(i, slot_of[e]) for i, e in enumerate(ids.ravel().tolist()) if e in slot_of]
            mine, found = np.array(pairs, np.int64).reshape(-1, 2).T
            work.add(mine, found)
            return
        found = self._slot_array(slots)[ids.ravel()]
        mine = np.flatnonzero(found >= 0)
        work.add(mine, found[mine])

    def _slot_ids(self, ids: Ids, slot_of: Mapping[ExpertKey, int]) -> Ids:
        """The slots of ids [..., k], all of which are resident."""
        if ids.size < len(self._keys):  # one token, as above
            few = [slot_of[self._keys[each]] for each in ids.ravel().tolist()]
            return np.array(few, np.int64).reshape(ids.shape)
        return self._slot_array(slot_of)[ids]

    def _slot_array(self, slot_of: Mapping[ExpertKey, int]) -> Ids:
        """Expert id → slot, int64 [experts]; -1 where an expert is not in `slot_of`."""
        slots = np.full(len(self._keys), -1, np.int64)
        slots[[key.expert for key in slot_of]] = list(slot_of.values())
        return slots
